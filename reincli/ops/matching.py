"""Assignment of queries to targets: costs on sampled points, and the Hungarian method.

Shapes: Q queries, T targets, n points; before them any others, such as rounds and images. Costs as in Mask2Former
(arXiv 2112.01527, section 3.3).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

CLASS_COST, MASK_COST, DICE_COST = 2.0, 5.0, 5.0


def class_cost(class_logits: Tensor, classes: Tensor) -> Tensor:
    """Negative class probability: (..., Q, K+1), (..., T) -> (..., Q, T)."""
    shares = class_logits.softmax(-1)
    asked = classes[..., None, :].expand(*shares.shape[:-1], -1)
    return -shares.gather(-1, asked)


def mask_cost(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of each pair: (..., Q, n), (..., T, n) in 0..1 -> (..., Q, T).

    BCE(x, t) = softplus(x) - x*t, so all pairs are one matrix product. Points count by (..., n) `weights`.
    """
    alone = F.softplus(logits)
    if weights is not None:
        alone, targets = alone * weights[..., None, :], targets * weights[..., None, :]
    return (alone.sum(-1)[..., None] - logits @ targets.mT) / logits.shape[-1]


def dice_cost(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - (2ab + 1) / (a + b + 1) of each pair: (..., Q, n), (..., T, n), weights (..., n) -> (..., Q, T)."""
    shares = logits.sigmoid()
    overlap = shares @ targets.mT if weights is None else (shares * weights[..., None, :]) @ targets.mT
    if weights is not None:
        shares, targets = shares * weights[..., None, :], targets * weights[..., None, :]
    return 1 - (2 * overlap + 1) / (shares.sum(-1)[..., None] + targets.sum(-1)[..., None, :] + 1)


def pair_cost(
    class_logits: Tensor,
    mask_logits: Tensor,
    classes: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Whole cost of each pair: (..., Q, K+1), (..., Q, n), (..., T), (..., T, n) -> (..., Q, T).

    `weights`: (..., n) of the points, 0 to 1; None: all 1.
    """
    return (
        CLASS_COST * class_cost(class_logits, classes)
        + MASK_COST * mask_cost(mask_logits, targets, weights)
        + DICE_COST * dice_cost(mask_logits, targets, weights)
    )


def assign(costs: Tensor, counts: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cheapest one-to-one assignment of every cost matrix, after one copy to the host.

    Args:
        costs: (M, Q, Tmax), padded on the right; values that are not finite count as very dear.
        counts: the number of real targets of each of the M matrices.

    Returns:
        For each matrix (queries, targets), both (min(Q, T),), queries ascending.
    """
    host = torch.nan_to_num(costs.float(), nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
    return [linear_sum_assignment(matrix[:, :count]) for matrix, count in zip(host, counts, strict=True)]
