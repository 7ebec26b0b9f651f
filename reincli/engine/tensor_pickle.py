"""Tensors out of a pickled checkpoint that holds more than tensors, without building or running anything else.

Training programs save their loggers, settings and whole objects beside the weights. `torch.load` refuses such a file
unless it may run what the file asks for. This reader takes tensors and plain tables; whatever else the file asks for
becomes a `Skipped`, which is left out of the result. Modules that were pickled whole give their tables of tensors.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from reincli.engine.archive import STORAGES

RUNNERS = {
    "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "importlib", "runpy", "ctypes", "pty", "code",
    "commands", "webbrowser", "http", "urllib", "requests",
}  # fmt: skip
"""Modules that no checkpoint has a reason to name: a file that does is refused, though nothing of it would run."""
CALLS = {"eval", "exec", "compile", "__import__", "open", "input", "breakpoint"}
"""The same of Python's own functions."""
LEGACY = 0x1950A86A20F9469CFC6C
"""What torch wrote first into its files before they were zip files."""


class ForbiddenError(pickle.UnpicklingError):
    """A pickle names something that runs programs or reads files."""


class Skipped(dict[Any, Any]):
    """Stands for any object that is no tensor: takes whatever a pickle does to it, and does nothing.

    A dict, so that tables of other classes keep what they hold; `table` is an object's own attributes.
    """

    table: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Skipped:
        made = super().__new__(cls)
        made.table = {}
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}
        if isinstance(state, dict):
            self.table = dict(state)

    def __call__(self, *args: Any, **kwargs: Any) -> Skipped:
        return Skipped()

    def append(self, item: Any) -> None:
        """A list of another class: left out."""

    def extend(self, items: Any) -> None:
        """The same."""

    add = append
    __hash__ = object.__hash__  # type: ignore[assignment]


def read_tensors(path: Path) -> Any:
    """Tables and tensors of a file of `torch.save`; what is neither is left out.

    Raises:
        ForbiddenError: it names what runs programs.
        pickle.UnpicklingError: it is no such file, or damaged.
    """
    with open(path, "rb") as file:
        return plain(_read(file))


def _read(file: IO[bytes]) -> Any:
    return _from_zip(file) if zipfile.is_zipfile(file) else _from_stream(file)


def _from_zip(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if pickled is None:
            raise pickle.UnpicklingError("no data.pkl in it")
        root = pickled.removesuffix("data.pkl")

        def numbers(key: str) -> bytes:
            return archive.read(f"{root}data/{key}")

        with archive.open(pickled) as inside:
            return _Reader(inside, numbers).load()


def _from_stream(file: IO[bytes]) -> Any:
    """The form of torch before 1.6: five pickles, then the numbers one storage after another; or one pickle alone."""
    file.seek(0)
    first = _Reader(file, None).load()
    if first != LEGACY:
        return first
    _Reader(file, None).load()  # the version of the protocol
    _Reader(file, None).load()  # sizes of the machine that wrote it
    reader = _Reader(file, None)
    content = reader.load()
    for key in _Reader(file, None).load():
        storage = reader.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(count * storage.element_size())
        storage.copy_(torch.frombuffer(bytearray(data), dtype=storage.dtype, count=count))
    return content


def _of_bytes(data: bytes) -> Any:
    """A storage within a plain pickle: a file of torch's in a row of bytes."""
    return _read(io.BytesIO(data))


def _view(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Any:
    if not isinstance(storage, Tensor):  # numbers of a kind that is not read
        return Skipped()
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _first(value: Any, *rest: Any) -> Any:
    return value


def _of_type(function: Callable[..., Any], kind: Any, arguments: tuple[Any, ...], state: Any) -> Any:
    return function(*arguments)


ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _view,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch.nn.parameter", "Parameter"): _first,
    ("torch.storage", "_load_from_bytes"): _of_bytes,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): lambda text, *rest: str(text).encode("latin1"),
    **{
        (module, name): kind
        for module in ("builtins", "__builtin__")
        for name, kind in {
            "dict": dict, "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "int": int,
            "float": float, "bool": bool, "str": str, "bytes": bytes, "complex": complex, "slice": slice,
        }.items()
    },
}  # fmt: skip
"""All that is built: views of numbers, and Python's own tables."""


class _Reader(pickle.Unpickler):
    def __init__(self, file: IO[bytes], numbers: Callable[[str], bytes] | None) -> None:
        super().__init__(file, encoding="latin1")
        self.numbers, self.storages = numbers, dict[str, Tensor]()

    def find_class(self, module: str, name: str) -> Any:
        """A view of numbers, or `Skipped`; what runs programs is an error. Nothing is imported."""
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        own = module in ("builtins", "__builtin__") and name in CALLS
        if own or module.partition(".")[0] in RUNNERS:
            raise ForbiddenError(f"{module}.{name}")
        return Skipped

    def persistent_load(self, reference: Any) -> Any:
        """The numbers of a storage, each read once."""
        if reference[0] != "storage":  # the class of a module, with its source
            return reference[1]
        _, dtype, key, _, count, *view = reference
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("numbers of an unknown type")
        if key not in self.storages:
            if self.numbers is None or not count:
                self.storages[key] = torch.empty(int(count), dtype=dtype)
            else:
                data = bytearray(self.numbers(str(key)))
                self.storages[key] = torch.frombuffer(data, dtype=dtype, count=int(count))
        if view and view[0]:
            _, offset, size = view[0]
            return self.storages[key][offset : offset + size]
        return self.storages[key]


def plain(node: Any) -> Any:
    """Tables, lists, tensors and plain values; what was skipped is left out."""
    if isinstance(node, Skipped):
        if "_modules" in node.table and "_parameters" in node.table:
            return dict(_of_module(node, ""))
        node = dict(node)
        return plain(node) if node else None
    if isinstance(node, Mapping):
        kept = {name: plain(value) for name, value in node.items() if isinstance(name, (str, int))}
        return {name: value for name, value in kept.items() if value is not None or node[name] is None}
    if isinstance(node, (list, tuple)):
        return type(node)(each for each in map(plain, node) if each is not None)
    return None if isinstance(node, type) else node


def _of_module(module: Skipped, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a module that was pickled whole."""
    for kind in ("_parameters", "_buffers"):
        for name, value in (module.table.get(kind) or {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, child in (module.table.get("_modules") or {}).items():
        if isinstance(child, Skipped):
            yield from _of_module(child, f"{prefix}{name}.")
