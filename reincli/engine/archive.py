"""Tensors of a TorchScript archive (such as OpenAI's CLIP files), read without running anything in it.

An archive is a zip file whose `data.pkl` pickles a tree of modules: each is an object of a class that the archive
itself defines, with a table of attributes. Such objects are read as tables alone; the only things that are rebuilt
are tensors, from the numbers beside the pickle.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""How the pickle calls the types of numbers."""


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith("/constants.pkl") for name in archive.namelist())


def read_archive(path: Path) -> dict[str, Tensor]:
    """All tensors by their dotted path in the tree of modules.

    Raises:
        pickle.UnpicklingError: the pickle asks for anything but tensors and tables.
    """
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        with archive.open(pickled) as file:
            tree = _Reader(file, archive, root).load()
    found: dict[str, Tensor] = {}
    _collect(tree, "", found)
    return found


def _collect(node: Any, path: str, found: dict[str, Tensor]) -> None:
    if isinstance(node, Tensor):
        found[path] = node
    elif isinstance(node, _Object):
        for name, value in node.table.items():
            _collect(value, f"{path}.{name}" if path else name, found)


class _Object:
    """Stands for any object of a class that the archive defines."""

    table: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.table = dict(state) if isinstance(state, dict) else {}


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for; nothing that is not in the lists is ever imported."""
        if module.startswith("__torch__"):
            return _Object
        allowed: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): OrderedDict,
            **{
                ("torch.jit._pickle", f"build_{kind}list"): list
                for kind in ("int", "double", "bool", "tensor")
            },
            ("torch.jit._pickle", "restore_type_tag"): lambda value, tag: value,
        }
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return allowed[module, name]

    def persistent_load(self, reference: Any) -> Tensor:
        """The numbers of a storage, out of its own file in the archive."""
        _, dtype, key, _, count = reference
        data = bytearray(self.archive.read(f"{self.root}data/{key}"))
        if not count:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype, count=count)
