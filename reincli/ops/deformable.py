"""Multi-scale deformable attention (Zhu et al., Deformable DETR, arXiv 2010.04159, eq. 3) on plain tensors.

Shapes: B images, L levels, N = sum of h*w over the levels, H heads, D channels a head, Q queries, P points.

Each output row is a weighted sum of 4*L*P rows of the values: four corners of each sampled point, weight =
attention x bilinear. So the operation is a sparse matrix times the values, which on the CPU is several
times faster than sampling map by map; on CUDA it is one kernel (`ops.deformable_triton`). `sample_plain` is the
textbook form; all give the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from reincli.ops import triton_use

TRITON_WIDTHS = (8, 16, 32, 64, 128)
"""Channels a head that the kernels take."""


def triton_reason(device: torch.device, width: int, dtype: torch.dtype) -> str | None:
    """Why the plain form runs on a device and not the kernels, in a few words; None: the kernels run.

    Args:
        device: where the values are. width: D. dtype: of the values.
    """
    if width not in TRITON_WIDTHS:
        return f"its kernels take heads of 8, 16, 32, 64 or 128 channels, not {width}"
    return triton_use.reason(device, dtype)


@torch.compiler.assume_constant_result
def _by_triton(device: torch.device, width: int, dtype: torch.dtype) -> bool:
    """Looked up while torch.compile traces, not traced itself: it asks the driver and the file system."""
    return triton_reason(device, width, dtype) is None


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
        (B, Q, H*D), in the type of `value`: under autocast that is the low type of the projection before. Whatever
        it is, places and sums are worked out in fp32 (places in bf16 would be off by an eighth of a pixel of 64).
    """
    if exporting():
        return sample_gathered(value, shapes, locations, weights)
    if _by_triton(value.device, value.shape[3], value.dtype):
        from reincli.ops.deformable_triton import attend

        return attend(value, [side for shape in shapes for side in shape], locations, weights)
    entries, rows = len(shapes) * weights.shape[4], value.shape[0] * value.shape[1] * value.shape[2]
    # MKL multiplies sparse matrices; torch refuses rows with more entries than there are columns (toy sizes)
    by_rows = value.device.type == "cpu" and entries <= rows and not torch.compiler.is_compiling()
    if by_rows and torch.backends.mkl.is_available():  # a compiler takes no sparse matrices
        return sample_sparse(value, shapes, locations, weights)
    return sample_plain(value, shapes, locations, weights)


