"""Confusion matrices of many images in little room: in one image most pairs of classes never meet.

K classes, N images, M entries that are not zero.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sparse:
    """One (K, K) matrix of counts: `cell` (m,) int64 is label * K + prediction, `count` (m,) int64."""

    cell: np.ndarray
    count: np.ndarray


def sparse(matrix: np.ndarray) -> Sparse:
    """The entries of a (K, K) matrix of counts that are not zero."""
    flat = matrix.reshape(-1)
    cell = np.flatnonzero(flat)
    return Sparse(cell, flat[cell].astype(np.int64))


def pack(matrices: Sequence[Sparse]) -> str:
    """Matrices as text: (image, cell, count) of every entry, three rows of little-endian uint32, zlib, base64.

    A count is of pixels of one image, so 32 bits hold it.
    """
    rows = [np.full(len(each.cell), index, "<u4") for index, each in enumerate(matrices)]
    table = np.stack([
        np.concatenate([*rows, np.zeros(0, "<u4")]),
        np.concatenate([*(each.cell for each in matrices), np.zeros(0, np.int64)]),
        np.concatenate([*(each.count for each in matrices), np.zeros(0, np.int64)]),
    ]).astype("<u4")  # fmt: skip
    return base64.b64encode(zlib.compress(table.tobytes(), 9)).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """What `pack` wrote, as (3, M) int64: image, cell, count.

    Raises:
        ValueError: it is something else, or damaged.
    """
    try:
        raw = zlib.decompress(base64.b64decode(text, validate=True))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"packed matrices are damaged: {error}") from None
    if len(raw) % 12:
        raise ValueError(f"packed matrices have {len(raw)} bytes, which three rows of 32 bits do not fill")
    return np.frombuffer(raw, "<u4").reshape(3, -1).astype(np.int64)


def areas(table: np.ndarray, images: int, classes: int) -> np.ndarray:
    """Pixels that decide the scores, by image and class: (3, M) of `unpack` -> (N, 3, K) int64.

    The three are: right, labelled, predicted.

    Raises:
        ValueError: the table speaks of other images or classes.
    """
    image, cell, count = table
    if image.max(initial=0) >= max(images, 1) or cell.max(initial=0) >= classes * classes:
        raise ValueError("packed matrices do not fit the number of images or classes beside them")
    label, prediction = np.divmod(cell, classes)
    result = np.zeros((images, 3, classes), np.int64)
    right = label == prediction
    np.add.at(result, (image[right], 0, label[right]), count[right])
    np.add.at(result, (image, 1, label), count)
    np.add.at(result, (image, 2, prediction), count)
    return result
