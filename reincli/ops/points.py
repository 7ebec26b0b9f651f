"""Sampling maps, feature rows and label maps at points.

Points are (..., 2) as x, y in [0, 1]: 0 and 1 are the outer borders of the map, pixel i has its centre at
(i + 0.5) / size, and what lies outside the map reads 0 (bilinear sampling without aligned corners).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def neighbours(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Flat indices and bilinear weights of the four pixels around each point.

    Args:
        points: (n, 2).
        height, width: size of the map.

    Returns:
        (n, 4) int64 indices into the map read row by row, and (n, 4) weights, 0 outside the map.
    """
    extent = points.new_tensor([width, height])
    pixel = points * extent - 0.5
    corner = pixel.floor()
    far = pixel - corner
    step = points.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    position = corner[:, None] + step  # (n, 4, 2)
    factor = torch.where(step.bool(), far[:, None], 1 - far[:, None]).prod(-1)
    inside = ((position >= 0) & (position < extent)).all(-1)
    held = position.clamp(min=0).minimum(extent - 1).long()
    return held[..., 1] * width + held[..., 0], factor * inside


def sample_rows(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows: (M, C), (n, k), (n, k) -> (n, C). No (n, k, C) tensor is built."""
    return F.embedding_bag(index, rows, per_sample_weights=weight.to(rows.dtype), mode="sum")


def sample_membership(labels: Tensor, classes: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Masks of classes, sampled bilinearly, without building a mask.

    Args:
        labels: (H, W) class indices.
        classes: (T,) the classes asked for.
        index, weight: from `neighbours` for (H, W), (n, 4).

    Returns:
        (T, n): share of each class around each point, 0 to 1.
    """
    around = labels.reshape(-1)[index]  # (n, 4)
    return ((around == classes[:, None, None]) * weight).sum(-1)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """One map, one set of points: (P, h, w), (P, n, 2) -> (P, n)."""
    return F.grid_sample(maps[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]


def most_uncertain(logits: Tensor, points: Tensor, count: int) -> Tensor:
    """The points whose logits are nearest to 0: (P, n), (P, n, 2) -> (P, count, 2)."""
    chosen = logits.abs().topk(count, dim=1, largest=False, sorted=False).indices
    return points.gather(1, chosen[..., None].expand(-1, -1, 2))
