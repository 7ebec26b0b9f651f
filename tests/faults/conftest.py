"""One small world for all trials, and the server that runs them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import tiny
from faults_harness import Commands
from terminal import told

from reincli.settings_files import to_toml


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Toy data, a backbone, settings, and a finished run; never changed: trials copy it (`copied`)."""
    root = tmp_path_factory.mktemp("world")
    tiny.write_toy(root / "toy")
    settings = tiny.settings(
        "train.iterations=4", "train.checkpoint_every=2", "train.validate_every=2",
        data=tiny.own_data(root / "toy"),
    )  # fmt: skip
    tiny.write_backbone(root / "backbone.pth", settings)
    (root / "toy.toml").write_text(to_toml(settings))
    told("train", "--config", root / "toy.toml", "--backbone", root / "backbone.pth", "--work-dir", root / "run",
         "--device", "cpu")  # fmt: skip
    told("eval", root / "run" / "last.pth", "--json", root / "scores.json", "--device", "cpu")
    return root


@pytest.fixture
def copied(world, tmp_path) -> Path:
    """A copy of the world's run, checkpoint and backbone to do harm to."""
    shutil.copytree(world / "run", tmp_path / "run")
    for name in ("backbone.pth", "toy.toml", "scores.json"):
        shutil.copy(world / name, tmp_path / name)
    shutil.copytree(world / "toy", tmp_path / "toy")
    return tmp_path


TALLY = pytest.StashKey[dict[str, list[int]]]()
"""Kind of trial -> how many were tried, and how many held."""


@pytest.fixture
def tally(pytestconfig) -> Callable[[str], AbstractContextManager[None]]:
    """Count a trial of a kind: it is held unless the body raises."""

    @contextmanager
    def count(kind: str) -> Iterator[None]:
        counted = pytestconfig.stash.setdefault(TALLY, {}).setdefault(kind, [0, 0])
        counted[0] += 1
        yield
        counted[1] += 1

    return count


def pytest_terminal_summary(terminalreporter, config) -> None:
    """Print the table of promises: tried and held, by kind and in all."""
    found = config.stash.get(TALLY, {})
    if not found:
        return
    terminalreporter.section("tried and held")
    rows = [*sorted(found.items()), ("all", [sum(column) for column in zip(*found.values(), strict=True)])]
    for kind, (tried, held) in rows:
        terminalreporter.write_line(f"{kind:<32} {tried:>5} tried {held:>5} held")


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """The server."""
    server = Commands()
    yield server
    server.close()
