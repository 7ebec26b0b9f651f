"""Looking through a prepared dataset: sizes, label values, unreadable files, pixels a class."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from reincli.data.images import read_image, read_label
from reincli.data.sources import UNDECLARED, Sample
from reincli.errors import ReinError


@dataclass(frozen=True)
class FileReport:
    """What one pair of files holds.

    Attributes:
        sample: the pair.
        unreadable: why the image or the label cannot be read; '' where both can.
        undeclared: stored values that the dataset does not declare, ascending.
        image_size, label_size: (height, width); (0, 0) where not read.
        stored: (256,) int64 pixels by stored value; all 0 where not read.
    """

    sample: Sample
    unreadable: str
    undeclared: tuple[int, ...]
    image_size: tuple[int, int]
    label_size: tuple[int, int]
    stored: np.ndarray

    @property
    def mismatched(self) -> bool:
        """Whether image and label were read and differ in size."""
        return not self.unreadable and self.image_size != self.label_size


def count_values(stored: np.ndarray) -> np.ndarray:
    """(256,) int64: how many pixels of a (H, W) uint8 map have each value."""
    if stored.size >= 1 << 24:  # OpenCV counts in single precision: exact below this many
        return np.bincount(stored.ravel(), minlength=256)
    return np.rint(cv2.calcHist([stored], [0], None, [256], [0, 256]).ravel()).astype(np.int64)


def undeclared_values(counts: np.ndarray, table: np.ndarray) -> tuple[int, ...]:
    """Values that occur and that a label table does not know, ascending."""
    return tuple(int(value) for value in np.flatnonzero((counts > 0) & (table == UNDECLARED)))


def inspect(sample: Sample, table: np.ndarray) -> FileReport:
    """Read a pair wholly and say what it holds; nothing is raised for what is wrong with it."""
    nothing = np.zeros(256, np.int64)
    try:
        if sample.label is None:
            return FileReport(sample, f"The image '{sample.image}' has no label", (), (0, 0), (0, 0), nothing)
        label = read_label(sample.label)
        image = read_image(sample.image)
    except ReinError as error:
        return FileReport(sample, error.message.removesuffix("."), (), (0, 0), (0, 0), nothing)
    counts = count_values(label)
    size, label_size = image.shape[:2], label.shape[:2]
    return FileReport(
        sample,
        "",
        undeclared_values(counts, table),
        (size[0], size[1]),
        (label_size[0], label_size[1]),
        counts,
    )


def inspect_all(
    samples: Sequence[Sample], tables: Mapping[str, np.ndarray], *, threads: int = 4
) -> Generator[FileReport, None, None]:
    """Reports of all pairs in their order; files are decoded in threads, outside of the interpreter's lock."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(lambda sample: inspect(sample, tables[sample.dataset]), samples)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def class_pixels(counts: np.ndarray, table: np.ndarray, classes: int) -> np.ndarray:
    """(classes,) int64 pixels by class index, from pixels by stored value and a label table."""
    known = (table >= 0) & (table < classes)
    pixels = np.bincount(table[known], weights=counts[known], minlength=classes)
    return np.rint(pixels[:classes]).astype(np.int64)
