"""Confusion matrix and the scores read from it. Exact for any number of pixels: counts are int64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def confusion_matrix(prediction: Tensor, label: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """Count pixels by (label, prediction).

    Args:
        prediction, label: integer tensors of one shape; labels are class indices or `ignore`.
        classes: K.

    Returns:
        (K, K) int64, rows = label, columns = prediction, on the device of `label`.
    """
    index = torch.where(label == ignore, classes * classes, label.long() * classes + prediction.long())
    return torch.bincount(index.reshape(-1), minlength=classes * classes + 1)[: classes * classes].view(
        classes, classes
    )


@dataclass(frozen=True)
class Scores:
    """Percentages from a confusion matrix; a class in neither prediction nor label is NaN and out of the mean.

    Attributes:
        iou: (K,) intersection over union. acc: (K,) share of a class's pixels that were found.
        miou, macc: means over the classes that occur. aacc: share of all pixels that are right.
    """

    iou: np.ndarray
    acc: np.ndarray
    miou: float
    macc: float
    aacc: float


def scores(matrix: np.ndarray) -> Scores:
    """IoU and accuracy in percent from a (K, K) matrix of counts."""
    hit = np.diag(matrix).astype(np.float64)
    labelled = matrix.sum(1).astype(np.float64)
    predicted = matrix.sum(0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = 100 * hit / (labelled + predicted - hit)
        acc = 100 * hit / labelled
    total = labelled.sum()
    return Scores(iou, acc, _mean(iou), _mean(acc), float(100 * hit.sum() / total) if total else float("nan"))


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
