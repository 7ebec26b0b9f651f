"""Looking through a prepared dataset: sizes, label values, unreadable files, pixels a class."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reincli.data.labels import IGNORE, Classes, count_values
from reincli.data.sources import UNDECLARED, Sample
from reincli.data.stored import read_values
from reincli.errors import ReinError
from reincli.media import workers
from reincli.media.images import read_image_like, sliver_of


@dataclass(frozen=True)
class FileReport:
    """What one pair of files holds.

    Attributes:
        sample: the pair.
        unreadable: why the image or the label cannot be read; '' where both can.
        undeclared: stored values that the dataset does not declare, ascending.
        image_size, label_size: (height, width); (0, 0) where not read.
        stored: (256,) int64 pixels by stored value; all 0 where not read.
        hint: what to do where it is unreadable.
        sliver: see `media.images.sliver_of`.
    """

    sample: Sample
    unreadable: str
    undeclared: tuple[int, ...]
    image_size: tuple[int, int]
    label_size: tuple[int, int]
    stored: np.ndarray
    hint: str = ""
    sliver: int = 0

    @property
    def turned(self) -> bool:
        """Whether the sides of image and label are exchanged: such a pair is left out of training and scores."""
        return is_turned(self.image_size, self.label_size)

    @property
    def plain(self) -> bool:
        """Whether the label was read and holds one value alone."""
        return int(np.count_nonzero(self.stored)) == 1

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
        label = read_values(sample.label, sample.colors)
        image = read_image_like(sample.image, (label.shape[0], label.shape[1]))
    except ReinError as error:
        message = error.message.removesuffix(".")
        return FileReport(sample, message, (), (0, 0), (0, 0), nothing, error.hint)
    counts = count_values(label)
    size, label_size = image.shape[:2], label.shape[:2]
    return FileReport(
        sample,
        "",
        undeclared_values(counts, table),
        (size[0], size[1]),
        (label_size[0], label_size[1]),
        counts,
        sliver=sliver_of(sample.image),
    )


def inspect_all(
    samples: Sequence[Sample], tables: Mapping[str, np.ndarray], *, threads: int = 4
) -> Generator[FileReport, None, None]:
    """Reports of all pairs in their order; files are decoded in threads, outside of the interpreter's lock."""
    with workers.threads(threads) as pool:
        yield from workers.in_order(pool, lambda sample: inspect(sample, tables[sample.dataset]), samples)


def class_pixels(counts: np.ndarray, table: np.ndarray, classes: int) -> np.ndarray:
    """(classes,) int64 pixels by class index, from pixels by stored value and a label table."""
    known = (table >= 0) & (table < classes)
    pixels = np.bincount(table[known], weights=counts[known], minlength=classes)
    return np.rint(pixels[:classes]).astype(np.int64)


def require_pixels(stored: np.ndarray, table: np.ndarray, what: str) -> None:
    """ReinError where no pixel is of any class: `stored` (256,) pixels by stored value, by a label table.

    `what` was looked through, in the words of the error. Nothing is said where nothing was read.
    """
    total = int(stored.sum())
    if not total or int(stored[(table >= 0) & (table != IGNORE)].sum()):
        return
    values = ", ".join(
        f"{value} ({stored[value] / total:.0%})" for value in np.argsort(-stored)[:3] if stored[value]
    )
    raise ReinError(
        f"No pixel of {what} is of any class: all are of stored values that are ignored, {values}.",
        'Declare which values are classes: ignore, and map = { "VALUE" = CLASS }, in the description.',
    )


def absent_classes(stored: np.ndarray, table: np.ndarray, classes: Classes) -> str:
    """A sentence on classes of which no pixel is there, and on ignored ones that may be meant; '' where all occur."""
    total, pixels = int(stored.sum()), class_pixels(stored, table, len(classes))
    absent = [name for name, count in zip(classes.names, pixels, strict=True) if not count]
    if not absent or not total:
        return ""
    told = f"no pixel is of {_listed(absent)} ({len(absent)} of {len(classes)} classes)"
    ignored = [int(value) for value in np.flatnonzero((table == IGNORE) & (stored > 0))]
    if not ignored:
        return told + "."
    most = max(ignored, key=lambda value: int(stored[value]))
    example = classes.names.index(absent[0])
    return (
        f"{told}; value {most}, which is ignored, covers {stored[most] / total:.0%} of the pixels: if it is "
        f"'{absent[0]}', write map = {{ ..., \"{most}\" = {example} }}."
    )


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
