"""How sure a prediction is, from the scores that the model gives its classes.

A score s_k is a sum over queries of (probability that the query is class k) x (probability that the pixel lies in
its mask): the evidence that the queries put up for class k at a pixel. Scores are no probabilities: several queries
may claim a pixel, and none may. Here the probability of class k is s_k / max(1, sum of all s): the share of the
evidence, and where all queries together claim less than one whole pixel, what is missing to 1 is doubt. The
confidence of a prediction is the largest of these, 0 to 1. It keeps the order of the classes: the most probable one
is the predicted one. Being a share, it says what the model believes; whether it is right as often is another matter.

A temperature T, fitted on labelled images (`ops.calibration`), mends that: the shares of all classes and of doubt are
raised to the power 1/T and divided by their sum. T = 1 changes nothing, and no T changes the order of the classes.

Shapes: K classes, (h, w) maps as predicted, (H, W) the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reincli.ops.resample import resized_bands


def probabilities(scores: Tensor, dim: int = 0, temperature: float = 1.0) -> Tensor:
    """Scores (K, ...) >= 0 -> probabilities of the same shape; their sum is at most 1."""
    total = scores.sum(dim, keepdim=True)
    shares = scores / total.clamp(min=1)
    if temperature == 1:
        return shares
    doubt = (1 - total).clamp(min=0)  # of the scores, not of the shares: their rounding would be raised, too
    # the largest is made 1 before it is raised: what counts cannot underflow
    largest = torch.maximum(shares.amax(dim, keepdim=True), doubt)
    raised, doubt = (shares / largest) ** (1 / temperature), (doubt / largest) ** (1 / temperature)
    return raised / (raised.sum(dim, keepdim=True) + doubt)


def outcomes(scores: Tensor) -> Tensor:
    """Scores (K, P) -> (P, K + 1) probabilities at temperature 1 with doubt as the last: rows sum to 1."""
    doubt = (1 - scores.sum(0, keepdim=True)).clamp(min=0)
    return torch.cat([probabilities(scores), doubt]).T


def resized_probabilities(
    maps: Tensor, size: tuple[int, int], rows: int = 256, temperature: float = 1.0
) -> Tensor:
    """Scores (K, h, w), resized bilinearly, as probabilities (K, H, W) float32."""
    result = maps.new_empty(len(maps), *size)
    for part, band in resized_bands(maps, size, rows):
        result[:, part] = probabilities(band, temperature=temperature)
    return result


def resized_confidence(
    maps: Tensor, size: tuple[int, int], rows: int = 256, temperature: float = 1.0
) -> Tensor:
    """Scores (K, h, w), resized bilinearly -> confidence of the best class, (H, W) float32 0-1.

    A band of rows at a time: memory is bounded at K * rows * W.
    """
    result = maps.new_empty(*size)
    for part, band in resized_bands(maps, size, rows):
        if temperature == 1:
            result[part] = band.amax(0) / band.sum(0).clamp(min=1)
        else:
            result[part] = probabilities(band, temperature=temperature).amax(0)
    return result
