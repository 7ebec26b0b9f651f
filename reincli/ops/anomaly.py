"""How strange a pixel is to a model that classifies masks: rejected by all (RbA, arXiv 2211.14293, section 3.2).

The score s_k of a class is a sum over queries of (probability that the query is class k) x (probability that the pixel
lies in its mask). A pixel that no query of any class claims is one that the model has no answer for. So the anomaly is
- sum over k of tanh(s_k): from -K (claimed by all classes) to 0 (claimed by none), higher is stranger, and a pixel that
one class claims wholly has about -0.76. tanh comes after resizing, after the mean over windows and after the sum over
queries; another order gives other numbers.

Shapes: K classes, (h, w) maps as predicted, (H, W) the image.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from reincli.ops.resample import resized_bands

MOST = 65535
"""Of 16 bits."""


def anomaly(scores: Tensor, dim: int = 0) -> Tensor:
    """Scores (K, ...) >= 0 -> anomaly of the shape without K, -K to 0."""
    return -scores.tanh().sum(dim)


def resized_anomaly(maps: Tensor, size: tuple[int, int], rows: int = 64) -> Tensor:
    """Scores (K, h, w), resized bilinearly -> anomaly (H, W) float32, a band of rows at a time."""
    result = maps.new_empty(*size)
    for part, band in resized_bands(maps, size, rows):
        result[part] = anomaly(band)
    return result


def to_16_bit(values: np.ndarray, classes: int) -> np.ndarray:
    """Anomaly (H, W) of K classes -> uint16: 0 for -K, 65535 for 0, evenly between; a step is K / 65535."""
    return np.rint((1 + values.astype(np.float64) / classes) * MOST).clip(0, MOST).astype(np.uint16)


def from_16_bit(stored: np.ndarray, classes: int) -> np.ndarray:
    """What `to_16_bit` stored, as float32, to half a step."""
    return ((stored.astype(np.float64) / MOST - 1) * classes).astype(np.float32)
