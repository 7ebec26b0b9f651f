"""Looking through a prepared dataset: sizes, label values, unreadable files, pixels a class."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from reincli.data.labels import count_values
from reincli.data.sources import UNDECLARED, Sample
from reincli.errors import ReinError
from reincli.media.images import read_image_like, read_label


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
    def turned(self) -> bool:
        """Whether the sides of image and label are exchanged: such a pair is left out of training and scores."""
        return is_turned(self.image_size, self.label_size)

    @property
    def mismatched(self) -> bool:
        """Whether image and label were read and differ in size in another way."""
        return not self.unreadable and self.image_size != self.label_size and not self.turned


def is_turned(image: tuple[int, int], label: tuple[int, int]) -> bool:
    """Whether the sides of image and label are exchanged, (height, width) each."""
    return image != label and image == label[::-1]


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
        image = read_image_like(sample.image, (label.shape[0], label.shape[1]))
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
