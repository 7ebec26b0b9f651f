"""Windows and views of an image: where the windows lie, how their maps become one, how views are averaged."""

from __future__ import annotations

import torch
from torch import Tensor

from reincli.ops.resample import corner_weights, resized_bands

MOST_UNSURE = 0.3
"""Share of pixels between corners of unlike classes above which resizing everything is faster."""
NO_CLASS = 255
"""In a label map: nothing is said of this pixel."""
CORNER_ELEMENTS = 2**22
"""Scores of pixels between such corners that are held at a time."""


def window_boxes(height: int, width: int, window: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Windows that cover an image, row by row; the last one of a row or column is shifted back inside.

    Args:
        height, width: of the image; a side shorter than the window gets one window of that length.
        window, stride: in pixels.

    Returns:
        (top, bottom, left, right) of each window.
    """

    def starts(length: int) -> list[int]:
        last = max(length - window, 0)
        count = -(-last // stride) + 1
        return [min(i * stride, last) for i in range(count)]

    return [
        (top, min(top + window, height), left, min(left + window, width))
        for top in starts(height)
        for left in starts(width)
    ]


class WindowAverage:
    """Adds up overlapping windows of one image and divides by how many covered each pixel."""

    def __init__(self, channels: int, height: int, width: int, device: torch.device) -> None:
        self.total = torch.zeros(channels, height, width, device=device)
        self.count = torch.zeros(height, width, device=device)

    def add(self, maps: Tensor, box: tuple[int, int, int, int]) -> None:
        """Add the (K, bottom-top, right-left) maps of one window."""
        top, bottom, left, right = box
        self.total[:, top:bottom, left:right] += maps
        self.count[top:bottom, left:right] += 1

    def mean(self) -> Tensor:
        """(K, H, W) average."""
        return self.total.div_(self.count)


def resized_argmax(maps: Tensor, size: tuple[int, int], rows: int | None = None) -> Tensor:
    """Resize class maps bilinearly and take the best class, without ever holding the resized maps.

    Args:
        maps: (K, h, w) scores.
        size: (H, W) of the result.
        rows: resize and compare in bands of so many rows, which bounds the memory at K * rows * W. None: what suits
            the device.

    Returns:
        (H, W) uint8 class indices, equal to resizing at once followed by argmax (but for ties made by rounding);
        255 everywhere where a score is NaN or infinite.
    """
    return unless_finite(_resized_argmax(maps, size, rows), maps.sum())


def unless_finite(labels: Tensor, numbers: Tensor) -> Tensor:
    """Label maps, uint8, or 255 in place of every class where the numbers they come from are NaN or infinite.

    Nobody waits for the device: whoever has the map on the host sees it there. `numbers` is broadcast.
    """
    return labels.masked_fill(~torch.isfinite(numbers), NO_CLASS)


def _resized_argmax(maps: Tensor, size: tuple[int, int], rows: int | None) -> Tensor:
    if rows is None and maps.device.type == "cpu" and tuple(maps.shape[1:]) != size:
        label = _labels_by_corners(maps, size)
        if label is not None:
            return label
    return torch.cat([best_class(band) for _, band in resized_bands(maps, size, rows or _rows(maps))])


def _labels_by_corners(maps: Tensor, size: tuple[int, int]) -> Tensor | None:
    """`resized_argmax` that resizes only where classes meet; None where they meet too often for that to pay.

    A resized value is a weighted mean of four corners with weights from 0 to 1. A class that is best at all four is
    therefore best between them, so only pixels whose corners differ have to be worked out.
    """
    (above, below, down), (left, right, across) = (
        corner_weights(source, target) for source, target in zip(maps.shape[1:], size, strict=True)
    )
    coarse = best_class(maps)
    mixed = coarse != coarse[_next(len(coarse))]
    mixed |= mixed[:, _next(mixed.shape[1])]
    mixed |= coarse != coarse[:, _next(coarse.shape[1])]
    unsure = mixed[above][:, left].flatten().nonzero()[:, 0]
    if len(unsure) > MOST_UNSURE * size[0] * size[1]:
        return None
    label = coarse[above][:, left].flatten()
    by_pixel = maps.flatten(1).t().contiguous()  # the classes of a pixel side by side
    width = maps.shape[2]
    for part in unsure.split(max(1, CORNER_ELEMENTS // len(maps))):
        row, column = part // size[1], part % size[1]
        upper, lower, share = above[row] * width, below[row] * width, across[column, None].to(maps.dtype)
        top = torch.lerp(by_pixel[upper + left[column]], by_pixel[upper + right[column]], share)
        bottom = torch.lerp(by_pixel[lower + left[column]], by_pixel[lower + right[column]], share)
        label[part] = top.lerp_(bottom, down[row, None].to(maps.dtype)).argmax(1).to(torch.uint8)
    return label.view(size)


def _next(length: int) -> Tensor:
    """Index of each line's neighbour; the last one is its own."""
    return torch.arange(1, length + 1).clamp(max=length - 1)


def best_class(maps: Tensor) -> Tensor:
    """Class of the largest score, the first of equals: (K, H, W) -> (H, W) uint8.

    Class after class on a CPU: there `argmax` over the first axis takes seven times as long.
    """
    if maps.device.type != "cpu":
        return maps.argmax(0).to(torch.uint8)
    best = maps[0].clone()
    label = torch.zeros(maps.shape[1:], dtype=torch.uint8)
    better = torch.empty(maps.shape[1:], dtype=torch.bool)
    for index in range(1, len(maps)):
        torch.gt(maps[index], best, out=better)
        label.masked_fill_(better, index)
        torch.maximum(best, maps[index], out=best)
    return label


def _rows(maps: Tensor) -> int:
    """Rows of a band: few on a CPU, so that they stay in its cache."""
    return 32 if maps.device.type == "cpu" else 256


class ViewAverage:
    """Averages what a model says of several views (sizes, mirror images) of one image.

    Each view's maps, at the size of the answer, are squashed by a softmax over the classes, then averaged. A band of
    rows at a time: what is kept is (K, H, W) once, however many views there are.

    Args:
        channels: K.
        size: (H, W) of the answer.
        device: of the maps.
    """

    def __init__(self, channels: int, size: tuple[int, int], device: torch.device) -> None:
        self.total = torch.zeros(channels, *size, device=device)
        self.size = size

    def add(self, maps: Tensor, *, mirrored: bool = False) -> None:
        """Add the (K, h, w) scores of one view; `mirrored`: of the image's mirror image."""
        for part, band in resized_bands(maps.flip(-1) if mirrored else maps, self.size, _rows(maps)):
            self.total[:, part] += band.softmax(0)

    def label(self) -> Tensor:
        """(H, W) uint8 classes of the largest average."""
        return resized_argmax(self.total, self.size)
