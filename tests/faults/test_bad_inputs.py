"""Each bad input is one sentence with the right exit code, in bounded time, and costs no file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from bad_inputs import ALL, ANY, Bad, at_random
from faults_harness import Commands

SEED = 20
ORDER = random.Random(SEED).sample(range(len(ALL)), len(ALL))
FAST = sorted(ORDER[:8])
"""Which of the table run with the fast tests; `-m campaign` runs all, and some at random."""


def try_one(commands: Commands, root: Path, bad: Bad) -> None:
    words = [word.replace("{}", str(root)) for word in bad.words.split()]
    # what the run and its settings name is the world that they were copied from
    if words[0] == "eval" or (words[0] == "train" and "--resume" in words):
        words += ["--set", f"data.own.toy.root={root / 'toy'}"] if "--preset" not in words else []
    reads_backbone = ("eval", "visualize", "bench", "calibrate", "export", "train")
    if words[0] in reads_backbone and "--backbone" not in words:
        words += ["--backbone", str(root / "backbone.pth")]
    bad.harm(root)
    kept = {name: (root / name).read_bytes() for name in bad.keeps}
    ended = commands.run(words, root, timeout=300)
    said = " ".join((ended.out + ended.err).split())
    assert ended.is_told, (ended.code, said[-2000:])
    assert bad.says in said, said[-1000:]
    assert ended.code in ((0, 1, 2) if bad.code == ANY else (bad.code,)), said[-500:]
    for name, data in kept.items():
        assert (root / name).read_bytes() == data, name
    assert not list(root.rglob(".*.tmp"))


def named(numbers: list[int]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", [ALL[number] for number in numbers], ids=lambda bad: bad.name)


@named(FAST)
def test_a_bad_input_is_a_sentence(commands, copied, tally, bad):
    with tally("bad inputs"):
        try_one(commands, copied, bad)


@pytest.mark.campaign
@named(list(range(len(ALL))))
def test_every_bad_input_is_a_sentence(commands, copied, tally, bad):
    with tally(bad.name.partition(":")[0]):
        try_one(commands, copied, bad)


@pytest.mark.campaign
@pytest.mark.parametrize("bad", at_random(100, SEED), ids=lambda bad: bad.name)
def test_random_damage_is_a_sentence(commands, copied, tally, bad):
    with tally("random damage"):
        try_one(commands, copied, bad)
