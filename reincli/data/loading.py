"""One image and its label, ready to be cut: from the compact copy where there is one, else from their files.

What does not lie the same way in image and label is settled here. A photograph whose EXIF note turns it is taken as
its label was drawn, turned or not; a label whose sides are exchanged and that no note explains cannot be
laid over its image: all of its pixels are ignored (a few pairs of BDD100K are like that).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from reincli.data.check import is_turned
from reincli.data.compact import open_compact
from reincli.data.labels import IGNORE, count_values
from reincli.data.layouts import DATASETS, NO_CONVERSION
from reincli.data.sources import UNDECLARED, Sample, prepare_command
from reincli.data.stored import LAST_PANOPTIC, read_values
from reincli.data.transforms import ArrayPixels, Pixels
from reincli.errors import ReinError
from reincli.media.images import read_image, read_image_like
from reincli.media.picture_kinds import jpeg_size

SHRINKS = (8, 4, 2)
"""Factors by which a JPEG decoder can shrink an image on the way."""


@dataclass(frozen=True)
class Pair:
    """An image that is not decoded yet, and its label.

    Attributes:
        shape: (height, width) of the image.
        label: (H, W) uint8 class indices, 255 ignored.
        pixels: the image for use at a scale (resized / stored size). JPEGs are decoded at 1/2, 1/4 or 1/8 of their
            size where the scale is not above that, so that its shape may be smaller than `shape`.
    """

    shape: tuple[int, int]
    label: np.ndarray
    pixels: Callable[[float], Pixels]


def open_pair(sample: Sample, table: np.ndarray) -> Pair:
    """Open a sample for training.

    Args:
        sample: with a label file.
        table: (256,) int16 of `sources.label_table`.

    Raises:
        ReinError: a file is unreadable, or the label has values that the dataset does not declare.
    """
    copy = open_compact(sample)
    if copy is not None:
        compact = copy
        undeclared = tuple(value for value in compact.values if table[value] == UNDECLARED)
        if undeclared:
            raise _undeclared(sample, undeclared, table)
        return Pair(compact.shape, to_indices(compact.label(), table), lambda scale: compact)
    label = load_label(sample, table)
    size = (label.shape[0], label.shape[1])
    if jpeg_size(sample.image) == size:
        return Pair(size, label, lambda scale: ArrayPixels(_shrunk(sample, size, scale)))
    image = read_image_like(sample.image, size)
    shape = (image.shape[0], image.shape[1])
    if is_turned(shape, size):
        label = np.full(shape, IGNORE, np.uint8)
    return Pair(shape, label, lambda scale: ArrayPixels(image))


def _shrunk(sample: Sample, size: tuple[int, int], scale: float) -> np.ndarray:
    """A JPEG at the smallest size that a scale needs, lying as its label does."""
    shrink = next((n for n in SHRINKS if scale * n <= 1), 1)
    expected = (-(-size[0] // shrink), -(-size[1] // shrink))
    image = read_image(sample.image, shrink)
    if image.shape[:2] == expected:
        return image
    return read_image(sample.image, shrink, turn=False)


# --- labels ------------------------------------------------------------------------------------------------


def load_label(sample: Sample, table: np.ndarray, hint: str | None = None) -> np.ndarray:
    """The label of a sample as (h, w) uint8 class indices, 255 ignored.

    Args:
        sample: with a label file.
        table: (256,) int16 of `sources.label_table`.
        hint: what to do about values that are not declared, where the name of the dataset does not tell.

    Raises:
        ReinError: unreadable, or with values that the dataset does not declare.
    """
    if sample.label is None:
        raise ReinError(f"The image '{sample.image}' has no label.", "Choose a split with labels.")
    stored = read_values(sample.label, sample.colors)
    if cv2.countNonZero(cv2.LUT(stored, (table == UNDECLARED).astype(np.uint8))):
        found = np.flatnonzero((count_values(stored) > 0) & (table == UNDECLARED))
        raise _undeclared(sample, [int(value) for value in found], table, hint)
    return to_indices(stored, table)


def to_indices(stored: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Stored values to class indices; what is not declared is ignored."""
    return cv2.LUT(stored, np.where(table == UNDECLARED, IGNORE, table).astype(np.uint8))


def _undeclared(
    sample: Sample, values: Sequence[int], table: np.ndarray, hint: str | None = None
) -> ReinError:
    return ReinError(complaint(sample, values, table) + ".", hint or value_hint(sample))


def complaint(sample: Sample, values: Sequence[int], table: np.ndarray) -> str:
    """What a label holds that its dataset does not declare, as the beginning of a sentence."""
    declared = [int(v) for v in np.flatnonzero(table != UNDECLARED)]
    found = f"{'value' if len(values) == 1 else 'values'} {ranges(values)}"
    kind = ""
    if sample.dataset == "bdd100k" and max(values) <= LAST_PANOPTIC:
        kind = f" (ids up to {LAST_PANOPTIC} are those of its panoptic masks)"
    return f"The label '{sample.label}' has {found}; '{sample.dataset}' declares {ranges(declared)}{kind}"


def value_hint(sample: Sample) -> str:
    """What to do about values that are not declared."""
    if sample.dataset in NO_CONVERSION:
        other = f" (panoptic masks have ids up to {LAST_PANOPTIC})" if sample.dataset == "bdd100k" else ""
        return (
            f"Bring the labels that '{sample.dataset}' is trained on: class indices (0-18, 255) of its semantic "
            f"segmentation, not those of another task{other}."
        )
    if sample.dataset in DATASETS:
        return f"Prepare the labels again: {prepare_command(sample)} --force"
    return f"Declare the values under data.own.{sample.dataset} (classes, ignore, map), or mend the files."


def ranges(values: Sequence[int]) -> str:
    """[0, 1, 2, 7, 255] -> '0-2, 7, 255'."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
