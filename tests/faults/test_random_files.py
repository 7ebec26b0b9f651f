"""Readers meet random bytes, random TOML and files with random damage: a sentence or a value, in bounded time."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reincli.commands.compare import read_scores
from reincli.data.downloads import DOWNLOADS
from reincli.engine.checkpoint import read_checkpoint
from reincli.errors import ReinError
from reincli.media.images import read_image, read_label
from reincli.prepare.archives import unpack
from reincli.prepare.convert import from_polygons
from reincli.settings_files import build_settings, load_settings, read_config
from reincli.training.run_folder import read_log


def unpacked(path: Path) -> None:
    """Read an archive of GTA's."""
    for _ in unpack(path, DOWNLOADS["gta"][0], path.parent / "into"):
        pass


def log_of(path: Path) -> None:
    """Read the log of a run."""
    read_log(Path(path.rename(path.with_name("log.jsonl"))).parent)


READERS = {
    ".pth": read_checkpoint, ".safetensors": read_checkpoint, ".png": read_image, ".jpg": read_image,
    ".label.png": read_label, ".toml": read_config, ".json": read_scores, ".polygons.json": from_polygons,
    ".zip": unpacked, ".tar": unpacked, ".tar.gz": unpacked, ".jsonl": log_of,
}  # fmt: skip
HEADS = (b"", b"PK\x03\x04", b"\x80\x02", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x1f\x8b\x08", b"{", b"[[")
TABLES = [
    "model",
    "data",
    "optim",
    "train",
    "test",
    "model.head",
    "model.minor",
    "data.augment",
    "data.own.x",
]
VALUES = st.sampled_from(
    [
        "1",
        "-1",
        "true",
        "nan",
        "inf",
        '""',
        "[]",
        "{}",
        "1979-05-27",
        "9" * 40,
        "[[[[]]]]",
        '"x"',
        '"\\u0000"',
    ]
)
KEYS = st.sampled_from(
    [
        "lr",
        "betas",
        "heads",
        "channels",
        "train",
        "val",
        "crop",
        "ratio",
        "seed",
        "sizes",
        "x",
        "own",
        "biases",
    ]
)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A sentence at most, in seconds."""
    begun = time.monotonic()
    with contextlib.suppress(ReinError):
        yield
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("suffix", READERS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400), head=st.sampled_from(HEADS))
def test_random_bytes(tmp_path, suffix, data, head):
    path = tmp_path / f"01_images{suffix}"
    path.write_bytes(head + data)
    with told():
        READERS[suffix](path)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(TABLES), KEYS, VALUES), max_size=4))
def test_random_settings(pairs):
    with told():
        build_settings({}, [f"{table}.{key}={value}" for table, key, value in pairs])


LINES = st.one_of(
    st.sampled_from(TABLES).map(lambda name: f"[{name}]"),
    st.tuples(KEYS, VALUES).map(" = ".join),
    st.text(max_size=12),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=8))
def test_random_toml(tmp_path, lines):
    path = tmp_path / "a.toml"
    path.write_text("\n".join(lines), "utf-8", "surrogatepass")
    with told():
        load_settings(config=path)


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 40))]
)
def test_a_checkpoint_with_random_damage(world, tmp_path, seed):
    chance = random.Random(seed)
    data = bytearray((world / "run" / "last.pth").read_bytes())
    for _ in range(chance.choice([1, 3, 30])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    (tmp_path / "last.pth").write_bytes(data)
    with told():
        read_checkpoint(tmp_path / "last.pth")
