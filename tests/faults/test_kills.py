"""A training that is killed anywhere goes on to the outcome of one that was left in peace."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from faults_harness import Commands, Ended, outcome_of_run

SEED = 1


def train(commands: Commands, world: Path, folder: Path, **options: object) -> Ended:
    words = ["train", "--config", world / "toy.toml", "--backbone", world / "backbone.pth", "--work-dir", folder,
             "--device", "cpu", "--set", "data.workers=1"]  # fmt: skip
    return commands.run(words, world, **options)


def go_on(commands: Commands, world: Path, folder: Path) -> Ended:
    """As a user does: resume where there is something, else begin again."""
    ended = commands.run(["train", "--resume", folder, "--device", "cpu"], world)
    if ended.code and "no checkpoint yet" in ended.err + ended.out:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
        ended = train(commands, world, folder)
    return ended


@pytest.fixture(scope="module")
def peaceful(commands, world, tmp_path_factory):
    """A run left in peace: its outcome, and the changes of files on the way."""
    folder = tmp_path_factory.mktemp("peace") / "run"
    ended = train(commands, world, folder, watch=str(folder))
    assert ended.code == 0, ended.err
    return outcome_of_run(folder), ended.events


def try_kills(commands, world, root, peaceful, points):
    wanted, events = peaceful
    for point in points:
        folder = root / f"run{point}"
        killed = train(commands, world, folder, watch=str(folder), kill_at=point)
        assert killed.code == -9, killed.err
        if not (folder / "settings.toml").exists():
            continue  # nothing had begun
        resumed = go_on(commands, world, folder)
        assert resumed.code == 0, (events[point - 1], resumed.err)
        found = outcome_of_run(folder)
        for name, value in wanted.items():
            assert found[name] == value, (name, events[point - 1])


def test_a_kill_around_a_validation_loses_nothing(commands, world, tmp_path, peaceful):
    events = peaceful[1]
    near = [n for n, event in enumerate(events, 1) if "best" in event or event.endswith("log.jsonl")]
    try_kills(commands, world, tmp_path, peaceful, random.Random(SEED).sample(near, 3))


@pytest.mark.slow
def test_a_kill_at_any_change_of_a_file_loses_nothing(commands, world, tmp_path, peaceful):
    points = range(1, len(peaceful[1]) + 1)
    try_kills(commands, world, tmp_path, peaceful, points)
    print(f"seed {SEED}: {len(points)} kills tried, {len(points)} held")


@pytest.mark.parametrize("size", [20_000, 300_000])
def test_files_that_cannot_grow_are_a_sentence_and_cost_nothing_that_was_saved(commands, copied, size):
    before = (copied / "run" / "last.pth").read_bytes()
    ended = commands.run(["train", "--resume", copied / "run", "--device", "cpu", "--set", "train.iterations=8"],
                         copied, FSIZE=size)  # fmt: skip
    assert ended.code == 1
    assert ended.is_told, ended.err
    assert "Cannot write" in ended.err
    assert (copied / "run" / "last.pth").read_bytes() == before
    assert not list((copied / "run").glob(".*"))
