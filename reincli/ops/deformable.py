"""Multi-scale deformable attention (Zhu et al., Deformable DETR, arXiv 2010.04159, eq. 3) on plain tensors.

Shapes: B images, L levels, N = sum of h*w over the levels, H heads, D channels a head, Q queries, P points.

Each output row is a weighted sum of 4*L*P rows of the values: four corners of each sampled point, weight =
attention x bilinear. So the operation is a sparse matrix times the values, which on the CPU is several
times faster than sampling map by map. `sample_plain` is the textbook form; both give the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum values sampled at `locations`, weighted.

    Args:
        value: (B, N, H, D), levels one after another, each row by row.
        shapes: (height, width) of each level.
        locations: (B, Q, H, L, P, 2) as x, y; 0 and 1 are the outer borders of the map. What lies outside reads 0.
        weights: (B, Q, H, L, P), normalised by the caller.

    Returns:
        (B, Q, H*D), in the type of `value` (computed in fp32 on the CPU).
    """
    entries, rows = len(shapes) * weights.shape[4], value.shape[0] * value.shape[1] * value.shape[2]
    # MKL multiplies sparse matrices; torch refuses rows with more entries than there are columns (toy sizes)
    if value.device.type == "cpu" and torch.backends.mkl.is_available() and entries <= rows:
        return sample_sparse(value, shapes, locations, weights)
    return sample_plain(value, shapes, locations, weights)


def sample_plain(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` by bilinear sampling of each level: any device, the reference for other forms."""
    batch, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    levels = value.split([h * w for h, w in shapes], dim=1)
    sampled = []
    for level, (h, w) in enumerate(shapes):
        maps = levels[level].permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).reshape(batch * heads, queries, points, 2)
        sampled.append(F.grid_sample(maps, grid.to(maps.dtype), align_corners=False))  # (B*H, D, Q, P)
    stacked = torch.cat(sampled, dim=-1)  # (B*H, D, Q, L*P)
    mix = weights.to(value.dtype).transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    mixed = (stacked * mix).sum(-1)  # (B*H, D, Q)
    return mixed.view(batch, heads * width, queries).transpose(1, 2).contiguous()


def sample_sparse(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` as a sparse matrix product (CPU)."""
    batch, total, heads, width = value.shape
    queries = locations.shape[1]
    parts = corners(shapes, locations.float(), weights.float(), total)
    rows = _SparseProduct.apply(value.float().reshape(-1, width), *(part for pair in parts for part in pair))
    return rows.view(batch, queries, heads * width).to(value.dtype)


def corners(
    shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor, total: int
) -> list[tuple[Tensor, Tensor]]:
    """Rows of the values that each sampled point reads, and with which weight.

    Args:
        shapes, locations, weights: as in `deformable_attention`.
        total: N.

    Returns:
        For each of the four neighbours of a point: (B*Q*H, L*P) int32 rows of value.view(B*N*H, D), and the
        weights of the same shape (differentiable in `locations` and `weights`); a neighbour outside the map
        has weight 0. The four stay apart because putting them side by side would cost as much as using them.
    """
    batch, queries, heads, _, points = weights.shape
    device = locations.device

    def constant(values: Sequence[int]) -> Tensor:  # (H*L*P,): one inner loop for all of a query's points
        by_level = torch.tensor(values, dtype=torch.float32, device=device)
        return by_level.repeat_interleave(points).repeat(heads)

    height, width = constant([h for h, _ in shapes]), constant([w for _, w in shapes])
    areas = [h * w for h, w in shapes]
    starts = constant([sum(areas[:level]) for level in range(len(areas))])
    left, far_x = _floor(locations[..., 0].reshape(batch, queries, -1) * width - 0.5)
    top, far_y = _floor(locations[..., 1].reshape(batch, queries, -1) * height - 0.5)
    weights = weights.reshape(batch, queries, -1)
    columns = [(left, 1 - far_x), (left + 1, far_x)]
    rows = [(top, weights * (1 - far_y)), (top + 1, weights * far_y)]
    columns = [_inside(x, factor, width) for x, factor in columns]
    rows = [_inside(y, factor, height) for y, factor in rows]

    image = torch.arange(batch, dtype=torch.int32, device=device).view(-1, 1, 1) * (total * heads)
    head = torch.arange(heads, dtype=torch.int32, device=device).repeat_interleave(len(shapes) * points)
    column_index = [(x.to(torch.int32) * heads, factor) for x, factor in columns]
    row_index = [
        ((y * width + starts).to(torch.int32) * heads + (image + head), factor) for y, factor in rows
    ]
    entries = len(shapes) * points
    return [
        ((y + x).view(-1, entries), (factor_y * factor_x).view(-1, entries))
        for y, factor_y in row_index
        for x, factor_x in column_index
    ]


def _floor(pixel: Tensor) -> tuple[Tensor, Tensor]:
    """Whole part (a constant to autograd) and remainder."""
    whole = pixel.detach().floor()
    return whole, pixel - whole


def _inside(position: Tensor, factor: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """A position held inside 0..extent-1, and the factor, 0 where the position was outside."""
    held = position.clamp(min=0).minimum(extent - 1)
    return held, factor * (held == position)


class _SparseProduct(torch.autograd.Function):
    """Sum over several (columns, coefficients), each (R, K) entries of a sparse matrix, times (M, D) values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, *entries: Tensor) -> Tensor:
        ctx.save_for_backward(values, *entries)
        total = values.new_zeros(len(entries[0]), values.shape[1])
        for columns, coefficients in zip(entries[::2], entries[1::2], strict=True):
            total.addmm_(_csr(columns, coefficients, len(values)), values)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, *entries = ctx.saved_tensors
        grad = grads[0].contiguous()
        values_turned = values.t().contiguous()
        grad_values = torch.zeros_like(values) if ctx.needs_input_grad[0] else None
        grad_entries: list[Tensor | None] = []
        for columns, coefficients in zip(entries[::2], entries[1::2], strict=True):
            if grad_values is not None:
                grad_values.addmm_(_transposed(columns, coefficients, len(values)), grad)
            # only the products grad_r . values_c of the pairs (r, c) that the matrix holds
            pattern = _csr(columns, torch.zeros_like(coefficients), len(values))
            products = torch.sparse.sampled_addmm(pattern, grad, values_turned, beta=0.0)
            grad_entries += [None, products.values().view_as(coefficients)]
        return grad_values, *grad_entries


def _csr(columns: Tensor, coefficients: Tensor, width: int) -> Tensor:
    rows, entries = columns.shape
    starts = torch.arange(0, rows * entries + 1, entries, dtype=torch.int32)
    return _csr_tensor(starts, columns.reshape(-1), coefficients.reshape(-1), (rows, width))


def _transposed(columns: Tensor, coefficients: Tensor, width: int) -> Tensor:
    rows, entries = columns.shape
    starts = np.arange(0, rows * entries + 1, entries, dtype=np.int32)
    matrix = sparse.csr_matrix(
        (coefficients.detach().reshape(-1).numpy(), columns.reshape(-1).numpy(), starts), shape=(rows, width)
    )
    turned = matrix.tocsc()
    parts = [torch.from_numpy(part) for part in (turned.indptr, turned.indices, turned.data)]
    return _csr_tensor(parts[0], parts[1], parts[2], (width, rows))


def _csr_tensor(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR layout "beta" once a process
        return torch.sparse_csr_tensor(starts, columns, values, size)
