"""Each bad input is one sentence with the right exit code, in bounded time, and costs no file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from bad_inputs import ALL, Bad
from faults_harness import Commands

FAST = random.Random(2).sample(range(len(ALL)), 14)
"""Those that run with the fast tests; all run with the slow ones."""


def try_one(commands: Commands, root: Path, bad: Bad) -> None:
    # the settings of the copied run still name the backbone of the world it was copied from
    backbone = (
        ["--backbone", root / "backbone.pth"] if bad.words.startswith(("eval", "visualize", "bench")) else []
    )
    bad.harm(root)
    kept = {name: (root / name).read_bytes() for name in bad.keeps}
    words = [word.replace("{}", str(root)) for word in bad.words.split()]
    if "val" in bad.words or words[0] == "eval":
        words += ["--data-root", str(root)] if words[0] == "eval" else []
    ended = commands.run([*words, *backbone], root, timeout=60)
    said = " ".join((ended.out + ended.err).split())
    assert ended.is_told, said[-2000:]
    assert bad.says in said
    assert ended.code == bad.code, said[-500:]
    for name, data in kept.items():
        assert (root / name).read_bytes() == data, name


@pytest.mark.parametrize("bad", [ALL[number] for number in sorted(FAST)], ids=lambda bad: bad.name)
def test_a_bad_input_is_a_sentence(commands, copied, bad):
    try_one(commands, copied, bad)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bad", [bad for number, bad in enumerate(ALL) if number not in FAST], ids=lambda bad: bad.name
)
def test_every_bad_input_is_a_sentence(commands, copied, bad):
    try_one(commands, copied, bad)
