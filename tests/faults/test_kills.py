"""A command that is killed anywhere, and given again, comes to the outcome of one that was left in peace."""

from __future__ import annotations

import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults_harness import Commands, Ended, outcome_of_files, outcome_of_run

from reincli.media.images import write_png

SEED = 1


@dataclass(frozen=True)
class Victim:
    """A command whose outputs lie in `{}/out`; the world lies in `world`."""

    words: str
    outcome: Callable[[Path], dict[str, Any]] = outcome_of_files


VICTIMS = {
    "train": Victim(
        "train --config world/toy.toml --backbone world/backbone.pth --work-dir {}/out --device cpu "
        "--set data.workers=1",
        lambda folder: outcome_of_run(folder / "out"),
    ),
    "eval": Victim(
        "eval world/run/last.pth --device cpu --out {}/out/maps --json {}/out/scores.json --report {}/out/page.html"
    ),
    "visualize": Victim(
        "visualize world/toy/images/val --checkpoint world/run/last.pth --device cpu --out {}/out --labels --sheet"
    ),
    "calibrate": Victim("calibrate world/run/last.pth --device cpu --out {}/out/w.pth"),
    "export": Victim("export world/run/last.pth --out {}/out/e.onnx"),
    "prepare-data": Victim("prepare-data gta {}/out --workers 1"),
}


def give(commands: Commands, world: Path, folder: Path, name: str, **options: object) -> Ended:
    """Give a command; its data lie ready."""
    if name == "prepare-data" and not (folder / "out").exists():
        for number in range(4):
            for kind in ("images", "labels"):
                shape = (16, 32, 3) if kind == "images" else (16, 32)
                write_png(folder / "out" / kind / f"{number}.png", np.full(shape, 26, np.uint8))
    words = VICTIMS[name].words.replace("{}", str(folder)).replace("world/", f"{world}/").split()
    return commands.run(words, world, **options)


def go_on(commands: Commands, world: Path, folder: Path, name: str) -> Ended:
    """As a user does: resume where there is something, else the same command again."""
    if name != "train" or not (folder / "out" / "settings.toml").exists():
        return give(commands, world, folder, name)
    ended = commands.run(["train", "--resume", folder / "out", "--device", "cpu"], world)
    if ended.code and "no checkpoint yet" in ended.err + ended.out:
        shutil.rmtree(folder / "out")
        ended = give(commands, world, folder, name)
    return ended


@pytest.fixture(scope="module")
def peace(commands, world, tmp_path_factory) -> Callable[[str], tuple[dict[str, Any], list[str], float]]:
    """Of each command when left in peace: its outcome, its changes of files, its seconds."""
    found: dict[str, tuple[dict[str, Any], list[str], float]] = {}

    def of(name: str) -> tuple[dict[str, Any], list[str], float]:
        if name not in found:
            folder = tmp_path_factory.mktemp("peace")
            ended = give(commands, world, folder, name, watch=str(folder))
            assert ended.code == 0, ended.err
            found[name] = VICTIMS[name].outcome(folder), ended.events, ended.seconds
        return found[name]

    return of


def try_kill(commands, world, root, peace, name, parts=(), **how) -> None:
    wanted, events, _ = peace(name)
    folder = root / f"{name}-{len(list(root.iterdir()))}"
    folder.mkdir()
    before = outcome_of_files(world)
    killed = give(commands, world, folder, name, watch=str(folder), **how)
    at = events[how["kill_at"] - 1] if "kill_at" in how else how
    assert "Traceback" not in killed.out + killed.err, (at, killed.err)
    again = go_on(commands, world, folder, name)
    whole = "is there already" in again.err  # killed after its last file
    assert again.code == 0 or whole, (at, again.err)
    found = VICTIMS[name].outcome(folder)
    if whole:  # it was refused before it cleared what the dead had left
        found = {part: value for part, value in found.items() if not re.search(r"(^|/)\.", part)}
    assert set(found) == set(wanted), at
    for part in parts or wanted:
        assert found[part] == wanted[part], (part, at)
    assert outcome_of_files(world) == before, at


@pytest.mark.slow
def test_a_kill_around_a_validation_loses_nothing(commands, world, tmp_path, peace, tally):
    near = [
        n for n, event in enumerate(peace("train")[1], 1) if "best" in event or event.endswith("log.jsonl")
    ]
    with tally("kills: train"):
        try_kill(commands, world, tmp_path, peace, "train", kill_at=random.Random(SEED).choice(near))


@pytest.mark.parametrize("name", ["visualize", "calibrate", "prepare-data"])
def test_a_command_that_is_told_to_end_leaves_nothing_half_made(commands, world, tmp_path, peace, name):
    events = peace(name)[1]
    half_made = [n for n, event in enumerate(events, 1) if event.startswith("open ") and "/." in event]
    ended = give(commands, world, tmp_path, name, watch=str(tmp_path), kill_at=half_made[-1],
                 signal=int(signal.SIGTERM))  # fmt: skip
    assert ended.code == 128 + signal.SIGTERM, ended.err
    assert "Interrupted." in ended.err
    assert "Traceback" not in ended.err
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.campaign
@pytest.mark.parametrize("name", VICTIMS)
def test_kills_at_some_changes_of_files_lose_nothing(commands, world, tmp_path, peace, tally, name):
    for point in random.Random(SEED).sample(range(1, len(peace(name)[1]) + 1), 4):
        with tally(f"kills: {name}"):
            try_kill(commands, world, tmp_path, peace, name, kill_at=point)


@pytest.mark.campaign
@pytest.mark.parametrize("piece", range(4))
@pytest.mark.parametrize("name", VICTIMS)
def test_a_kill_at_any_change_of_a_file_loses_nothing(commands, world, tmp_path, peace, tally, name, piece):
    for point in range(1 + piece, len(peace(name)[1]) + 1, 4):
        with tally(f"kills: {name}"):
            try_kill(commands, world, tmp_path, peace, name, kill_at=point)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


@pytest.mark.campaign
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("name", VICTIMS)
def test_a_signal_at_any_time_loses_nothing(commands, world, tmp_path, peace, tally, name, number):
    chance = random.Random(f"{SEED} {name} {number}")
    # a stop between two checkpoints leaves one more, and a log line of fewer steps
    parts = ("weights", "iteration", "best") if name == "train" else ()
    for _ in range(4):
        with tally(f"signals: {name}"):
            after = chance.uniform(0.02, peace(name)[2])
            try_kill(commands, world, tmp_path, peace, name, parts, kill_after=after, signal=int(number))


@pytest.mark.parametrize("size", [pytest.param(20_000, marks=pytest.mark.slow), 300_000])
def test_files_that_cannot_grow_are_a_sentence_and_cost_nothing_that_was_saved(commands, copied, size):
    before = (copied / "run" / "last.pth").read_bytes()
    ended = commands.run(["train", "--resume", copied / "run", "--device", "cpu", "--set", "train.iterations=8"],
                         copied, FSIZE=size)  # fmt: skip
    assert ended.code == 1
    assert ended.is_told, ended.err
    assert "Cannot write" in ended.err
    assert (copied / "run" / "last.pth").read_bytes() == before
    assert not list((copied / "run").glob(".*"))
