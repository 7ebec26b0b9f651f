"""Whether a model is right as often as it is sure: calibration error, one temperature, and what leaving out would gain.

Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3): pixels fall into 15 equal bins of confidence,
upper edges included; the error is the mean over pixels of |accuracy - mean confidence| of their bin.

Temperature: the probabilities of the classes and of doubt (see `ops.confidence`) are raised to the power 1/T and made
to sum to 1 again; T > 1 is less sure, T < 1 surer, T = 1 leaves them. It keeps the order of the classes, so no label
changes. With b = 1/T the mean of -log p(label) is convex in b, so there is one best T.

Shapes: P pixels, K classes, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reincli.ops.confusion import scores

BINS = 15
"""Of the calibration error."""
STEPS = 100
"""Bins of confidence by which pixels are left out."""
COLDEST, HOTTEST = 0.02, 50.0
"""Temperatures between which the best one is looked for."""
LEAST = 1e-12
"""Least probability that is told from none: a class of which a model is sure that it is not there costs 28 nats."""


def bins_of(confidence: np.ndarray, count: int) -> np.ndarray:
    """The bin of each confidence 0-1 among `count` equal ones, upper edges included; 0 is in the first."""
    place = np.ceil(confidence.astype(np.float64) * count).astype(np.int64) - 1
    return place.clip(0, count - 1)


# --- how often right ---------------------------------------------------------------------------------------


@dataclass
class Reliability:
    """Labelled pixels by bin of confidence: how many, how many right, and the sum of their confidence."""

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    right: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    sure: np.ndarray = field(default_factory=lambda: np.zeros(BINS))

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Count pixels: confidence (P,) 0-1, and whether the prediction is the label, (P,) bool."""
        place = bins_of(confidence, BINS)
        self.pixels += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place[right], minlength=BINS)
        self.sure += np.bincount(place, weights=confidence.astype(np.float64), minlength=BINS)

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.pixels + other.pixels, self.right + other.right, self.sure + other.sure)

    @property
    def accuracy(self) -> np.ndarray:
        """(B,) share of right pixels, NaN in an empty bin."""
        with np.errstate(invalid="ignore"):
            return self.right / self.pixels

    @property
    def confidence(self) -> np.ndarray:
        """(B,) mean confidence, NaN in an empty bin."""
        with np.errstate(invalid="ignore"):
            return self.sure / self.pixels

    def error(self) -> float:
        """The expected calibration error, 0-1; NaN without a pixel."""
        total = int(self.pixels.sum())
        return float(np.abs(self.right - self.sure).sum() / total) if total else float("nan")

    def means(self) -> tuple[float, float]:
        """(accuracy, mean confidence) over all pixels, 0-1; NaN without a pixel."""
        total = int(self.pixels.sum())
        if not total:
            return float("nan"), float("nan")
        return float(self.right.sum() / total), float(self.sure.sum() / total)


# --- temperature -------------------------------------------------------------------------------------------


def fit_temperature(outcomes: np.ndarray, label: np.ndarray) -> float:
    """The temperature under which the labels are likeliest, between 0.02 and 50.

    Args:
        outcomes: (P, K + 1) probabilities at temperature 1, the last one doubt; rows sum to 1.
        label: (P,) class indices.

    Raises:
        ValueError: no pixel.
    """
    if not len(label):
        raise ValueError("no pixel to fit a temperature to")
    logs = np.log(np.maximum(outcomes.astype(np.float64), LEAST))
    own = logs[np.arange(len(label)), label]
    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(logs, own, low) >= 0:
        return HOTTEST
    if slope(logs, own, high) <= 0:
        return COLDEST
    while high - low > 1e-6 * high:  # bisection: the slope grows with b
        middle = float(np.sqrt(low * high))
        if slope(logs, own, middle) < 0:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def slope(logs: np.ndarray, own: np.ndarray, power: float) -> float:
    """How the mean of -log p(label) changes with b = 1/T: the mean of (expected log p) - (log p of the label).

    Args:
        logs: (P, K + 1) logarithms of the probabilities at temperature 1. own: (P,) those of the labels. power: b.
    """
    raised = power * logs
    raised -= raised.max(1, keepdims=True)
    weight = np.exp(raised)
    expected = (weight * logs).sum(1) / weight.sum(1)
    return float((expected - own).mean())


# --- leaving out what is less sure -------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """What remains where the least sure pixels are left out, from all of them to few.

    Attributes:
        threshold: (n,) confidence above which pixels are kept, 0 to 1; 0 keeps all.
        coverage: (n,) share of the labelled pixels that is kept.
        miou, accuracy: (n,) percent over what is kept; classes without a kept label or prediction are out of the mean.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    miou: np.ndarray
    accuracy: np.ndarray


@dataclass
class Certainty:
    """What is counted of labelled pixels: reliability, and confusion matrices by bin of confidence.

    `matrices` is (STEPS, K, K) int64, rows = label, columns = prediction, the least sure bin first.
    """

    reliability: Reliability
    matrices: np.ndarray

    @classmethod
    def empty(cls, classes: int) -> Certainty:
        """Nothing counted yet, for K classes."""
        return cls(Reliability(), np.zeros((STEPS, classes, classes), np.int64))

    def add(self, confidence: np.ndarray, prediction: np.ndarray, label: np.ndarray) -> None:
        """Count labelled pixels: confidence (P,) 0-1, predicted and right classes (P,) int64."""
        self.reliability.add(confidence, prediction == label)
        classes = self.matrices.shape[1]
        cell = (bins_of(confidence, STEPS) * classes + label) * classes + prediction
        place, pixels = np.unique(cell, return_counts=True)
        self.matrices.reshape(-1)[place] += pixels

    def __add__(self, other: Certainty) -> Certainty:
        return Certainty(self.reliability + other.reliability, self.matrices + other.matrices)

    def coverage(self) -> Coverage:
        """What leaving out the least sure pixels gains, bin by bin, as long as any pixel is kept."""
        kept = np.cumsum(self.matrices[::-1], axis=0)[::-1]
        pixels = kept.sum((1, 2))
        there = pixels > 0
        found = [scores(matrix) for matrix in kept[there]]
        return Coverage(
            (np.arange(STEPS) / STEPS)[there],
            pixels[there] / max(1, int(pixels[0])),
            np.array([each.miou for each in found]),
            np.array([each.aacc for each in found]),
        )
