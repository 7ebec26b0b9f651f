"""Multi-scale deformable attention (Zhu et al., Deformable DETR, arXiv 2010.04159, eq. 3) on plain tensors.

Shapes: B images, L levels, N = sum of h*w over the levels, H heads, D channels a head, Q queries, P points.

Each output row is a weighted sum of 4*L*P rows of the values: four corners of each sampled point, weight =
attention x bilinear. So the operation is a bag of weighted rows (what word embeddings are summed by), which on the CPU
is many times faster than sampling map by map; on CUDA it is one kernel (`ops.deformable_triton`). `sample_plain` is
the textbook form; all give the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
    if value.device.type == "cpu" and _by_bags(value, len(shapes) * weights.shape[4]):
        return sample_bags(value, shapes, locations, weights)
    return sample_plain(value, shapes, locations, weights)


def _by_bags(value: Tensor, points: int) -> bool:
    """Whether `sample_bags` runs: always in inference; its backward pass multiplies sparse matrices.

    Those are MKL's, no compiler takes them, and torch refuses rows with more entries than columns (toy sizes).
    """
    if not torch.is_grad_enabled():
        return True
    if torch.compiler.is_compiling():
        return False
    fits = 4 * points <= value.shape[0] * value.shape[1] * value.shape[2]
    return fits and torch.backends.mkl.is_available()


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


def sample_bags(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` as weighted sums of rows, the four corners of all points of a query at a time (CPU)."""
    batch, _, heads, width = value.shape
    given = value.float(), locations.float(), weights.float()
    if torch.is_grad_enabled() and any(each.requires_grad for each in given):
        rows = _Bags.apply(*given, tuple(shapes))
    else:
        rows = _sums(*given, shapes)
    return rows.view(batch, locations.shape[1], heads * width).to(value.dtype)


