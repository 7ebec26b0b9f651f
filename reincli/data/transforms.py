"""Sizes, crops, flips and colours of training images, as pure functions of arrays and drawn numbers.

Images are (H, W, 3) uint8 0-255 RGB, labels (H, W) uint8 class indices with 255 = ignored. Sizes are (height,
width). Random functions take a generator and draw from it in the order in which the original implementation
draws, so that with a generator that wraps its random source they give its pixels.

The crop is chosen on the label alone, of which only the cropped pixels are ever looked up; then only the part
of the image that the crop shows is resized (`resize_region`), and colours are changed on the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from reincli.config import AugmentSettings
from reincli.data.labels import IGNORE, count_values

SCALE_STEPS = tuple(range(5, 21))
"""Tenths of the short side among which `shortest_edge` draws (0.5 to 2.0)."""
CROP_TRIES = 10
"""How often a crop that one class fills is drawn again."""
BRIGHTNESS = 32.0
"""Largest shift of brightness, in grey levels."""
HUE = 18
"""Largest turn of hue, in OpenCV's 180 steps a circle."""
PHASE = 1 / 512
"""How far, in stored pixels, a resized part may be off the whole image's grid: below one grey level."""
LEAD = 512
"""Resized rows or columns before the crop among which one that falls on the stored grid is looked for."""


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


@dataclass(frozen=True)
class Wanted:
    """The class for which an image was drawn, and how many pixels of it a crop of the stored size should show."""

    index: int
    pixels: int


class Pixels(Protocol):
    """A stored image of which parts can be had: an array in memory, or a file of tiles."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""

    def region(self, box: Box) -> np.ndarray:
        """A part as (h, w, 3) uint8 RGB; not to be written to."""


@dataclass(frozen=True)
class ArrayPixels:
    """An image in memory."""

    image: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.shape[0], self.image.shape[1]

    def region(self, box: Box) -> np.ndarray:
        """A view of a part."""
        return self.image[box.top : box.bottom, box.left : box.right]


# --- sizes -------------------------------------------------------------------------------------------------


def keep_ratio_size(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """The largest (height, width) of the same ratio within `long_side` and `short_side`; at least one pixel."""
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


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
    first = (max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1))
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


def _start(stored: int, resized: int, start: int) -> tuple[int, int]:
    """Where to begin on an axis: a resized index up to `start`, and the stored index at its left edge.

    A part of an image can be resized alone where its edge falls between two stored pixels. At most scales that
    never happens exactly before `start`, but soon nearly: of `LEAD` places the first one within `PHASE` is taken.
    """
    step = stored / resized
    border = 0 if step >= 1 else int(np.ceil(0.5 / step))  # enlarged, these would read beyond the part's edge
    last = max(start - border, 0)
    places = last - np.arange(min(last, LEAD) + 1)
    edges = places * step
    distance = np.abs(edges - np.rint(edges))
    near = np.flatnonzero(distance <= PHASE)
    best = int(near[0]) if near.size else int(np.argmin(distance))
    return int(places[best]), int(np.rint(edges[best]))


def resize_region(pixels: Pixels, size: tuple[int, int], box: Box) -> np.ndarray:
    """The part `box` of an image resized to `size`, bilinear: only the stored pixels that it shows are touched.

    It differs from the same part of the whole resized image by one grey level at most, in one value of
    ten (on white noise; most images less), and is equal where the part begins at the image's edge.

    Args:
        pixels: the stored image.
        size: (height, width) of the whole after resizing.
        box: of the resized image.

    Returns:
        (box height, box width, 3) uint8 RGB.
    """
    height, width = pixels.shape
    if size == (height, width):
        return pixels.region(box)
    top, stored_top = _start(height, size[0], box.top)
    left, stored_left = _start(width, size[1], box.left)
    scales = scale_y, scale_x = size[0] / height, size[1] / width
    # one stored pixel beyond the last sampled one, as bilinear sampling reads two
    bottom = min(int(np.ceil(box.bottom / scale_y)) + 2, height)
    right = min(int(np.ceil(box.right / scale_x)) + 2, width)
    part = pixels.region(Box(stored_top, bottom, stored_left, right))
    spare = _spare(part.shape[:2], scales, (box.bottom - top, box.right - left))
    if any(spare):
        part = cv2.copyMakeBorder(part, 0, spare[0], 0, spare[1], cv2.BORDER_REPLICATE)
    resized = cv2.resize(part, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_LINEAR)
    return resized[box.top - top : box.bottom - top, box.left - left : box.right - left]


def _spare(lengths: Sequence[int], scales: Sequence[float], needed: Sequence[int]) -> list[int]:
    """How often the last row and the last column of a part have to be repeated for OpenCV to resize it as a whole.

    It rounds the resized length: down at the image's end, so that a pixel would be missing; or to that of the part,
    which it then copies as it is, however the scale differs from 1.
    """
    spare = [0 if round(n * s) >= least else 2 for n, s, least in zip(lengths, scales, needed, strict=True)]
    if all(round((n + more) * s) == n + more for n, s, more in zip(lengths, scales, spare, strict=True)):
        axis = max((0, 1), key=lambda a: abs(scales[a] - 1))
        spare[axis] += int(0.5 / abs(scales[axis] - 1)) + 2
    return spare


def nearest_indices(stored: int, resized: int, start: int, stop: int) -> np.ndarray:
    """Where pixels start..stop of an axis resized from `stored` to `resized` come from; OpenCV's rounding."""
    step = 1.0 / (resized / stored)  # not stored / resized: the last bit decides at whole numbers
    return np.minimum(np.floor(np.arange(start, stop) * step).astype(np.intp), stored - 1)


