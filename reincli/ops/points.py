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
        points: (n, 2), 0 to 1.
        height, width: size of the map.

    Returns:
        (4, n) int64 indices into the map read row by row, and (4, n) weights, 0 outside the map.
    """
    x, y = points[:, 0] * width - 0.5, points[:, 1] * height - 0.5
    left, top = x.floor(), y.floor()
    far_x, far_y = x - left, y - top
    # the first neighbour can only lie outside at -1, the second only at the other end
    columns = ((left.clamp(min=0), (1 - far_x) * (left >= 0)), _next(left, far_x, width))
    rows = ((top.clamp(min=0), (1 - far_y) * (top >= 0)), _next(top, far_y, height))
    index = torch.stack([row * width + column for row, _ in rows for column, _ in columns])
    return index.long(), torch.stack([by_row * by_column for _, by_row in rows for _, by_column in columns])


def _next(first: Tensor, factor: Tensor, extent: int) -> tuple[Tensor, Tensor]:
    position = first + 1
    return position.clamp(max=extent - 1), factor * (position < extent)


def sample_rows(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows: (M, C), (k, n), (k, n) -> (n, C). No (n, k, C) tensor is built."""
    spread = weight.T.contiguous().to(rows.dtype)
    return F.embedding_bag(index.T.contiguous(), rows, per_sample_weights=spread, mode="sum")


def sample_membership(labels: Tensor, classes: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Masks of classes, sampled bilinearly, without building a mask.

    Args:
        labels: (...) class indices, read flat.
        classes: (n,) the class asked for at each point, or (T, 1) classes asked for at all of them.
        index, weight: (4, n), from `neighbours`.

    Returns:
        (n,) or (T, n) float32: share of the class around each point, 0 to 1.
    """
    flat = labels.reshape(-1)
    classes = classes.to(labels.dtype)
    total = torch.zeros(torch.broadcast_shapes(classes.shape, index.shape[1:]), device=labels.device)
    for position, share in zip(index, weight, strict=True):
        total += (flat[position] == classes) * share
    return total


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """One map, one set of points: (P, h, w), (P, n, 2) -> (P, n)."""
    return F.grid_sample(maps[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]


def nearest_pixels(points: Tensor, height: int, width: int) -> Tensor:
    """Flat indices of the pixels that points lie in: (..., 2) 0 to 1 -> (...) int64."""
    columns = (points[..., 0] * width).long().clamp(0, width - 1)
    return (points[..., 1] * height).long().clamp(0, height - 1) * width + columns


def most_uncertain(logits: Tensor, points: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """The points whose logits are nearest to 0: (P, n), (P, n, 2) -> (P, count, 2).

    With `weights`, (P, n) 0 to 1, a point is as near as |logit| / weight: what has none comes last.
    """
    distance = logits.abs()
    if weights is not None:
        distance = torch.where(weights > 0, distance / weights, torch.inf)
    chosen = distance.topk(count, dim=1, largest=False, sorted=False).indices
    return points.gather(1, chosen[..., None].expand(-1, -1, 2))
