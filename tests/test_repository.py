"""What stands beside the package is true: the map names what exists, the checks of a host are those of `.ci/run`."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import reincli
from reincli.settings_files import all_keys

SOURCE = Path(__file__).parents[1]
PACKAGE = Path(reincli.__file__).parent
MAP = "docs/architecture.md"
PATH = re.compile(r"[\w.-]+/(?:[\w.-]+/?)*|[\w-]+\.(?:py|md|toml|txt|yaml)")
DOTTED = re.compile(r"[a-z_]\w*(?:\.\w+)+")


def quoted(page: str) -> list[str]:
    """What a page sets as code within its text; names to be filled in are left out."""
    text = re.sub(r"^```.*?^```", "", (SOURCE / page).read_text("utf-8"), flags=re.M | re.S)
    return sorted({name for name in re.findall(r"`([^`]+)`", text) if "NAME" not in name})


def paths() -> list[tuple[str, str]]:
    pages = (MAP, "CONTRIBUTING.md", "CHANGELOG.md")
    return [(page, name) for page in pages for name in quoted(page) if PATH.fullmatch(name)]


def dotted() -> list[str]:
    return [name for name in quoted(MAP) if DOTTED.fullmatch(name) and not PATH.fullmatch(name)]


def has(owner: Any, name: str) -> bool:
    """Whether a module or class has it; a field of a dataclass without a default is no attribute of the class."""
    fields = dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ()
    return hasattr(owner, name) or name in [field.name for field in fields]


def exists(name: str) -> bool:
    """Whether a dotted name leads to something in the package: through modules, then through attributes."""
    found: Any = reincli
    for part in name.split("."):
        module = f"{found.__name__}.{part}"
        if hasattr(found, "__path__") and importlib.util.find_spec(module):
            found = importlib.import_module(module)
        elif has(found, part):
            found = getattr(found, part, None)
        else:
            return False
    return True


def test_the_map_is_rich_enough_to_be_checked():
    assert len([name for page, name in paths() if page == MAP]) > 40
    assert len(dotted()) > 40


@pytest.mark.parametrize(("page", "name"), paths())
def test_paths_exist(page, name):
    assert (SOURCE / name).exists() or (PACKAGE / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("name", dotted())
def test_dotted_names_exist(name):
    assert exists(name) or name in all_keys(), name


@pytest.mark.parametrize("name", ["model.rein.Nothing", "model.nothing.ReinAdapter", "train.nothing"])
def test_a_name_that_leads_nowhere_is_noticed(name):
    assert not exists(name)
    assert name not in all_keys()


def test_every_room_is_on_the_map():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    listed = re.findall(r"^\| `(\w+)/` \|", (SOURCE / MAP).read_text("utf-8"), re.M)
    assert sorted(listed) == sorted(rooms)


def test_the_newest_changes_are_those_of_this_version():
    versions = re.findall(r"^## (\S+)", (SOURCE / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert versions[0] in (reincli.__version__, "Unreleased")
    assert reincli.__version__ in versions


def test_the_tested_versions_can_be_installed_together():
    """PyTorch's CUDA build for Linux names one version of Triton, and pip takes no other; the CPU build names none."""
    pinned = dict(line.split("==") for line in (SOURCE / "constraints.txt").read_text("utf-8").split())
    if importlib.metadata.version("torch").partition("+")[0] != pinned["torch"]:
        pytest.skip("another PyTorch is installed")
    needs = [line for line in importlib.metadata.requires("torch") or [] if re.match(r"triton\s*==", line)]
    if not needs:
        pytest.skip("this build of PyTorch names no Triton")
    assert re.match(r"triton\s*==\s*([\d.]+)", needs[0])[1] == pinned["triton"]


# --- checks ------------------------------------------------------------------------------------------------


def read_yaml(name: str) -> Any:
    return yaml.safe_load((SOURCE / name).read_text("utf-8"))


def checks() -> list[str]:
    """The lines of `.ci/run`."""
    return (SOURCE / ".ci" / "run").read_text("utf-8").splitlines()


def test_what_runs_before_a_commit_runs_before_a_change_is_taken():
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert entries == ["ruff check .", "ruff format --check .", "mypy"]
    assert set(entries) <= set(checks())
    assert not any(hook["pass_filenames"] for hook in repository["hooks"])


def test_a_host_runs_the_checks_on_linux_and_the_fast_tests_elsewhere():
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    assert jobs["checks"]["runs-on"] == "ubuntu-latest"
    assert ".ci/run" in [step.get("run") for step in jobs["checks"]["steps"]]
    elsewhere = jobs["elsewhere"]
    assert elsewhere["strategy"]["matrix"]["os"] == ["windows-latest", "macos-latest"]
    commands = [step["run"] for step in elsewhere["steps"] if "run" in step]
    assert commands[0].startswith("python -m pip install -c constraints.txt")
    assert "import reincli" in commands[1]
    assert commands[-1] == "pytest -n 2"
    assert f"OMP_NUM_THREADS=1 {commands[-1]}" in checks()
