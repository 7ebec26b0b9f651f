"""Legends: strips of colours and their names, to put below a picture so that they cover nothing of it.

A palette is (256, 3) uint8 RGB; pictures are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from reincli.media.text import fitted, measure, write

IGNORED = 255
"""Label of pixels without a class."""
PAPER = (255, 255, 255)
INK = (38, 38, 38)
PALE = 0.22
"""How much is left of the colour of what a legend lists but the picture does not show."""


@dataclass(frozen=True)
class Entry:
    """A name and its colour; `other` fills the right half of the swatch where given; `fades`: towards paper."""

    text: str
    color: tuple[int, int, int]
    other: tuple[int, int, int] | None = None
    fades: bool = False
    pale: bool = False


def present(label: np.ndarray) -> list[int]:
    """Indices of the classes in a label map, ascending, without the ignored."""
    counts = np.bincount(label.ravel(), minlength=256)
    return [int(index) for index in np.flatnonzero(counts) if index != IGNORED]


def class_entries(
    indices: Sequence[int], names: Sequence[str], palette: np.ndarray, pale: Collection[int] = ()
) -> list[Entry]:
    """One entry a class; a class beyond the names is shown by its index; those in `pale` are printed faintly."""
    return [
        Entry(
            names[index] if index < len(names) else f"class {index}",
            (int(palette[index][0]), int(palette[index][1]), int(palette[index][2])),
            pale=index in pale,
        )
        for index in indices
    ]


def legend(
    indices: Sequence[int], names: Sequence[str], palette: np.ndarray, width: int, height: int
) -> np.ndarray:
    """A strip with colour and name of classes, see `strip`."""
    return strip(class_entries(indices, names, palette), width, height)


def strip(entries: Sequence[Entry], width: int, height: int) -> np.ndarray:
    """A strip to put below a picture: swatches and names in even columns.

    Args:
        entries: what to list.
        width: of the strip in pixels.
        height: of the text in pixels, see `paint.text_height`.

    Returns:
        (h, width, 3), h as many rows as it takes; 0 where there is nothing to list.
    """
    if not entries:
        return np.full((0, width, 3), PAPER, np.uint8)
    pad, swatch, gap, between = (round(height * share) for share in (0.7, 1.05, 0.45, 1.2))
    room = max(1, width - 2 * pad)
    widest = swatch + gap + max(measure(entry.text, height) for entry in entries) + between
    columns = max(1, min(len(entries), (room + between) // widest))
    rows = math.ceil(len(entries) / columns)
    columns = math.ceil(len(entries) / rows)  # the same rows, evenly filled
    step = min(room // columns, round(widest * 1.25))
    line = round(height * 1.6)
    picture = np.full((2 * pad + (rows - 1) * line + swatch, width, 3), PAPER, np.uint8)
    shape = _rounded(swatch)
    for position, entry in enumerate(entries):
        row, column = divmod(position, columns)
        left, top = pad + column * step, pad + row * line
        _paste(picture, _swatch(entry, swatch), shape, left, top)
        text = fitted(entry.text, height, width - left - swatch - gap - pad // 2)
        ink = _paler(INK) if entry.pale else INK
        write(picture, text, left + swatch + gap, top + swatch // 2, height, ink)
    return picture


def _swatch(entry: Entry, size: int) -> np.ndarray:
    """(size, size, 3) float32."""
    block = np.full((size, size, 3), _paler(entry.color) if entry.pale else entry.color, np.float32)
    if entry.other is not None:
        block[:, size // 2 :] = entry.other
    if entry.fades:
        share = np.linspace(1, 0.1, size, dtype=np.float32)[None, :, None]
        block = block * share + np.array(PAPER, np.float32) * (1 - share)
    return block


def _paler(color: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (round(c * PALE + 255 * (1 - PALE)) for c in color)
    return red, green, blue


def _rounded(size: int) -> np.ndarray:
    """(size, size, 1) float32 0-1, a square with soft corners: drawn four times larger and shrunk."""
    large, corner = size * 4, round(size * 0.8)
    shape = np.zeros((large, large), np.uint8)
    for x in (corner, large - 1 - corner):
        for y in (corner, large - 1 - corner):
            cv2.circle(shape, (x, y), corner, 255, -1)
    cv2.rectangle(shape, (corner, 0), (large - 1 - corner, large - 1), 255, -1)
    cv2.rectangle(shape, (0, corner), (large - 1, large - 1 - corner), 255, -1)
    return cv2.resize(shape, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255


def _paste(picture: np.ndarray, block: np.ndarray, shape: np.ndarray, left: int, top: int) -> None:
    window = picture[top : top + len(block), left : left + len(block)]
    weight = shape[: window.shape[0], : window.shape[1]]
    block = block[: window.shape[0], : window.shape[1]]
    window[:] = np.rint(window * (1 - weight) + block * weight).astype(np.uint8)
