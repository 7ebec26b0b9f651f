"""Whether two models differ by more than the choice of test images: the bootstrap over images.

Images are drawn with replacement as often as there are images, the same draw for both models (their scores on one
image go together), the pixels of the drawn images are added up, and the scores are read from the sums; the spread
of the differences over many draws is the interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
section 13.3: percentile interval). IoU is a ratio of sums over all images, so it is not a mean of scores of images
and no simpler formula gives its spread.

N images, K classes, D draws. Areas are (N, 3, K) pixels: right, labelled, predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 128
"""Draws worked out at a time; bounds the memory at CHUNK * N numbers."""


@dataclass(frozen=True)
class Difference:
    """B minus A in points of percent, and the interval that holds `level` of the draws; NaN where undefined."""

    a: float
    b: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """B minus A."""
        return self.b - self.a

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def iou(areas: np.ndarray) -> np.ndarray:
    """IoU in percent: (..., 3, K) areas -> (..., K); NaN for a class in neither label nor prediction."""
    right, labelled, predicted = (areas[..., index, :].astype(np.float64) for index in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * right / (labelled + predicted - right)


def mean_iou(values: np.ndarray) -> np.ndarray:
    """Mean over the classes that occur: (..., K) -> (...)."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)


def resampled(
    a: np.ndarray, b: np.ndarray, draws: int, seed: int | Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """IoU of two models on the same resampled images.

    Args:
        a, b: (N, 3, K) areas of the same images in the same order.
        draws: D.
        seed: of the draws.

    Returns:
        two (D, K) in percent.
    """
    count, _, classes = a.shape
    rng = np.random.default_rng(seed)
    both = np.concatenate([a.reshape(count, -1), b.reshape(count, -1)], 1).astype(np.float64)
    sums = np.empty((draws, both.shape[1]))
    for start in range(0, draws, CHUNK):
        stop = min(start + CHUNK, draws)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=stop - start)
        sums[start:stop] = weights.astype(np.float64) @ both  # sums of pixels stay below 2**53: exact
    first, second = np.split(sums, 2, axis=1)
    return iou(first.reshape(draws, 3, classes)), iou(second.reshape(draws, 3, classes))


def interval(differences: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of (D,) differences; draws in which it is undefined are left out."""
    known = differences[~np.isnan(differences)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def difference(a: float, b: float, drawn: np.ndarray, level: float = 0.95) -> Difference:
    """B minus A with the interval of (D,) differences drawn."""
    if np.isnan(a) or np.isnan(b):
        return Difference(a, b, float("nan"), float("nan"))
    return Difference(a, b, *interval(drawn, level))
