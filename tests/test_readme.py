"""The README is true: its commands parse, its scores are the presets', its test commands are what is checked."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
from terminal import rein

from reincli.commands.presets import published
from reincli.data.layouts import DATASETS
from reincli.model.families import family_of
from reincli.settings_files import build_settings, load_settings, preset_names
from reincli.toml_files import tomllib

SOURCE = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/own-data.md",
    "docs/adapt.md",
    "docs/data.md",
    "docs/evaluate.md",
    "docs/unknown.md",
    "docs/backbones.md",
    "docs/minor-directions.md",
    "docs/heads.md",
    "docs/speed.md",
    "docs/export.md",
    "docs/small-backbone.md",
    "docs/architecture.md",
    "docs/cluster.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
MODULES = (
    "demo",
    "demo_ladder",
    "pretrain",
    "download",
    "prepare_data",
    "convert_weights",
    "train",
    "adapt",
    "evaluate",
    "calibrate",
    "compare",
    "visualize",
    "bench",
    "export",
    "presets",
    "doctor",
)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (SOURCE / page).read_text("utf-8"), re.M | re.S)


def shell_lines(page: str) -> list[str]:
    """Commands of the page's shell blocks, without comments and redirections."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [
        re.split(r"\s+[>|#]", line)[0].strip() for line in lines if line.strip() and not line.startswith("#")
    ]


def rein_commands() -> list[tuple[str, str]]:
    return [(page, line) for page in PAGES for line in shell_lines(page) if line.startswith("rein ")]


def score_table() -> dict[str, list[str]]:
    """Cells of the table of settings, by preset."""
    section = (SOURCE / "README.md").read_text("utf-8").split("## Settings")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", section, re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


@pytest.fixture
def _no_command_runs(monkeypatch):
    import reincli.commands

    for name in MODULES:
        fake = types.ModuleType(f"reincli.commands.{name}")
        fake.run = lambda *args, **options: None
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
        monkeypatch.setattr(reincli.commands, name, fake, raising=False)


@pytest.mark.usefixtures("_no_command_runs")
@pytest.mark.parametrize(("page", "line"), rein_commands())
def test_every_command_parses(page, line):
    result = rein(*shlex.split(line)[1:], code=None)
    assert result.exit_code == 0, f"{page}: {line}\n{result.output}"


def test_every_dataset_is_listed():
    section = (SOURCE / "README.md").read_text("utf-8").split("## Data")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)` \|", section, re.M) == list(DATASETS)


def test_each_command_is_shown():
    shown = {shlex.split(line)[1] for _, line in rein_commands()}
    known = {"demo", "pretrain", "download", "prepare-data", "convert-weights", "train", "adapt", "eval", "calibrate",
             "compare", "visualize", "bench", "presets", "doctor"}  # fmt: skip
    assert known <= shown


@pytest.mark.parametrize(("page", "line"), rein_commands())
def test_presets_and_settings_in_commands_exist(page, line):
    words = shlex.split(line)
    for option, value in itertools.pairwise(words):
        if option == "--preset":
            assert value in preset_names()
        elif option == "--set":
            build_settings({}, [value])
        elif option == "--config" and value.startswith("docs/"):
            load_settings(config=SOURCE / value)


def training_commands() -> list[tuple[str, str]]:
    """Those whose settings are a preset's or a file's of this repository."""
    lines = [(page, line) for page, line in rein_commands() if shlex.split(line)[1] in ("train", "bench")]
    return [(page, line) for page, line in lines if "--preset" in line or "--config docs/" in line]


@pytest.mark.parametrize(("page", "line"), training_commands())
def test_what_commands_set_fits_together(page, line):
    given: dict[str, list[str]] = {}
    for option, value in itertools.pairwise(shlex.split(line)):
        given.setdefault(option, []).append(value)
    preset, config = (given.get(option, [None])[0] for option in ("--preset", "--config"))
    file = SOURCE / config if config else None
    settings = load_settings(preset=preset, config=file, sets=given.get("--set", []))
    family_of(settings.model.backbone)


def test_scores_are_those_of_the_presets():
    table = score_table()
    assert set(table) == set(preset_names()) | {"demo"}
    for name in preset_names():
        assert table[name][3] == published(load_settings(preset=name)), name


def test_checks_are_those_of_the_submission():
    """What a reader is told to run is what runs before a change is taken."""
    script = (SOURCE / ".ci" / "run").read_text("utf-8").replace("--quiet ", "")
    development = shell_lines("README.md")[-6:]
    assert development[0].startswith("pip install")
    for line in development:
        assert line.replace("--quiet ", "") in script


def test_toml_examples_are_settings():
    for page in PAGES:
        for block in blocks(page, "toml"):
            raw = tomllib.loads(block)
            for own in raw.get("data", {}).get("own", {}).values():
                if len(own.get("classes", [])) < 2:  # shortened by an ellipsis
                    own["classes"] = [{"name": n, "color": [0, 0, 0]} for n in ("a", "b")]
                own.setdefault("splits", {})
            build_settings(raw)


def test_the_example_of_own_data():
    settings = load_settings(config=SOURCE / "docs" / "camvid.toml")
    own = settings.data.own["camvid"]
    assert len(own.classes) == 11
    assert {source.split(":")[1] for source in (*settings.data.train, *settings.data.val)} == set(own.splits)
    assert [own.splits[s.split(":")[1]].domain for s in settings.data.val] == ["day", "dusk", "city"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (SOURCE / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if "://" not in target:
            assert ((SOURCE / page).parent / target).exists(), target


def test_the_first_two_lines_do_all_set_up():
    """They name the environment's own programs: nothing has to be activated, nothing of the system's is changed."""
    make, check = shell_lines("README.md")[:2]
    assert [part.split()[0] for part in make.split(" && ")] == ["python3", ".venv/bin/pip", ".venv/bin/rein"]
    assert rein(*shlex.split(make.split(" && ")[2])[1:], "--help").exit_code == 0
    assert [part.split()[0] for part in check.split(" && ")] == [".venv/bin/pip", ".venv/bin/python"]
    script = (SOURCE / ".ci" / "run").read_text("utf-8").replace("--quiet ", "")
    install, fast = (
        part.removeprefix(".venv/bin/").removeprefix("python -m ") for part in check.split(" && ")
    )
    assert install in script
    assert fast in script
