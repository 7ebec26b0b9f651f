"""The seal of exported files: any byte that is another one is noticed, in the file and beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reincli.prediction.exported_seal import LOCATION, NAME, OPEN, broken_seal, seal, weights_beside


def written(
    folder: Path, suffix: str = ".onnx", before: bytes = b"\x08graph\xff\x00", after: bytes = b"\x01"
) -> Path:
    """A file with a place for the digits, as protobuf has it or as XML has it."""
    between = b'" value="' if suffix == ".xml" else b"\x12\x40"
    path = folder / f"model{suffix}"
    path.write_bytes(before + NAME.encode() + between + OPEN.encode() + after)
    return path


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_sealed_is_whole_and_nothing_moves(tmp_path, suffix):
    path = written(tmp_path, suffix)
    before = path.read_bytes()
    assert broken_seal(path) is None  # open still
    seal(path)
    after = path.read_bytes()
    assert len(after) == len(before)
    assert OPEN.encode() not in after
    assert broken_seal(path) is None


def naming(weights: str) -> bytes:
    """How a graph of ONNX names the file of its weights."""
    entry = LOCATION + bytes([len(weights)]) + weights.encode()
    return b"\x08graph" + entry + b"\n\x06offset\x12\x010"


@pytest.mark.parametrize(
    ("suffix", "weights", "before"),
    [(".onnx", "model.onnx.data", naming("model.onnx.data")), (".onnx", "old.data", naming("old.data")),
     (".xml", "model.bin", b"<net>")],
)  # fmt: skip
def test_weights_beside_it_belong_to_it(tmp_path, suffix, weights, before):
    (tmp_path / weights).write_bytes(bytes(range(200)))
    path = written(tmp_path, suffix, before)
    assert weights_beside(path) == tmp_path / weights
    seal(path)
    assert broken_seal(path) is None
    (tmp_path / weights).write_bytes(bytes(range(1, 201)))
    assert f"'model{suffix}' (with '{weights}') is not as rein export wrote it" in str(broken_seal(path))
    (tmp_path / weights).unlink()
    assert "'model" in str(broken_seal(path))


def test_a_graph_that_was_renamed_is_sealed_with_the_weights_that_it_names(tmp_path):
    """Not with those that lie under its new name: a runtime does not read them."""
    data = tmp_path / "model.onnx.data"
    data.write_bytes(b"weights of the one")
    path = written(tmp_path, ".onnx", naming(data.name))
    seal(path)
    path = path.rename(tmp_path / "renamed.onnx")
    (tmp_path / "renamed.onnx.data").write_bytes(data.read_bytes())
    assert broken_seal(path) is None
    data.write_bytes(b"weights of another")
    assert "(with 'model.onnx.data')" in str(broken_seal(path))


@pytest.mark.parametrize(("suffix", "stray"), [(".onnx", "model.onnx.data"), (".onnx", "model.bin")])
def test_a_file_that_lies_there_and_is_not_read_changes_nothing(tmp_path, suffix, stray):
    path = written(tmp_path, suffix)
    seal(path)
    (tmp_path / stray).write_bytes(b"somebody's")
    assert broken_seal(path) is None


@pytest.mark.parametrize("end", [b"", b"\xff", b"\xff\xff\xff\xff", b"\x0fshort", b"\x03a\0b"])
def test_a_graph_that_is_cut_off_within_a_name_names_nothing(tmp_path, end):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08graph" + LOCATION + end)
    assert weights_beside(path) is None
    path.write_bytes(b"")
    assert weights_beside(path) is None
    assert broken_seal(path) is None


@given(
    before=st.binary(max_size=60),
    after=st.binary(max_size=20),
    place=st.integers(0, 300),
    bit=st.integers(0, 7),
)
def test_any_bit_that_turns_is_noticed(tmp_path_factory, before, after, place, bit):
    path = written(tmp_path_factory.mktemp("seal"), ".onnx", before, after)
    seal(path)
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    name = len(before)
    known = name <= place < name + len(NAME) + 2 + len(OPEN)  # of the seal itself: it may be no seal any more
    assert broken_seal(path) is not None or known


def test_files_without_a_seal_are_taken_as_they_are(tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(b"\x08nothing of ours")
    assert broken_seal(path) is None
    path.write_bytes(b"x" + NAME.encode() + b"no digits here at all, of any kind, not even one")
    assert broken_seal(path) is None
    with pytest.raises(ValueError, match="other"):
        seal(path)
