"""What is read from a weights file is looked at before anything is done with it: one sentence, in bounded time.

A file may hold anything: tables within themselves, tensors that stand for no memory or for more than there is, fields
of other types than are expected. Nothing here copies a tensor.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reincli.data.labels import Classes
from reincli.errors import ReinError

DEEPEST, MOST = 64, 2_000_000
"""Tables within tables, and entries altogether, that a weights file may have."""
GROWTH, SMALL = 4, 2**28
"""A file may unpack to so many times its size, and always to so many bytes."""


def damaged(path: Path | str, what: str) -> ReinError:
    """The sentence for a weights file that can be read and whose content cannot be used."""
    return ReinError(
        f"'{path}' is damaged or no checkpoint of this program: {what}.", "Fetch or save it again."
    )


def check_file(path: Path) -> None:
    """Look at a file before it is loaded: a plain file, and where it is a zip, its checksums and its size unpacked.

    Raises:
        ReinError: it is none of that.
    """
    if not path.is_file():
        raise ReinError(f"'{path}' is a device or a pipe; a weights file was expected.", "Give a plain file.")
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > max(GROWTH * path.stat().st_size, SMALL):
                raise ReinError(
                    f"'{path}' would unpack to {size:,} bytes, many times its size: it was not read.",
                    "Weights files are not compressed; fetch it again.",
                )
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ReinError(
            f"'{path}' ({path.stat().st_size:,} bytes) cannot be read as weights: {error}.",
            "It is cut short or damaged: fetch it again and compare its size.",
        ) from None
    if bad is not None:
        raise ReinError(
            f"'{path}' is damaged: the checksum of '{bad}' in it is wrong.", "Fetch or save it again."
        )


def check_content(content: object, path: Path | str) -> None:
    """Walk through what a file holds.

    Raises:
        ReinError: it contains itself, is absurdly deep or large, or holds a tensor that is no plain one.
    """
    waiting: list[tuple[str, object, tuple[int, ...]]] = [("", content, ())]
    count = 0
    while waiting:
        name, value, above = waiting.pop()
        count += 1
        if count > MOST or len(above) > DEEPEST:
            raise damaged(path, f"it has more than {MOST:,} entries or {DEEPEST} levels")
        if isinstance(value, Tensor):
            complaint = _complaint(value)
            if complaint:
                raise damaged(path, f"the tensor '{name}' {complaint}")
            continue
        if not isinstance(value, Mapping | list | tuple):
            continue
        if id(value) in above:
            raise damaged(path, f"the table '{name}' contains itself")
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        below = (*above, id(value))
        waiting += [(f"{name}.{key}".strip(".")[:200], each, below) for key, each in inner]


def _complaint(tensor: Tensor) -> str:
    """What is wrong with a tensor as such; '' for a plain one."""
    if tensor.device.type == "meta":
        return "has no numbers (it is on the device 'meta')"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "is sparse"
    if tensor.is_quantized:
        return "is quantised"
    if tensor.is_complex():
        return "has complex numbers"
    size = tensor.numel() * tensor.element_size()
    if size > SMALL and size > tensor.untyped_storage().nbytes():
        return f"stands for {size:,} bytes, of which the file has {tensor.untyped_storage().nbytes():,}"
    return ""


def require_finite(state: Mapping[str, Tensor], what: str) -> None:
    """ReinError where a tensor holds NaN or infinity, naming the first; `what` is the subject of the sentence."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise ReinError(
                f"{what} holds numbers that are none: {count} of {tensor.numel()} values of '{name}' are NaN or "
                "infinite.",
                "It is damaged, or its training went wrong: take an earlier checkpoint, or fetch it again.",
            )


def own_fields(own: object, path: Path) -> tuple[Mapping[str, Any], Classes]:
    """Settings (as plain data) and classes of the field `rein` of a checkpoint.

    Raises:
        ReinError: a part is missing or of another type.
    """
    if not isinstance(own, Mapping):
        raise damaged(path, f"its field 'rein' is {_kind(own)}, not a table")
    settings, classes = own.get("settings"), own.get("classes")
    for name, value in (("settings", settings), ("classes", classes)):
        if not isinstance(value, Mapping):
            raise damaged(path, f"its field 'rein.{name}' is {_kind(value)}, not a table")
    assert isinstance(settings, Mapping)
    assert isinstance(classes, Mapping)
    names, colors = classes.get("names"), classes.get("colors")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise damaged(path, f"its field 'rein.classes.names' is {_kind(names)}, not a list of names")
    if not isinstance(colors, list | tuple) or len(colors) != len(names) or not all(map(_is_color, colors)):
        raise damaged(
            path, "its field 'rein.classes.colors' is not a colour (three of 0 to 255) for each class"
        )
    return settings, Classes(tuple(names), tuple((int(r), int(g), int(b)) for r, g, b in colors))


def iteration_of(meta: object, path: Path) -> int:
    """How far a checkpoint was trained, 0 where it does not say. ReinError where that is no number."""
    if not isinstance(meta, Mapping) or "iter" not in meta:
        return 0
    value = meta["iter"]
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise damaged(path, f"its field 'meta.iter' is {_kind(value)}, not a number of iterations")
    return int(value)


def _is_color(color: object) -> bool:
    return (
        isinstance(color, list | tuple)
        and len(color) == 3
        and all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c <= 255 for c in color)
    )


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value) if isinstance(value, str | int | float) else f"of the type {type(value).__name__}"
    return text[:40]
