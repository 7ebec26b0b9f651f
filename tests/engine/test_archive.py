"""TorchScript archives: their tensors are read, nothing in them runs."""

from __future__ import annotations

import pickle
import warnings
import zipfile

import pytest
import torch
from torch import nn

from reincli.engine.archive import is_archive, read_archive
from reincli.engine.weight_files import read_file
from reincli.errors import ReinError


class Tower(nn.Module):
    """A tree of modules in which things are nested as in OpenAI's archive."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 2, bias=False)
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.class_embedding = nn.Parameter(torch.randn(4))
        self.register_buffer("counted", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.conv1(x).flatten(2).transpose(1, 2) + self.class_embedding)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("visual", Tower().half())
    model.add_module("scale", nn.Linear(2, 2))
    model = model.eval()
    path = tmp_path / "ViT.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that scripting is old; archives of it are still about
        torch.jit.save(torch.jit.script(Holder(model)), path)
    return path, {f"inner.{name}": value for name, value in model.state_dict().items()}


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_every_tensor_by_its_path(saved):
    path, expected = saved
    assert is_archive(path)
    found = read_archive(path)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    assert set(read_file(path)) == set(expected)


def test_an_ordinary_file_is_no_archive(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    assert not is_archive(tmp_path / "a.pth")
    assert torch.equal(read_file(tmp_path / "a.pth")["a"], torch.zeros(2))


def test_an_archive_that_asks_for_more_is_refused(tmp_path):
    path = tmp_path / "bad.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad/constants.pkl", b"")
        archive.writestr("bad/data.pkl", pickle.dumps(print, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="asks for"):
        read_archive(path)
    with pytest.raises(ReinError, match="refused and nothing was run"):
        read_file(path)
