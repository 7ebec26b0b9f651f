"""What a picture file is by its first bytes: kinds that are read whole or refused by name, sizes told by the head."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from reincli.errors import ReinError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*")
"""How TIFFs begin."""
FORMS = {2: "signed integers", 3: "floats", 6: "complex numbers"}
"""Kinds of samples of a TIFF beside plain integers."""
_WIDTH, _HEIGHT, _BITS, _FORM = 256, 257, 258, 339  # numbers of its tags
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # marks that the size follows
_JPEG_PIXELS = (0xD9, 0xDA)  # end of the image, start of its pixels


HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
"""What an HEIF file says of itself; such photographs are often made of tiles."""


def picture_kind(path: Path) -> str:
    """'HEIC', 'AVIF' or 'GIF' by the first bytes of a file; '' for every other."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start[4:8] == b"ftyp":
        brands = {
            start[8:12],
            *(start[n : n + 4] for n in range(16, min(int.from_bytes(start[:4], "big"), 64), 4)),
        }
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & set(HEIF_BRANDS):
            return "HEIC"
    return ""


def holds_more(path: Path) -> bool:
    """Whether a TIFF, GIF, PNG or WebP has pages or frames after its first, which alone is read."""
    try:
        with open(path, "rb") as file:
            start = file.read(32)
            if start[:4] in TIFF:
                return _has_second_page(file, "<" if start[:1] == b"I" else ">")
            if start[:8] == PNG_SIGNATURE:
                return _is_animated_png(file)
    except OSError:
        return False
    if start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X":
        return bool(start[20] & 2) if len(start) > 20 else False
    if start[:4] != b"GIF8":
        return False
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return bool(getattr(opened, "is_animated", False))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _has_second_page(file: BinaryIO, order: str) -> bool:
    """Of a TIFF: after the entries of its first directory stands where the next one is, 0 for none."""
    try:
        file.seek(4)
        file.seek(struct.unpack(f"{order}I", file.read(4))[0])
        (count,) = struct.unpack(f"{order}H", file.read(2))
        file.seek(12 * count, 1)
        return bool(struct.unpack(f"{order}I", file.read(4))[0])
    except struct.error:
        return False


def _is_animated_png(file: BinaryIO) -> bool:
    """Whether the chunk acTL stands before the pixels (PNG specification, third edition, 11.3.6)."""
    file.seek(len(PNG_SIGNATURE))
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        if head[4:] == b"acTL":
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def lossy_kind(path: Path) -> str:
    """'JPEG' or 'lossy WebP' by the content of a file, whose pixels are not those that were written; '' for others."""
    with open(path, "rb") as file:
        start = file.read(12)
        if start.startswith(b"\xff\xd8\xff"):
            return "JPEG"
        if start[:4] != b"RIFF" or start[8:] != b"WEBP":
            return ""
        while len(head := file.read(8)) == 8:  # parts, each with its length
            if head[:4] in (b"VP8 ", b"VP8L"):
                return "lossy WebP" if head[3:4] == b" " else ""
            length = int.from_bytes(head[4:], "little")
            file.seek(length + length % 2, 1)
    return ""


