"""How well a score tells unknown pixels from known ones, over the pixels of any number of images in bounded memory.

All pixels are one pool. Scores are counted in bins so narrow (a share of 4e-6 of the score: the upper 18 bits of a
float32's mantissa) that the curve is the exact one but for the order of pixels within a bin; how much that could change
each figure at most is reckoned along and given beside it. Pixels of one score are one threshold, as in the exact curve.

Figures, each a share of 0 to 1 (definitions as in RbA's evaluation, arXiv 2211.14293, which are scikit-learn's):
- AP: sum over thresholds of precision times the gain in recall, by steps, not interpolated.
- AUROC: the area under true positive rate over false positive rate, by trapezoids.
- FPR95: the false positive rate at the first threshold whose true positive rate is above 0.95, not interpolated.

Shapes: P pixels, B bins from strange to known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

KNOWN, UNKNOWN = 0, 1
"""Labels; everything else is left out."""
ENOUGH = 0.95
"""True positive rate at which false positives are told."""
_LARGEST = np.float32(2.0**9)
_SMALLEST = np.float32(2.0**-40)
"""Sizes of scores that bins tell apart; what is smaller (as strange as it gets) is one bin."""
_FINE = int(np.float32(2.0**-10).view(np.uint32))
_COARSE = int(_SMALLEST.view(np.uint32))
"""Bits of the sizes from which on bins are fine, and coarse: hardly any pixel is as strange as 2^-10."""
_FINE_DROPPED, _COARSE_DROPPED = 5, 11
"""Bits of the mantissa that bins do without."""
_COARSE_BINS = (_FINE - _COARSE) >> _COARSE_DROPPED
BINS = _COARSE_BINS + ((int(_LARGEST.view(np.uint32)) - _FINE) >> _FINE_DROPPED)
"""B: 5 million, 82 MB of counts if scores were everywhere; parts of the range without a score take no memory."""
_SHARE = 1 << 20
"""Pixels that are sorted into bins at a time."""


@dataclass(frozen=True)
class Figures:
    """What a pool says, each share 0 to 1.

    Without an unknown pixel none of the figures is defined, without a known one neither `auroc` nor `fpr95`: NaN.

    Attributes:
        known, unknown: pixels. threshold: anomaly at which FPR95 is told.
        uncertainty: the most by which bins may have moved `ap`, `auroc` and `fpr95`.
    """

    known: int
    unknown: int
    ap: float
    auroc: float
    fpr95: float
    threshold: float
    uncertainty: tuple[float, float, float]

    @property
    def chance(self) -> float:
        """The AP of a score that knows nothing: the share of unknown pixels."""
        total = self.known + self.unknown
        return self.unknown / total if total else float("nan")


@dataclass(frozen=True)
class Curve:
    """The curve at some thresholds from strict to lenient: recall (true positive rate), precision, and fpr, 0 to 1."""

    recall: np.ndarray
    precision: np.ndarray
    fpr: np.ndarray


class Pool:
    """Counts of pixels by label and score. Pools are added where several processes share the images."""

    def __init__(self) -> None:
        self.counts = np.zeros((2, BINS), np.int64)  # pages that are never written to are never there

    def add(self, anomaly: np.ndarray, label: np.ndarray) -> None:
        """Count the pixels of an image.

        Args:
            anomaly: any shape, float32, -512 < anomaly <= 0, higher is stranger.
            label: of the same shape: 0 known, 1 unknown, everything else is left out.

        Raises:
            ValueError: shapes that differ; a counted score that is positive, too low, or no number.
        """
        if anomaly.shape != label.shape:
            raise ValueError(f"anomaly of {anomaly.shape} and label of {label.shape} differ in size")
        scores, labels = anomaly.reshape(-1), label.reshape(-1)
        for start in range(0, len(scores), _SHARE):
            part, told = scores[start : start + _SHARE], labels[start : start + _SHARE]
            for kind in (KNOWN, UNKNOWN):
                place, pixels = np.unique(bins_of(part[told == kind]), return_counts=True)
                self.counts[kind, place] += pixels

    def __iadd__(self, other: Pool) -> Pool:
        place = other._filled()
        self.counts[:, place] += other.counts[:, place]
        return self

    def __getstate__(self) -> tuple[np.ndarray, np.ndarray]:
        place = self._filled()
        return place, self.counts[:, place]

    def __setstate__(self, state: tuple[np.ndarray, np.ndarray]) -> None:
        Pool.__init__(self)
        self.counts[:, state[0]] = state[1]

    def figures(self) -> Figures:
        """The three figures over all pixels so far."""
        place = self._filled()
        known, unknown = self.counts[:, place]
        return figures(known, unknown, place)

    def _filled(self) -> np.ndarray:
        """The bins that have a pixel."""
        return np.union1d(*(np.flatnonzero(counts) for counts in self.counts))

    def curve(self, points: int = 200) -> Curve:
        """The curve at up to so many thresholds, evenly spread over what is found of both kinds."""
        filled = self._filled()
        known, unknown = (np.cumsum(self.counts[kind][filled]) for kind in (KNOWN, UNKNOWN))
        if not len(filled) or not unknown[-1]:
            return Curve(*(np.zeros(0) for _ in range(3)))
        fpr = known / max(1, known[-1])
        way = unknown / unknown[-1] + fpr  # grows with every threshold, from 0 to 2
        places = np.unique(np.searchsorted(way, np.linspace(0, way[-1], points)).clip(0, len(way) - 1))
        recall, precision = unknown / unknown[-1], unknown / (unknown + known)
        return Curve(recall[places], precision[places], fpr[places])


def bins_of(anomaly: np.ndarray) -> np.ndarray:
    """The bin of each score, (P,) int64, 0 the strangest.

    Raises:
        ValueError: a score that is positive, -512 or lower, or no number.
    """
    size = -anomaly.astype(np.float32)
    if size.size and not (size.min() >= 0 and size.max() < _LARGEST):  # NaN fails both
        raise ValueError("anomaly is not a number from -512 to 0 everywhere")
    # the bits of a positive float32, read as an integer, are in the order of the numbers
    bits = np.maximum(size, _SMALLEST).view(np.uint32).astype(np.int64)
    fine = _COARSE_BINS + ((bits - _FINE) >> _FINE_DROPPED)
    return np.where(bits >= _FINE, fine, (bits - _COARSE) >> _COARSE_DROPPED)


def lowest_of(place: int) -> float:
    """The lowest anomaly of a bin: every score of it is at least that."""
    if place >= _COARSE_BINS:
        bits = _FINE + ((place - _COARSE_BINS + 1) << _FINE_DROPPED) - 1
    else:
        bits = _COARSE + ((place + 1) << _COARSE_DROPPED) - 1
    return -float(np.uint32(bits).view(np.float32))


def image_figures(anomaly: np.ndarray, label: np.ndarray) -> Figures:
    """The figures of one image alone, see `Pool.add` for what is given."""
    counted = label <= UNKNOWN
    place, where = np.unique(bins_of(anomaly[counted]), return_inverse=True)
    unknown = np.bincount(where, weights=label[counted], minlength=len(place)).astype(np.int64)
    return figures(np.bincount(where, minlength=len(place)) - unknown, unknown, place)


def figures(known: np.ndarray, unknown: np.ndarray, bins: np.ndarray) -> Figures:
    """The figures from (n,) counts of known and unknown pixels in (n,) bins: none empty, the strangest first."""
    negative, positive = known.astype(np.float64), unknown.astype(np.float64)
    negatives, positives = float(negative.sum()), float(positive.sum())
    if not positives:
        nan = float("nan")
        return Figures(int(negatives), 0, nan, nan, nan, nan, (0.0, 0.0, 0.0))
    false, true = np.cumsum(negative), np.cumsum(positive)
    before_false, before_true = false - negative, true - positive
    ap = float((positive * true / (true + false)).sum() / positives)
    low, high = _ap_bounds(before_true, before_false, negative, positive)
    auroc = fpr95 = float("nan")
    loose_area = loose_rate = 0.0
    first = int(np.argmax(true / positives > ENOUGH))
    if negatives:
        auroc = float(((before_true + positive / 2) * negative).sum() / positives / negatives)
        loose_area = float((positive * negative).sum() / 2 / positives / negatives)
        fpr95 = float(false[first] / negatives)
        loose_rate = float(negative[first] / negatives)
    threshold = lowest_of(int(bins[first]))
    loose = (max(high - ap, ap - low, 0.0), loose_area, loose_rate)
    return Figures(int(negatives), int(positives), ap, auroc, fpr95, threshold, loose)


def _ap_bounds(
    true: np.ndarray, false: np.ndarray, negative: np.ndarray, positive: np.ndarray
) -> tuple[float, float]:
    """Lowest and highest AP over all orders and ties of the pixels within each bin.

    Lowest: in each bin all known pixels come first, then the unknown ones one by one; the sum over j = 1..p of
    (t + j) / (t + j + f) is p - f (digamma(t + f + p + 1) - digamma(t + f + 1)). Highest: the unknown ones come first,
    all at once.

    Args:
        true, false: (B,) pixels of each kind before the bin. negative, positive: (B,) within it.
    """
    total = positive.sum()
    late = false + negative
    lowest = positive - late * (digamma(true + late + positive + 1) - digamma(true + late + 1))
    there = positive > 0
    highest = positive[there] * (true + positive)[there] / (true + positive + false)[there]
    return float(lowest.sum() / total), float(highest.sum() / total)
