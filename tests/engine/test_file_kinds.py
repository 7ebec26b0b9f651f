"""A file is known by its content; what is no weights file is named for what it is."""

from __future__ import annotations

import gzip
import json
import pickle
import tarfile
import zipfile

import pytest
import torch

from reincli.engine.weight_files import read_file, write_file
from reincli.errors import ReinError

STATE = {"a": torch.arange(4.0), "b": torch.ones(2, 3)}


def same(read: dict[str, torch.Tensor]) -> bool:
    return set(read) == set(STATE) and all(torch.equal(read[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    ("written", "named"), [("x.pth", "x.safetensors"), ("x.safetensors", "model.bin"), ("x.pth", "weights")]
)
def test_the_suffix_decides_nothing(tmp_path, written, named):
    write_file(tmp_path / written, STATE)
    (tmp_path / written).rename(tmp_path / named)
    assert same(read_file(tmp_path / named))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "told", "hint"),
    [
        (b"", "is empty", "fetch it again"),
        (LFS, "Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><head>", "web page", "/resolve/"),
        (b"\n  <html>", "web page", "/resolve/"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "web page", "address of the file"),
        (gzip.compress(b"x", mtime=0), "gzip", "Unpack"),
        (b"7z\xbc\xaf\x27\x1c rest", "7z", "Unpack"),
        (b"\x89HDF\r\n\x1a\n", "HDF5", "PyTorch"),
        (b'{"hidden_size": 384}', "JSON", "index.json"),
        (b"hello, I am text\n", "it is text", ".pth"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image", "itself"),
        (b"\x08\n\x12\x07pytorch\x1a", "an ONNX file", "checkpoint that it was made from"),
        (
            b'<?xml version="1.0"?>\n<net name="m" version="11">',
            "an OpenVINO file",
            "checkpoint that it was made",
        ),
        (b"\x00\x01\x02\x03", "no known form", ".pth"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "model.safetensors"])
def test_what_is_brought_instead_is_named(tmp_path, content, told, hint, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReinError, match=told) as caught:
        read_file(tmp_path / name)
    assert hint in caught.value.hint
    assert name in caught.value.message


@pytest.mark.parametrize(("name", "graph"), [("m.bin", "m.xml"), ("m.onnx.data", "m.onnx")])
def test_weights_of_an_exported_file_lead_to_it(tmp_path, name, graph):
    (tmp_path / name).write_bytes(b"\x00\x01\x02\x03")
    with pytest.raises(ReinError, match="no known form"):
        read_file(tmp_path / name)
    (tmp_path / graph).touch()
    with pytest.raises(ReinError, match="holds the weights of") as caught:
        read_file(tmp_path / name)
    assert caught.value.hint == f"Give '{tmp_path / graph}'."


def test_archives_that_hold_a_weights_file(tmp_path):
    write_file(tmp_path / "w.pth", STATE)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "w.pth", "folder/w.pth")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "w.pth", "w.pth")
    for name, told in (("x.zip", r"zip archive of 1 files \(folder/w.pth\)"), ("x.tar", "tar archive")):
        with pytest.raises(ReinError, match=told) as caught:
            read_file(tmp_path / name)
        assert "Unpack it" in caught.value.hint


def test_a_program_of_torch_export_is_no_checkpoint(tmp_path):
    program = torch.export.export(torch.nn.Identity(), (torch.ones(2),))
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(ReinError, match=r"a program of torch\.export") as caught:
        read_file(tmp_path / "m.pt2")
    assert "checkpoint that it was made from" in caught.value.hint


@pytest.mark.parametrize(("stem", "suffix"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_a_model_in_parts_by_its_index_or_its_folder(tmp_path, stem, suffix):
    parts = [f"{stem}-{n:05}-of-00002.{suffix}" for n in (1, 2)]
    for part, name in zip(parts, STATE, strict=True):
        held = tmp_path / f"x.{'safetensors' if suffix == 'safetensors' else 'pth'}"
        write_file(held, {name: STATE[name]})
        held.rename(tmp_path / part)
    index = tmp_path / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict(zip(STATE, parts, strict=True))}))
    assert same(read_file(index))
    assert same(read_file(tmp_path))
    (tmp_path / parts[1]).unlink()
    with pytest.raises(ReinError, match="1 of 2 parts") as caught:
        read_file(index)
    assert str(tmp_path) in caught.value.hint


def test_an_index_reads_nothing_outside_its_folder(tmp_path):
    write_file(tmp_path / "secret.pth", STATE)
    index = tmp_path / "inside" / "model.safetensors.index.json"
    index.parent.mkdir()
    index.write_text(json.dumps({"weight_map": {"a": "../secret.pth"}}))
    with pytest.raises(ReinError, match="parts that"):
        read_file(index)


def test_an_index_with_a_byte_order_mark_is_read_and_half_of_one_is_told(tmp_path):
    write_file(tmp_path / "part.safetensors", STATE)
    index = tmp_path / "model.safetensors.index.json"
    text = json.dumps({"weight_map": dict.fromkeys(STATE, "part.safetensors")})
    index.write_text(text, "utf-8-sig")
    assert same(read_file(index))
    index.write_text(text[: len(text) // 2])
    with pytest.raises(ReinError, match="is no whole JSON"):
        read_file(tmp_path)


@pytest.mark.parametrize(
    ("there", "told", "hint"),
    [
        ("snapshots/abc/model.safetensors", "weights in it", "snapshots/abc/model.safetensors"),
        ("run/last.pth", "weights in it", "run/last.pth"),
        ("model.fp16.safetensors", "weights in it", "model.fp16.safetensors"),
        ("tf_model.h5", "it has tf_model.h5", ".pth or .safetensors"),
        (".metadata", "distributed checkpoint", "dcp_to_torch"),
        ("config.json", "or any other weights", ".pth or .safetensors"),
    ],
)
def test_a_folder_without_a_usual_file_says_what_is_there(tmp_path, there, told, hint):
    path = tmp_path / there
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(ReinError, match=told) as caught:
        read_file(tmp_path)
    assert hint in caught.value.hint


def test_torchs_remarks_on_a_pickle_are_not_passed_on(tmp_path, recwarn):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {"a.b": 1}}, protocol=4))
    read_file(tmp_path / "x.pkl")
    assert not recwarn.list


def test_of_a_runs_folder_the_newest_checkpoint_is_named(tmp_path):
    for name in ("best.pth", "iter_150.pth", "last.pth"):
        (tmp_path / name).touch()
    with pytest.raises(ReinError, match="weights in it") as caught:
        read_file(tmp_path)
    assert "last.pth" in caught.value.hint
