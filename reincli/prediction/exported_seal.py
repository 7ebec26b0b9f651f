"""The seal of an exported file: a digest by which is noticed what a runtime would compute with unasked.

It stands in what the file says of itself, under `NAME`, as 64 hexadecimal digits: SHA-256 over the bytes of the file
with zeros in the place of these digits, and over the weights beside it (`.onnx.data`, `.bin`), if there are any. So
the file stays one that every runtime reads, and no further file has to be kept with it.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

NAME = "rein_sha256"
OPEN = "0" * 64
"""What stands there until the file is sealed."""
FARTHEST = 64
"""Bytes between the name and its digits, in protobuf and in XML."""
PIECE = 1 << 22


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
    beside = _beside(path)
    with_it = f" (with '{beside.name}')" if beside else ""
    return (
        f"'{path.name}'{with_it} is not as rein export wrote it: another program has changed it, or it is damaged. If "
        "nobody changed it, copy it again from where it was made."
    )


def _beside(path: Path) -> Path | None:
    """Weights in a file of their own."""
    names = (path.with_suffix(".bin"),) if path.suffix.lower() == ".xml" else (Path(f"{path}.data"),)
    return next((each for each in names if each.is_file()), None)


def _place(path: Path) -> int | None:
    """Where the digits begin: what a file says of itself comes last, so the last of the names is the one."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
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
    with open(path, "rb") as file:
        left = place
        while left:
            piece = file.read(min(PIECE, left))
            found.update(piece)
            left -= len(piece)
        found.update(OPEN.encode())
        file.seek(place + len(OPEN))
        while piece := file.read(PIECE):
            found.update(piece)
    beside = _beside(path)
    if beside is not None:
        with open(beside, "rb") as file:
            while piece := file.read(PIECE):
                found.update(piece)
    return found.hexdigest()
