"""Two processes that would write one file: the second says who is at work, and writes nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOLD = (
    "import sys, time; from pathlib import Path; from reincli.media.outputs import at_work\n"
    "with at_work(Path(sys.argv[1]), 'eval', file=sys.argv[2] == 'file'):\n"
    "    print('ready', flush=True); time.sleep(300)\n"
)
SECOND = {
    "eval --json": ("eval {}/run/last.pth --device cpu --json {}/o.json", "o.json"),
    "eval --report": ("eval {}/run/last.pth --device cpu --report {}/o.html", "o.html"),
    "eval --out": ("eval {}/run/last.pth --device cpu --out {}/o", "o/"),
    "compare": ("compare {}/scores.json {}/scores.json --json {}/o.json", "o.json"),
    "bench": ("bench --checkpoint {}/run/last.pth --what inference --runs 1 --device cpu --json {}/o.json", "o.json"),
    "calibrate": ("calibrate {}/run/last.pth --out {}/o.pth --device cpu", "o.pth"),
    "convert-weights": ("convert-weights {}/run/last.pth {}/o.pth --kind original", "o.pth"),
    "export": ("export {}/run/last.pth --out {}/o.onnx", "o.onnx"),
    "pretrain": ("pretrain {}/o.pth --steps 1 --device cpu", "o.pth"),
    "visualize": ("visualize {}/toy/images/val/0.png --checkpoint {}/run/last.pth --out {}/o --device cpu", "o/"),
    "resume": ("train --resume {}/run --device cpu --set train.iterations=6", "run/"),
    "prepare-data": ("prepare-data gta {}/gta", "gta/"),
}  # fmt: skip


@contextmanager
def held(place: Path, *, file: bool) -> Iterator[int]:
    """A place at which another process works while the body runs; its number."""
    words = [sys.executable, "-c", HOLD, str(place), "file" if file else "folder"]
    first = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()
    try:
        yield first.pid
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize("name", SECOND)
def test_the_second_says_who_is_at_work(commands, copied, name):
    words, place = SECOND[name]
    if place == "gta/":
        shutil.copytree(copied / "toy", copied / "gta")
    target = copied / place
    before = sorted(path for path in copied.rglob("*") if not path.name.startswith("."))
    with held(target, file=not place.endswith("/")) as first:
        ended = commands.run(words.replace("{}", str(copied)).split(), copied, timeout=120)
        assert ended.code == 1, ended.out + ended.err
        assert f"rein eval, process {first} on" in " ".join(ended.err.split())
        after = sorted(path for path in copied.rglob("*") if not path.name.startswith("."))
        assert [path for path in after if path in before or path != target] == before
