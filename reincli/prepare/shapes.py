"""Outlines and run lengths of objects -> pixels; small objects lie over large ones.

Pixel (x, y) belongs to a polygon that its middle, (x + 0.5, y + 0.5), lies in, by the even-odd rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

LARGEST_SIDE = 32_768
"""Pixels of an image that objects are drawn on."""
FARTHEST = 1e6
"""Pixels from the image's corner beyond which no corner of an object can be meant."""


@dataclass(frozen=True)
class Shape:
    """An object: the stored value of its class, and its polygons [(n, 2) float x, y in pixels] or its mask (H, W)."""

    value: int
    polygons: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None


def filled(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels whose middle lies in a polygon, by the even-odd rule: (n, 2) float x, y -> (H, W) bool."""
    result = np.zeros((height, width), bool)
    low, high = np.floor(polygon.min(axis=0)), np.ceil(polygon.max(axis=0))
    left, above = (int(np.clip(at, 0, side)) for at, side in zip(low, (width, height), strict=True))
    right, below = (int(np.clip(at, 0, side)) for at, side in zip(high, (width, height), strict=True))
    if right > left and below > above:  # only where it lies: an image may have thousands of small ones
        inside = _filled(polygon - (left, above), below - above, right - left)
        result[above:below, left:right] = inside
    return result


def _filled(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """`filled` within a part of the picture: crossings of each row's middle line turn the inside on and off."""
    flips = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        top, bottom = (y0, y1) if y0 < y1 else (y1, y0)
        rows = np.arange(max(0, int(np.ceil(top - 0.5))), min(height, int(np.ceil(bottom - 0.5))))
        crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        np.add.at(flips, (rows, np.clip(np.ceil(crossed - 0.5), 0, width).astype(np.int64)), 1)
    return (flips.cumsum(axis=1)[:, :width] % 2).astype(bool)


def draw(shapes: Iterable[Shape], size: tuple[int, int], empty: int) -> np.ndarray:
    """Objects as (H, W) uint8 stored values, small ones over large ones; `empty` where there is none."""
    height, width = size
    label = np.full(size, empty, np.uint8)
    masks = []
    for shape in shapes:
        mask = shape.mask if shape.mask is not None else np.zeros(size, bool)
        for polygon in shape.polygons:
            mask = mask | filled(polygon, height, width)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size:  # only where it lies is kept: an image may be large and have thousands
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            masks.append((int(mask.sum()), shape.value, box, mask[box].copy()))
    for _, value, box, mask in sorted(masks, key=lambda each: -each[0]):
        label[box][mask] = value
    return label


def runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """COCO's run lengths, of 0 and 1 in turn down the columns -> (H, W) bool. ValueError where they do not fit."""
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"runs of {sum(counts)} pixels for {width}x{height}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def unpacked(text: str) -> list[int]:
    """Run lengths from COCO's text: groups of 5 bits, lowest first, from the third on as differences to two before."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        while True:
            bits = ord(text[at]) - 48  # IndexError where the text is cut
            value |= (bits & 0x1F) << shift
            at, shift = at + 1, shift + 5
            if not bits & 0x20:
                break
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
