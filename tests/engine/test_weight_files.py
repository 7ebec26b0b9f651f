"""Reading and writing weights: safe and whole; what is no weights file is told."""

from __future__ import annotations

import errno
import io
import os
import pickle

import pytest
import torch

from reincli.engine.weight_files import patient, read_file, write_file
from reincli.errors import ReinError


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_cut_short(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    write_file(whole, {"a": torch.rand(1000)})
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ReinError, match="cannot be read as weights") as caught:
        read_file(whole)
    assert "fetch it again" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"hello, I am text\n", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_a_file_that_is_no_weights(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(ReinError, match=r"x\.pth"):
        read_file(path)


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, form):
    path, trace = tmp_path / "bomb.pth", tmp_path / "it-ran"
    content = {"state_dict": {"a": torch.zeros(1)}, "bomb": Bomb(str(trace))}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ReinError, match="refused and nothing was run"):
        read_file(path)
    assert not trace.exists()


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(ReinError, match="is a folder"):
        read_file(tmp_path)
    with pytest.raises(ReinError, match="no weights file"):
        read_file(tmp_path / "none.pth")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "head.pth"
    write_file(path, {"a": torch.ones(10)})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReinError, match="No space left"):
        write_file(path, {"a": torch.zeros(1000)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_does_not_end_the_process_while_a_program_is_written():
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    with pytest.raises(OSError, match="No space left"), patient(Full()) as taken:
        torch.export.save(program, taken)