def _sums(value: Tensor, locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(B*Q*H, D), as `_Bags`."""
    found = corners(shapes, locations, value.shape[2], value.shape[1])
    return _bag(
        value.reshape(-1, value.shape[-1]), *found.entries(weights.reshape(-1, found.across[0].shape[1]))
    )


def _bag(rows: Tensor, index: Tensor, coefficients: Tensor) -> Tensor:
    """Sum of rows: (n, D) rows, (m, e) which of them and by how much each -> (m, D). One pass, nothing is gathered."""
    count, entries = index.shape
    starts = torch.arange(0, count * entries, entries, dtype=index.dtype, device=index.device)
    return F.embedding_bag(index.view(-1), rows, starts, mode="sum", per_sample_weights=coefficients.view(-1))


@dataclass(frozen=True)
class Corners:
    """The four neighbours of every sampled point; each tensor has B*Q*H rows of E = L*P entries.

    Attributes:
        rows: int32 row of value.view(B*N*H, D), in the order (top left, top right, bottom left, bottom right).
        across, down: bilinear factor of the left and right, of the top and bottom neighbours; 0 outside the map.
        within_x, within_y: whether these neighbours lie on the map. width, height: of the map, (H*L*P,).
    """

    rows: list[Tensor]
    across: list[Tensor]
    down: list[Tensor]
    within_x: list[Tensor]
    within_y: list[Tensor]
    width: Tensor
    height: Tensor

    def entries(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and coefficients (attention x bilinear) of all neighbours side by side, (B*Q*H, 4 E) each."""
        by_line = [weights * each for each in self.down]
        coefficients = [line * column for line in by_line for column in self.across]
        return torch.cat(self.rows, dim=1), torch.cat(coefficients, dim=1)

    def slopes(self) -> tuple[list[Tensor], list[Tensor]]:
        """What `across` and `down` change by a unit of location: -size and +size, 0 outside the map."""
        queries = self.across[0].numel() // len(self.width)
        width, height = (
            side.expand(queries, -1).reshape(self.across[0].shape) for side in (self.width, self.height)
        )
        return (
            [self.within_x[0] * -width, self.within_x[1] * width],
            [self.within_y[0] * -height, self.within_y[1] * height],
        )


def corners(shapes: Sequence[tuple[int, int]], locations: Tensor, heads: int, total: int) -> Corners:
    """Find the neighbours of (B, Q, H, L, P, 2) locations; `total` is N."""
    batch, queries, _, levels, points, _ = locations.shape
    device, entries = locations.device, levels * points

    def constant(values: Sequence[int]) -> Tensor:  # (H*L*P,): one inner loop for all of a query's points
        by_level = torch.tensor(values, dtype=torch.int32, device=device)
        return by_level.repeat_interleave(points).repeat(heads)

    height, width = constant([h for h, _ in shapes]), constant([w for _, w in shapes])
    areas = [h * w for h, w in shapes]
    starts = constant([sum(areas[:level]) for level in range(len(areas))])
    columns = _pair(locations[..., 0].reshape(batch, queries, -1), width)
    lines = _pair(locations[..., 1].reshape(batch, queries, -1), height)
    image = torch.arange(batch, dtype=torch.int32, device=device).view(-1, 1, 1) * (total * heads)
    head = torch.arange(heads, dtype=torch.int32, device=device).repeat_interleave(entries)
    column_index = [x * heads for x, _, _ in columns]
    line_index = [y * (width * heads) + (image + head + starts * heads) for y, _, _ in lines]
    return Corners(
        rows=[(y + x).view(-1, entries) for y in line_index for x in column_index],
        across=[factor.view(-1, entries) for _, factor, _ in columns],
        down=[factor.view(-1, entries) for _, factor, _ in lines],
        within_x=[within.view(-1, entries) for _, _, within in columns],
        within_y=[within.view(-1, entries) for _, _, within in lines],
        width=width,
        height=height,
    )


def _pair(location: Tensor, extent: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For the lower and the upper neighbour: position held on the map, factor, whether it lies there.

    Positions are held as whole numbers: what is no number, or far away, reads some place of the map too, and its
    factor says what it is.
    """
    pixel = location * extent - 0.5
    lower = pixel.floor()
    far = pixel - lower
    whole, last = lower.to(torch.int32), extent - 1
    result = []
    for position, factor in ((whole, 1 - far), (whole + 1, far)):
        held = position.clamp(min=0).minimum(last)
        within = held == position
        result.append((held, factor * within, within))
    return result


class _Bags(torch.autograd.Function):
    """Values (B, N, H, D), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P) -> (B*Q*H, D).

    Neighbours are worked out again in the backward pass: keeping them would cost more memory than all else here.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        return _sums(value, locations, weights, shapes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        value, locations, weights = ctx.saved_tensors
        need_value, need_locations, need_weights, _ = ctx.needs_input_grad
        grad = grads[0].contiguous()
        rows = value.reshape(-1, value.shape[-1])
        found = corners(ctx.shapes, locations, value.shape[2], value.shape[1])
        flat = weights.reshape(len(grad), -1)
        index, coefficients = found.entries(flat)
        grad_value = None
        if need_value:
            grad_value = _turned_bag(grad, index, coefficients, len(rows)).view_as(value)
        if not (need_locations or need_weights):
            return grad_value, None, None, None
        # <grad, value> of every entry
        pattern = _csr(index, torch.zeros_like(coefficients), len(rows))
        sampled = torch.sparse.sampled_addmm(pattern, grad, rows.t().contiguous(), beta=0.0)
        products = sampled.values().view_as(coefficients).split(flat.shape[1], dim=1)
        by_line = [_mix(products[0:2], found.across), _mix(products[2:4], found.across)]
        grad_weights = _mix(by_line, found.down).view_as(weights)
        slope_x, slope_y = found.slopes()
        by_line_x = [_mix(products[0:2], slope_x), _mix(products[2:4], slope_x)]
        along_x, along_y = _mix(by_line_x, found.down) * flat, _mix(by_line, slope_y) * flat
        grad_locations = torch.stack([along_x, along_y], dim=-1).view_as(locations)
        return grad_value, grad_locations, grad_weights, None


def _mix(pair: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    return pair[0] * factors[0] + pair[1] * factors[1]


def _csr(columns: Tensor, coefficients: Tensor, width: int) -> Tensor:
    rows, entries = columns.shape
    starts = torch.arange(0, rows * entries + 1, entries, dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR layout "beta" once a process
        return torch.sparse_csr_tensor(starts, columns.view(-1), coefficients.view(-1), (rows, width))


def _turned_bag(grad: Tensor, index: Tensor, coefficients: Tensor, count: int) -> Tensor:
    """The transposed matrix times (m, D) gradients: (count, D), the entries sorted by row of the values first."""
    rows, entries = index.shape
    starts = np.arange(0, rows * entries + 1, entries, dtype=np.int32)
    matrix = sparse.csr_matrix(
        (coefficients.detach().view(-1).numpy(), index.view(-1).numpy(), starts), shape=(rows, count)
    )
    turned = matrix.tocsc()
    first, places, factors = (torch.from_numpy(each) for each in (turned.indptr, turned.indices, turned.data))
    return F.embedding_bag(places, grad, first[:-1], mode="sum", per_sample_weights=factors)