def why_not(path: Path, data: np.ndarray, what: str) -> ReinError:
    """Why a file cannot be decoded: what it is instead of a damaged image, where that can be told."""
    start = data[:200].tobytes().lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return ReinError(
            f"The {what} '{path}' is a Git LFS pointer, the few lines that stand for the file.",
            "Fetch what it stands for: git lfs pull, in its repository.",
        )
    if start.startswith((b"<!doctype html", b"<html")):
        return ReinError(
            f"The {what} '{path}' is a web page: its address showed a page instead of the file.",
            "Fetch the file itself.",
        )
    if not data.size:
        return ReinError(
            f"The {what} '{path}' is empty (0 bytes).", "A copy was cut off: bring a whole one of it."
        )
    kind, size = picture_kind(path), size_told(path, data)
    if kind == "HEIC":
        return ReinError(
            f"The {what} '{path}' is an HEIC photo, which is not read here.",
            "Convert it to JPEG or PNG (any photo program, or: magick IN.heic OUT.jpg).",
        )
    if kind:
        return ReinError(
            f"The {what} '{path}' is a {kind} that OpenCV does not read.", "Save it as PNG or JPEG."
        )
    if size is not None and size[0] * size[1] > 1 << 30:
        return ReinError(
            f"The {what} '{path}' has {size[0]}x{size[1]} pixels, more than OpenCV reads (2^30).",
            f"Cut it into tiles, or raise the limit: set OPENCV_IO_MAX_IMAGE_PIXELS={size[0] * size[1]} before the "
            "command.",
        )
    if data[:4].tobytes() in TIFF:
        numbers = tiff_tags(data)
        bits, form = numbers.get(_BITS, 0), FORMS.get(numbers.get(_FORM, 1))
        if form is not None and bits > 16:
            return ReinError(
                f"The {what} '{path}' is a TIFF of {bits}-bit {form}, of which nobody knows which value is white.",
                "Save it with 8 or 16 bits a channel, black as 0 and white as 255 or 65535.",
            )
        return ReinError(
            f"Cannot decode the {what} '{path}', a TIFF: it is damaged, or of a kind that OpenCV does not read.",
            "Save it anew with 8 or 16 bits a channel; samples of 32 bits are not read.",
        )
    return ReinError(
        f"Cannot decode the {what} '{path}' ({data.size} bytes).",
        "The file is damaged, cut short or no image: bring a whole copy of it.",
    )


def size_told(path: Path, data: np.ndarray) -> tuple[int, int] | None:
    """(width, height) by the head of a PNG, JPEG, TIFF or BMP; None for others."""
    start = data[:26].tobytes()
    if start[:2] == b"\xff\xd8":
        found = jpeg_size(path)
        return None if found is None else found[::-1]
    if start[:4] in TIFF:
        numbers = tiff_tags(data)
        return numbers.get(_WIDTH, 0), numbers.get(_HEIGHT, 0)
    if start[:2] == b"BM" and len(start) == 26:
        width, height = struct.unpack("<ii", start[18:26])
        return width, abs(height)
    return _png_size(data)


def tiff_tags(data: np.ndarray) -> dict[int, int]:
    """The first number of each tag of a TIFF's first directory (TIFF 6.0, section 2); empty for a damaged one."""
    order, view = "<" if data[0] == ord("I") else ">", data.data
    tags = {}
    try:
        (start,) = struct.unpack_from(f"{order}I", view, 4)
        (count,) = struct.unpack_from(f"{order}H", view, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, many = struct.unpack_from(f"{order}HHI", view, at)
            if kind not in (3, 4):  # numbers of 16 and 32 bits
                continue
            place = at + 8
            if many * (2 if kind == 3 else 4) > 4:
                (place,) = struct.unpack_from(f"{order}I", view, place)
            (tags[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", view, place)
    except struct.error:
        return {}
    return tags


def _png_size(data: np.ndarray) -> tuple[int, int] | None:
    header = data[:24].tobytes()
    if header[:8] != PNG_SIGNATURE or len(header) < 24:
        return None
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def jpeg_size(path: Path) -> tuple[int, int] | None:
    """(height, width) as stored in a JPEG, from its head alone; None for other files and damaged ones."""
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"\xff\xd8":
                return None
            while True:
                mark = file.read(2)
                while mark == b"\xff\xff":  # fill bytes
                    mark = b"\xff" + file.read(1)
                if len(mark) < 2 or mark[0] != 0xFF or mark[1] in _JPEG_PIXELS:
                    return None
                length = int.from_bytes(file.read(2), "big")
                if mark[1] in _JPEG_FRAMES:
                    frame = file.read(5)
                    return int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
                file.seek(max(length - 2, 0), 1)
    except OSError:
        return None