def sample_plain(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` by bilinear sampling of each level: any device, the reference for other forms."""
    batch, _, heads, width = value.shape
    kind = torch.promote_types(value.dtype, torch.float32)
    queries, points = locations.shape[1], locations.shape[4]
    levels = value.split([h * w for h, w in shapes], dim=1)
    sampled = []
    for level, (h, w) in enumerate(shapes):
        maps = levels[level].permute(0, 2, 3, 1).reshape(batch * heads, width, h, w).to(kind)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).reshape(batch * heads, queries, points, 2)
        sampled.append(F.grid_sample(maps, grid.to(kind), align_corners=False))  # (B*H, D, Q, P)
    stacked = torch.cat(sampled, dim=-1)  # (B*H, D, Q, L*P)
    mix = weights.to(kind).transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    mixed = (stacked * mix).sum(-1)  # (B*H, D, Q)
    return mixed.view(batch, heads * width, queries).transpose(1, 2).contiguous().to(value.dtype)


def exporting() -> bool:
    """Whether the model is being written down for another runtime."""
    probe = getattr(torch.compiler, "is_exporting", None)  # newer than the oldest PyTorch of the range
    return bool(probe and probe())


def sample_gathered(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` by gathering the four corners of each point: operators that every runtime has."""
    batch, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    rows = value.transpose(1, 2).float()  # (B, H, N, D)
    mixed = torch.zeros(1, device=value.device)
    start = 0
    for level, (height, across) in enumerate(shapes):
        where = locations[:, :, :, level].float().transpose(1, 2)  # (B, H, Q, P, 2)
        share = weights[:, :, :, level].float().transpose(1, 2)
        x, y = where[..., 0] * across - 0.5, where[..., 1] * height - 0.5
        left, top = x.floor(), y.floor()
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            column, line = left + right, top + down
            held_column, held_line = column.clamp(0, across - 1), line.clamp(0, height - 1)
            inside = ((held_column == column) & (held_line == line)).float()
            factor = inside * (1 - (x - column).abs()) * (1 - (y - line).abs())  # bilinear
            index = (held_line * across + held_column).long() + start
            flat = index.flatten(2)[..., None].expand(-1, -1, -1, width)
            corner = rows.gather(2, flat).unflatten(2, (queries, points))  # (B, H, Q, P, D)
            mixed = mixed + (corner * (share * factor)[..., None]).sum(3)
        start += height * across
    return mixed.transpose(1, 2).reshape(batch, queries, heads * width).to(value.dtype)


def sample_sparse(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` as a sparse matrix product (CPU)."""
    batch, _, heads, width = value.shape
    rows = _SparseSample.apply(value.float(), locations.float(), weights.float(), tuple(shapes))
    return rows.view(batch, locations.shape[1], heads * width).to(value.dtype)


@dataclass(frozen=True)
class Corners:
    """The four neighbours of every sampled point; each tensor has B*Q*H rows of E = L*P entries.

    They stay apart: putting them side by side in one matrix would cost as much as using them.

    Attributes:
        rows: int32 row of value.view(B*N*H, D), in the order (top left, top right, bottom left, bottom right).
        across, down: bilinear factor of the left and right, of the top and bottom neighbours; 0 outside the map.
        slope_x, slope_y: what a factor changes by a unit of location: -size and +size, 0 outside the map.
    """

    rows: list[Tensor]
    across: list[Tensor]
    down: list[Tensor]
    slope_x: list[Tensor]
    slope_y: list[Tensor]


def corners(shapes: Sequence[tuple[int, int]], locations: Tensor, heads: int, total: int) -> Corners:
    """Find the neighbours of (B, Q, H, L, P, 2) locations; `total` is N."""
    batch, queries, _, levels, points, _ = locations.shape
    device, entries = locations.device, levels * points

    def constant(values: Sequence[int]) -> Tensor:  # (H*L*P,): one inner loop for all of a query's points
        by_level = torch.tensor(values, dtype=torch.float32, device=device)
        return by_level.repeat_interleave(points).repeat(heads)

    height, width = constant([h for h, _ in shapes]), constant([w for _, w in shapes])
    areas = [h * w for h, w in shapes]
    starts = constant([sum(areas[:level]) for level in range(len(areas))])
    columns = _pair(locations[..., 0].reshape(batch, queries, -1), width)
    lines = _pair(locations[..., 1].reshape(batch, queries, -1), height)
    image = torch.arange(batch, dtype=torch.int32, device=device).view(-1, 1, 1) * (total * heads)
    head = torch.arange(heads, dtype=torch.int32, device=device).repeat_interleave(entries)
    column_index = [x.to(torch.int32) * heads for x, _, _ in columns]
    line_index = [(y * width + starts).to(torch.int32) * heads + (image + head) for y, _, _ in lines]
    return Corners(
        rows=[(y + x).view(-1, entries) for y in line_index for x in column_index],
        across=[factor.view(-1, entries) for _, factor, _ in columns],
        down=[factor.view(-1, entries) for _, factor, _ in lines],
        slope_x=[slope.view(-1, entries) for _, _, slope in columns],
        slope_y=[slope.view(-1, entries) for _, _, slope in lines],
    )


def _pair(location: Tensor, extent: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For the lower and the upper neighbour: position held inside, factor, slope of the factor."""
    pixel = location * extent - 0.5
    lower = pixel.floor()
    far = pixel - lower
    result = []
    for position, factor, sign in ((lower, 1 - far, -1.0), (lower + 1, far, 1.0)):
        held = position.clamp(min=0).minimum(extent - 1)
        inside = (held == position).float()
        result.append((held, factor * inside, inside * (sign * extent)))
    return result


class _SparseSample(torch.autograd.Function):
    """Values (B, N, H, D), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P) -> (B*Q*H, D).

    The matrix is worked out again in the backward pass: keeping it would cost more memory than all else here.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        rows = value.reshape(-1, value.shape[-1])
        found = corners(shapes, locations, value.shape[2], value.shape[1])
        result = rows.new_zeros(weights.shape[0] * weights.shape[1] * weights.shape[2], rows.shape[1])
        for index, coefficients in _entries(found, weights.reshape(len(result), -1)):
            result.addmm_(_csr(index, coefficients, len(rows)), rows)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        value, locations, weights = ctx.saved_tensors
        need_value, need_locations, need_weights, _ = ctx.needs_input_grad
        grad = grads[0].contiguous()
        rows = value.reshape(-1, value.shape[-1])
        turned = rows.t().contiguous() if need_locations or need_weights else None
        found = corners(ctx.shapes, locations, value.shape[2], value.shape[1])
        flat = weights.reshape(len(grad), -1)
        grad_rows = torch.zeros_like(rows) if need_value else None
        products = []  # <grad, value> of every entry
        for index, coefficients in _entries(found, flat):
            if grad_rows is not None:
                grad_rows.addmm_(_transposed(index, coefficients, len(rows)), grad)
            if turned is not None:
                pattern = _csr(index, torch.zeros_like(coefficients), len(rows))
                sampled = torch.sparse.sampled_addmm(pattern, grad, turned, beta=0.0)
                products.append(sampled.values().view_as(coefficients))
        grad_value = grad_rows.view_as(value) if grad_rows is not None else None
        if not products:
            return grad_value, None, None, None
        by_line = [_mix(products[0:2], found.across), _mix(products[2:4], found.across)]
        grad_weights = _mix(by_line, found.down).view_as(weights)
        slopes = [_mix(products[0:2], found.slope_x), _mix(products[2:4], found.slope_x)]
        along_x, along_y = _mix(slopes, found.down) * flat, _mix(by_line, found.slope_y) * flat
        grad_locations = torch.stack([along_x, along_y], dim=-1).view_as(locations)
        return grad_value, grad_locations, grad_weights, None


def _entries(found: Corners, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and coefficients (attention x bilinear) of each of the four neighbours."""
    for number, index in enumerate(found.rows):
        yield index, weights * found.down[number // 2] * found.across[number % 2]


def _mix(pair: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    return pair[0] * factors[0] + pair[1] * factors[1]


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
