"""Checkpoints that hold more than tensors: the tensors are read, nothing else is built or run."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reincli.engine.tensor_pickle import read_tensors
from reincli.engine.weight_files import read_file
from reincli.errors import ReinError
from reincli.model.foundation import unwrap


@pytest.fixture
def logger(monkeypatch) -> type:
    """A class of a training library that is gone when the file is read."""
    module = types.ModuleType("training_library")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class History:
        def __init__(self) -> None:
            self.log = np.array([1.0, 2.0])

    History.__module__, History.__qualname__ = module.__name__, "History"
    module.History = History
    return History


def content(history: object) -> dict[str, object]:
    shared = torch.arange(12.0).view(3, 4)
    return {
        "meta": {"iter": 40_000, "time": np.float64(0.5), "config": argparse.Namespace(lr=1e-4)},
        "state_dict": collections.OrderedDict(
            a=shared,
            b=shared.t(),
            c=nn.Parameter(torch.ones(2)),
            d=torch.tensor(3),
            e=torch.rand(5)[2:].half(),
        ),
        "message_hub": {"scalars": collections.OrderedDict(loss=history)},
        "param_schedulers": [history, {"last": 3}],
        "seen": {1, 2},
        "path": Path("x/y"),
        "none": None,
    }


@pytest.mark.parametrize("form", ["zip", "stream", "pickle"])
def test_tensors_and_tables_are_read_and_the_rest_is_left_out(tmp_path, logger, monkeypatch, form):
    given, path = content(logger()), tmp_path / "iter_40000.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(given, protocol=2))
    else:
        torch.save(given, path, _use_new_zipfile_serialization=form == "zip")
    monkeypatch.delitem(sys.modules, "training_library")
    read = read_file(path)
    assert list(read["state_dict"]) == list("abcde")
    for name, value in given["state_dict"].items():
        assert torch.equal(read["state_dict"][name], value.data), name
        assert type(read["state_dict"][name]) is torch.Tensor
    assert read["meta"] == {"iter": 40_000}
    assert read["message_hub"] == {"scalars": {}}
    assert read["param_schedulers"] == [{"last": 3}]
    assert (read["seen"], read["none"]) == ({1, 2}, None)
    assert "path" not in read
    assert set(unwrap(read)) == set("abcde")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_model_that_was_pickled_whole_gives_its_tensors(tmp_path, zipped):
    model = Net()
    torch.save({"model": model}, tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
    read = read_file(tmp_path / "whole.pt")["model"]
    expected = model.state_dict()
    assert set(read) == set(expected)
    assert all(torch.equal(read[name], value) for name, value in expected.items())


def test_a_table_of_another_class_keeps_its_tensors(tmp_path):
    class Table(dict):
        pass

    Table.__module__, Table.__qualname__ = __name__, "Table"
    globals()["Table"] = Table
    torch.save({"state_dict": Table(a=torch.ones(2)), "n": np.int64(1)}, tmp_path / "x.pth")
    assert torch.equal(read_file(tmp_path / "x.pth")["state_dict"]["a"], torch.ones(2))


class Runs:
    """Asks for any function of any module when it is loaded."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_what_would_run_is_never_run(tmp_path, zipped):
    """A function of an unknown module is skipped; one that runs programs or makes files is refused."""
    trace, path = tmp_path / "trace", tmp_path / "x.pth"
    torch.save(
        {"a": torch.ones(1), "b": Runs(Path.touch, Path(str(trace)))},
        path, _use_new_zipfile_serialization=zipped,
    )  # fmt: skip
    assert list(read_tensors(path)) == ["a"]
    torch.save(
        {"a": torch.ones(1), "b": Runs(os.mkdir, str(trace))}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(ReinError, match=r"asks to run code while loading \(\w+\.mkdir\)"):
        read_file(path)
    assert not trace.exists()


def test_a_view_beyond_its_numbers_is_an_error(tmp_path):
    """Sizes come from the file: a view that reaches past the numbers must not read other memory."""
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(4), "n": np.int64(1)}, path)
    import zipfile

    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data[: len(data) // 2] if name.endswith("/data/0") else data)
    with pytest.raises(ReinError, match="cannot be read as weights"):
        read_file(path)