def resize_label(label: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """A label at (height, width), nearest neighbour; with a box only that part of the result, at its cost."""
    box = box or Box(0, size[0], 0, size[1])
    rows = nearest_indices(label.shape[0], size[0], box.top, box.bottom)
    columns = nearest_indices(label.shape[1], size[1], box.left, box.right)
    return label[rows][:, columns]  # five times as fast as both at once


# --- crop and flip -----------------------------------------------------------------------------------------


def draw_box(size: tuple[int, int], crop: tuple[int, int], rng: Draw) -> Box:
    """A uniform window of at most `crop` (height, width) pixels; two numbers are drawn, row then column."""
    top = int(rng.integers(0, max(size[0] - crop[0], 0) + 1))
    left = int(rng.integers(0, max(size[1] - crop[1], 0) + 1))
    return Box(top, min(top + crop[0], size[0]), left, min(left + crop[1], size[1]))


def is_varied(label: np.ndarray, max_class_share: float) -> bool:
    """Whether a label has two classes or more, the largest below this share; ignored pixels do not count."""
    counts = count_values(label)
    counts[IGNORE] = 0
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_class_share)


def shows(label: np.ndarray, wanted: Wanted | None, scale: float) -> bool:
    """Whether a label has enough of what is wanted; scale: area of the resized image / of the stored one."""
    return wanted is None or int(np.count_nonzero(label == wanted.index)) >= wanted.pixels * scale


def draw_crop(
    label: np.ndarray, size: tuple[int, int], crop: tuple[int, int], max_class_share: float, rng: Draw,
    wanted: Wanted | None = None,
) -> tuple[Box, np.ndarray]:  # fmt: skip
    """A crop window in an image resized to `size`, and the label in it, drawn again while one class fills it.

    After ten vain tries the eleventh window is taken as it is.

    Args:
        label: (h, w) class indices at the stored size.
        size: (height, width) after resizing.
        crop: (height, width) of the window in pixels.
        max_class_share: 1 or more: no limit.
        rng: two numbers are drawn a window.
        wanted: drawn again, too, while this is not shown. Without it and a limit one window is drawn.
    """
    scale = size[0] * size[1] / label.size
    box = draw_box(size, crop, rng)
    for _ in range(CROP_TRIES if max_class_share < 1 or wanted else 0):
        cropped = resize_label(label, size, box)
        if (max_class_share >= 1 or is_varied(cropped, max_class_share)) and shows(cropped, wanted, scale):
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
    steps: list[tuple[int, np.ndarray]] = []
    if saturation is not None:
        steps.append((1, _line(saturation, 0.0)))
    if hue is not None:
        steps.append((0, ((np.arange(256) + hue) % 180).astype(np.uint8)))
    for channel, table in steps:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image


# --- all of it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """What was drawn for one training item, before any pixel of the image is looked at.

    Attributes:
        size: (height, width) to which the image is resized.
        box: the part of it that is shown.
        label: (h, w) class indices in that part, not yet flipped.
        flip: whether both are mirrored.
        distortion: of the colours; None: they stay.
    """

    size: tuple[int, int]
    box: Box
    label: np.ndarray
    flip: bool
    distortion: Distortion | None


def draw_view(
    shape: tuple[int, int],
    label: np.ndarray,
    augment: AugmentSettings,
    rng: Draw,
    wanted: Wanted | None = None,
) -> View:
    """Draw size, crop, flip and colour, in this order.

    Args:
        shape: (height, width) of the image.
        label: (H, W) uint8 class indices of the whole image.
        augment: sizes and probabilities.
        rng: a source of numbers.
        wanted: what the crop should show.
    """
    size = draw_size(shape[0], shape[1], augment, rng)
    box, label = draw_crop(label, size, (augment.crop, augment.crop), augment.max_class_share, rng, wanted)
    flip = bool(rng.uniform(0.0, 1.0) < augment.flip)
    return View(size, box, label, flip, draw_distortion(rng) if augment.photometric else None)


def render(pixels: Pixels, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Image (h, w, 3) and label (h, w) of a view, contiguous; h and w at most the crop's."""
    return finish(resize_region(pixels, view.size, view.box), view)


def finish(image: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Flip and colour what a view shows of the resized image; both results are contiguous."""
    label = view.label
    if view.flip:
        image, label = cv2.flip(image, 1), label[:, ::-1]
    image = np.ascontiguousarray(image)
    if view.distortion is not None:
        image = distort(image, view.distortion)
    return image, np.ascontiguousarray(label)
