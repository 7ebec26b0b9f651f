"""One small world for all trials, and the server that runs them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """The server."""
    server = Commands()
    yield server
    server.close()
