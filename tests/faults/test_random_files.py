"""Readers meet random bytes, random TOML and checkpoints with random damage: a sentence or a value, nothing else."""

from __future__ import annotations

import contextlib
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reincli.engine.checkpoint import read_checkpoint
from reincli.errors import ReinError
from reincli.media.images import read_image, read_label
from reincli.settings_files import build_settings, read_config

TABLES = ["model", "data", "optim", "train", "test", "model.head", "data.augment", "data.own.x"]
VALUES = st.sampled_from(
    ["1", "-1", "true", "nan", "inf", '""', "[]", "{}", "1979-05-27", "9" * 40, "[[[[]]]]", '"x"']
)
KEYS = st.sampled_from(
    ["lr", "betas", "heads", "channels", "train", "val", "crop", "ratio", "seed", "sizes", "x", "own"]
)


@pytest.mark.parametrize("reader", [read_checkpoint, read_image, read_label, read_config])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=400),
    head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x89PNG\r\n\x1a\n"]),
)
def test_random_bytes(tmp_path, reader, data, head):
    for name in ("a.pth", "a.safetensors", "a.toml"):
        path = tmp_path / name
        path.write_bytes(head + data)
        with contextlib.suppress(ReinError):
            reader(path)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(TABLES), KEYS, VALUES), max_size=4))
def test_random_settings(pairs):
    with contextlib.suppress(ReinError):
        build_settings({}, [f"{table}.{key}={value}" for table, key, value in pairs])


@pytest.mark.parametrize("seed", range(25))
def test_a_checkpoint_with_random_damage(copied, seed):
    chance = random.Random(seed)
    path = copied / "run" / "last.pth"
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 3, 30])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    path.unlink()
    path.write_bytes(data)
    begun = time.monotonic()
    with contextlib.suppress(ReinError):
        read_checkpoint(path)
    assert time.monotonic() - begun < 20
