"""The seal of an exported file: a digest by which is noticed what a runtime would compute with unasked.

It stands in what the file says of itself, under `NAME`, as 64 hexadecimal digits: SHA-256 over the bytes of the file
with zeros in the place of these digits, and over the weights that a runtime takes with it (the file that the graph
names, the `.bin`), if there are any. So the file stays one that every runtime reads, and no further file has to be kept
with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

NAME = "rein_sha256"
OPEN = "0" * 64
"""What stands there until the file is sealed."""
FARTHEST = 64
"""Bytes between the name and its digits, in protobuf and in XML."""
LOCATION = b"\n\x08location\x12"
"""In a graph of ONNX before the name of the file that holds its weights: fields 1 and 2 of `StringStringEntryProto`."""


def seal(path: Path) -> None:
    """Put the digest in the place of the zeros that stand in a file.

    Raises:
        ValueError: there is no place for it.
    """
    place = _place(path)
    if place is None:
        raise ValueError(f"no {NAME} in '{path}'")
    digest = _digest(path, place)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(digest.encode())


def broken_seal(path: Path) -> str | None:
    """A sentence for a file whose bytes are not those that were sealed; one without a seal is taken as it is."""
    place = _place(path)
    if place is None:
        return None
    with open(path, "rb") as file:
        file.seek(place)
        sealed = file.read(len(OPEN)).decode("ascii")
    if sealed in (OPEN, _digest(path, place)):
        return None
    beside = weights_beside(path)
    with_it = f" (with '{beside.name}')" if beside else ""
    return (
        f"'{path.name}'{with_it} is not as rein export wrote it: another program has changed it, or it is damaged. If "
        "nobody changed it, copy it again from where it was made."
    )


def weights_beside(path: Path) -> Path | None:
    """The weights that a runtime takes with a file, where they are there.

    OpenVINO goes by the name of the file. ONNX names them in the graph: a graph that was renamed keeps to the old name,
    and a file that happens to lie there under the new one is not read.
    """
    found: Path | None
    if path.suffix.lower() == ".xml":
        found = path.with_suffix(".bin")
    else:
        named = _named_weights(path)
        found = path.parent / named if named else None
    return found if found is not None and found.is_file() else None


def _named_weights(path: Path) -> str | None:
    """The file that a graph of ONNX names for its weights; None for a graph that holds them."""
    with _held(path) as held:
        begin = held.find(LOCATION)
        if begin < 0:
            return None
        begin += len(LOCATION)
        length, shift = 0, 0
        while begin < len(held):  # a varint: seven bits a byte, the low ones first
            byte = held[begin]
            begin, length, shift = begin + 1, length | (byte & 127) << shift, shift + 7
            if byte < 128 or shift > 14:
                break
        name = held[begin : begin + length].decode("utf-8", "replace")
    return None if "\0" in name else name


@contextlib.contextmanager
def _held(path: Path) -> Iterator[mmap.mmap | bytes]:
    """The bytes of a file, which stay on the disk."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:  # nothing to be mapped
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            yield held


def _place(path: Path) -> int | None:
    """Where the digits begin: what a file says of itself comes last, so the last of the names is the one."""
    with _held(path) as held:
        name = held.rfind(NAME.encode())
        if name < 0:
            return None
        after = held[name + len(NAME) : name + len(NAME) + FARTHEST + len(OPEN)]
    for begin in range(len(after) - len(OPEN) + 1):
        digits = after[begin : begin + len(OPEN)]
        if all(each in b"0123456789abcdef" for each in digits):
            return name + len(NAME) + begin
    return None


def _digest(path: Path, place: int) -> str:
    """SHA-256 with zeros for the digits, then the weights beside the file."""
    found = hashlib.sha256()
    with _held(path) as held, memoryview(held) as view:
        found.update(view[:place])
        found.update(OPEN.encode())
        found.update(view[place + len(OPEN) :])
    beside = weights_beside(path)
    if beside is not None:
        with _held(beside) as held:
            found.update(held)
    return found.hexdigest()
