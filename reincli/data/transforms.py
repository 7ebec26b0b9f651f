"""Sizes, crops, flips and colours of training images, as pure functions of arrays and drawn numbers.

Images are (H, W, 3) uint8 0-255 RGB, labels (H, W) uint8 class indices with 255 = ignored. Sizes are (height,
width). Random functions take a generator and draw from it in the order in which the original implementation
draws, so that with a generator that wraps its random source they give its pixels.

The crop is chosen on the label alone, of which only the cropped pixels are ever looked up. The image is
resized whole and cut after: OpenCV needs 2 to 7 ms for that at the scales of the 512 recipe (decoding
takes 40 ms), while resampling only the cropped region to the same pixels takes longer outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from reincli.config import AugmentSettings
from reincli.data.labels import IGNORE

SCALE_STEPS = tuple(range(5, 21))
"""Tenths of the short side among which `shortest_edge` draws (0.5 to 2.0)."""
CROP_TRIES = 10
"""How often a crop that one class fills is drawn again."""
BRIGHTNESS = 32.0
"""Largest shift of brightness, in grey levels."""
HUE = 18
"""Largest turn of hue, in OpenCV's 180 steps a circle."""


class Draw(Protocol):
    """What is needed of a random generator; `numpy.random.Generator` is one."""

    def integers(self, low: int, high: int) -> int:
        """A uniform integer, low <= n < high."""

    def uniform(self, low: float, high: float) -> float:
        """A uniform float, low <= x < high."""


@dataclass(frozen=True)
class Box:
    """A part of an image: rows top <= y < bottom, columns left <= x < right."""

    top: int
    bottom: int
    left: int
    right: int


# --- sizes -------------------------------------------------------------------------------------------------


def keep_ratio_size(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """The largest (height, width) of the same ratio whose sides stay within `long_side` and `short_side`."""
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def shortest_edge_size(height: int, width: int, short_side: int, long_side_max: int) -> tuple[int, int]:
    """(height, width) with the short side at `short_side`, smaller where the long side passes its maximum.

    Rounded twice, as released: first to whole pixels, then once more by the keep-ratio rule towards that size
    (in 77 of 1,152 usual cases the second rounding moves a side by one pixel).
    """
    factor = short_side / min(height, width)
    new_height, new_width = (short_side, factor * width) if height < width else (factor * height, short_side)
    if max(new_height, new_width) > long_side_max:
        factor = long_side_max / max(new_height, new_width)
        new_height, new_width = new_height * factor, new_width * factor
    first = (int(new_height + 0.5), int(new_width + 0.5))
    return keep_ratio_size(height, width, max(first), min(first))


def draw_size(height: int, width: int, augment: AugmentSettings, rng: Draw) -> tuple[int, int]:
    """The size (height, width) to which a training image is resized; one number is drawn."""
    if augment.resize == "shortest_edge":
        step = SCALE_STEPS[int(rng.integers(0, len(SCALE_STEPS)))]
        return shortest_edge_size(height, width, int(augment.short_side * 0.1 * step), augment.long_side_max)
    ratio = float(rng.uniform(*augment.ratio))
    target = [int(side * ratio) for side in augment.size]
    return keep_ratio_size(height, width, max(target), min(target))


# --- resampling --------------------------------------------------------------------------------------------


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at (height, width), bilinear without antialiasing."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def nearest_indices(stored: int, resized: int, start: int, stop: int) -> np.ndarray:
    """Where pixels start..stop of an axis resized from `stored` to `resized` come from; OpenCV's rounding."""
    step = 1.0 / (resized / stored)  # not stored / resized: the last bit decides at whole numbers
    return np.minimum(np.floor(np.arange(start, stop) * step).astype(np.intp), stored - 1)


def resize_label(label: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """A label at (height, width), nearest neighbour; with a box only that part of the result, at its cost."""
    box = box or Box(0, size[0], 0, size[1])
    rows = nearest_indices(label.shape[0], size[0], box.top, box.bottom)
    columns = nearest_indices(label.shape[1], size[1], box.left, box.right)
    return label[rows[:, None], columns]


# --- crop and flip -----------------------------------------------------------------------------------------


def draw_box(size: tuple[int, int], crop: tuple[int, int], rng: Draw) -> Box:
    """A uniform window of at most `crop` (height, width) pixels; two numbers are drawn, row then column."""
    top = int(rng.integers(0, max(size[0] - crop[0], 0) + 1))
    left = int(rng.integers(0, max(size[1] - crop[1], 0) + 1))
    return Box(top, min(top + crop[0], size[0]), left, min(left + crop[1], size[1]))


def is_varied(label: np.ndarray, max_class_share: float) -> bool:
    """Whether a label has two classes or more, the largest below this share; ignored pixels do not count."""
    counts = np.bincount(label.ravel(), minlength=256)
    counts[IGNORE] = 0
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_class_share)


def draw_crop(
    label: np.ndarray, size: tuple[int, int], crop: tuple[int, int], max_class_share: float, rng: Draw
) -> tuple[Box, np.ndarray]:
    """A crop window in an image resized to `size`, and the label in it, drawn again while one class fills it.

    After ten vain tries the eleventh window is taken as it is.

    Args:
        label: (h, w) class indices at the stored size.
        size: (height, width) after resizing.
        crop: (height, width) of the window in pixels.
        max_class_share: 1 or more: no limit, one window is drawn.
        rng: two numbers are drawn a window.
    """
    box = draw_box(size, crop, rng)
    for _ in range(CROP_TRIES if max_class_share < 1 else 0):
        cropped = resize_label(label, size, box)
        if is_varied(cropped, max_class_share):
            return box, cropped
        box = draw_box(size, crop, rng)
    return box, resize_label(label, size, box)


def pad(array: np.ndarray, side: int, value: int) -> np.ndarray:
    """An array filled up right and bottom with `value` to at least side x side."""
    missing = [(0, max(side - array.shape[0], 0)), (0, max(side - array.shape[1], 0))]
    if not any(after for _, after in missing):
        return array
    return np.pad(array, missing + [(0, 0)] * (array.ndim - 2), constant_values=value)


# --- colour ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distortion:
    """Drawn colour changes; None: not applied. `contrast_last`: after saturation and hue, not before."""

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_last: bool = False


def draw_distortion(rng: Draw) -> Distortion:
    """Draw brightness, order, contrast, saturation and hue, each applied with probability 1/2."""

    def coin() -> bool:
        return bool(rng.integers(0, 2))

    brightness = float(rng.uniform(-BRIGHTNESS, BRIGHTNESS)) if coin() else None
    contrast_last = not coin()
    contrast = None
    if not contrast_last:
        contrast = float(rng.uniform(0.5, 1.5)) if coin() else None
    saturation = float(rng.uniform(0.5, 1.5)) if coin() else None
    hue = int(rng.integers(-HUE, HUE)) if coin() else None
    if contrast_last:
        contrast = float(rng.uniform(0.5, 1.5)) if coin() else None
    return Distortion(brightness, contrast, saturation, hue, contrast_last)


def distort(image: np.ndarray, change: Distortion) -> np.ndarray:
    """An image with its colours changed; every step is clipped and cut to whole levels, as released.

    Each step is a table of 256 entries: the same values as the formula at a fraction of the time.
    """
    before = _line(alpha=1.0, beta=change.brightness) if change.brightness is not None else None
    contrast = _line(alpha=change.contrast, beta=0.0) if change.contrast is not None else None
    first = [before] + ([] if change.contrast_last else [contrast])
    image = _look_up(image, first)
    if change.saturation is not None or change.hue is not None:
        image = _turn(image, change.saturation, change.hue)
    return _look_up(image, [contrast]) if change.contrast_last else image


def _line(alpha: float, beta: float) -> np.ndarray:
    """clip(alpha * level + beta) of every level 0-255 in single precision, as uint8."""
    levels = np.arange(256, dtype=np.float32) * np.float32(alpha) + np.float32(beta)
    return np.clip(levels, 0, 255).astype(np.uint8)


def _look_up(image: np.ndarray, tables: Sequence[np.ndarray | None]) -> np.ndarray:
    joined: np.ndarray | None = None
    for table in tables:
        if table is not None:
            joined = table if joined is None else table[joined]
    return image if joined is None else cv2.LUT(image, joined)


def _turn(image: np.ndarray, saturation: float | None, hue: int | None) -> np.ndarray:
    """Change saturation, then hue; each makes its own way through HSV and back, which rounds."""
    levels = np.arange(256, dtype=np.uint8)
    hues = levels if hue is None else ((levels.astype(int) + hue) % 180).astype(np.uint8)
    saturations = levels if saturation is None else _line(saturation, 0.0)
    steps = []
    if saturation is not None:
        steps.append(np.stack([levels, saturations, levels], axis=-1))
    if hue is not None:
        steps.append(np.stack([hues, levels, levels], axis=-1))
    for table in steps:
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image


# --- all of it ---------------------------------------------------------------------------------------------


def augment_pair(
    image: np.ndarray, label: np.ndarray, augment: AugmentSettings, rng: Draw
) -> tuple[np.ndarray, np.ndarray]:
    """Resize, crop, flip and colour an image and its label; not padded.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8 class indices.
        augment: sizes and probabilities.
        rng: draws size, crop, flip, colour in this order.

    Returns:
        image (h, w, 3) and label (h, w), h and w at most `augment.crop`; both contiguous.
    """
    size = draw_size(image.shape[0], image.shape[1], augment, rng)
    box, label = draw_crop(label, size, (augment.crop, augment.crop), augment.max_class_share, rng)
    image = resize_image(image, size)[box.top : box.bottom, box.left : box.right]
    if rng.uniform(0.0, 1.0) < augment.flip:
        image, label = image[:, ::-1], label[:, ::-1]
    image = np.ascontiguousarray(image)
    if augment.photometric:
        image = distort(image, draw_distortion(rng))
    return image, np.ascontiguousarray(label)
