"""Multi-scale deformable attention as two Triton kernels, for CUDA; `ops.deformable` says when it is taken.

Shapes: B images, L levels, N = sum of h*w over the levels, H heads, D channels a head, Q queries, P points.

A program handles a block of queries of one head of one image; a thread holds a few neighbouring channels of one
query, so that a corner of a sampled point is read in pieces of 16 bytes. Nothing of size (queries x points x
channels) leaves the registers: sums are kept in fp32, whatever the type of the values.

The backward pass reads the same corners again. Gradients of locations and weights are sums over a head's channels,
taken in registers. Gradients of the values are added up in fp32 in memory by atomic additions, in no fixed order: two
runs may differ in the last bits, as they do with the plain form on CUDA (`grid_sample`). Sorting the corners by row
would fix the order, but sorts 4*L*P entries a query to save additions that the cache's own units do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS, WARPS = 1024, 4
"""Queries x channels of a program's tile, and its warps: 8 channels a thread, 16 bytes in 16-bit types."""
LEVELS_AT_ONCE = 4
"""Sizes that a launch takes: they are plain arguments, so that no image size needs a compilation of its own."""
SIZES = ["h0", "w0", "h1", "w1", "h2", "w2", "h3", "w3"]


@triton.jit
def _axis(location: tl.tensor, extent: tl.tensor) -> tl.tensor:
    """Lower neighbour of a location along an axis, and how far beyond it the point lies (0..1).

    What lies more than a pixel outside is moved to where both neighbours are outside still: any float, also one
    that fits no integer, ends as an index that can be compared. NaN is outside.
    """
    pixel = tl.minimum(tl.maximum(location * extent - 0.5, -2.0), extent + 1.0)
    lower = tl.floor(pixel)
    return lower.to(tl.int32), pixel - lower


@triton.jit
def _corner(column: tl.tensor, line: tl.tensor, width: tl.tensor, height: tl.tensor) -> tl.tensor:
    """Whether a corner lies on the map."""
    return (column >= 0) & (column < width) & (line >= 0) & (line < height)


@triton.jit(do_not_specialize=["queries", "total", "start", *SIZES])
def attention_forward(
    value: tl.tensor, locations: tl.tensor, weights: tl.tensor, out: tl.tensor,
    queries: tl.tensor, total: tl.tensor, start: tl.tensor,
    h0: tl.tensor, w0: tl.tensor, h1: tl.tensor, w1: tl.tensor,
    h2: tl.tensor, w2: tl.tensor, h3: tl.tensor, w3: tl.tensor,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ENTRIES: tl.constexpr, FIRST: tl.constexpr, LEVELS: tl.constexpr,
    POINTS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Weighted sum of the samples of levels FIRST to FIRST + LEVELS, added to what other levels gave.

    Arguments: value (B, N, H, D), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P), out (B, Q, H, D), all
    contiguous; start: row of level FIRST within N; h0 ... w3: sizes of the levels; ENTRIES: L*P. Tiles are (BLOCK, D),
    one point after another: their loads hang on nothing but the locations, so that many are under way at once.
    """
    image, head = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    query, channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    asked = query < queries
    first = (image * queries * HEADS + head) * ENTRIES
    locations += 2 * first
    weights += first
    value += image * total * (HEADS * WIDTH) + head * WIDTH
    entry = query * (HEADS * ENTRIES) + FIRST * POINTS

    mixed = tl.zeros([BLOCK, WIDTH], tl.float32)
    for level in tl.static_range(LEVELS):
        height = h0 if level == 0 else (h1 if level == 1 else (h2 if level == 2 else h3))
        width = w0 if level == 0 else (w1 if level == 1 else (w2 if level == 2 else w3))
        for _ in tl.static_range(POINTS):
            x = tl.load(locations + 2 * entry, mask=asked, other=0.0).to(tl.float32)
            y = tl.load(locations + 2 * entry + 1, mask=asked, other=0.0).to(tl.float32)
            weight = tl.load(weights + entry, mask=asked, other=0.0).to(tl.float32)
            column, right = _axis(x, width)
            line, below = _axis(y, height)
            row = (start + line * width + column) * (HEADS * WIDTH)
            for down in tl.static_range(2):
                for across in tl.static_range(2):
                    inside = asked & _corner(column + across, line + down, width, height)
                    factor = (
                        weight * (right if across == 1 else 1 - right) * (below if down == 1 else 1 - below)
                    )
                    index = (row + (across + down * width) * (HEADS * WIDTH))[:, None] + channel[None, :]
                    corner = tl.load(value + index, mask=inside[:, None], other=0.0)
                    mixed += factor[:, None] * corner.to(tl.float32)
            entry += 1
        start += height * width

    out += image * queries * (HEADS * WIDTH) + head * WIDTH
    place = (query * (HEADS * WIDTH))[:, None] + channel[None, :]
    if FIRST > 0:
        mixed += tl.load(out + place, mask=asked[:, None], other=0.0)
    tl.store(out + place, mixed.to(out.dtype.element_ty), mask=asked[:, None])


@triton.jit(do_not_specialize=["queries", "total", "start", *SIZES])
def attention_backward(
    grad: tl.tensor, value: tl.tensor, locations: tl.tensor, weights: tl.tensor,
    grad_value: tl.tensor, grad_locations: tl.tensor, grad_weights: tl.tensor,
    queries: tl.tensor, total: tl.tensor, start: tl.tensor,
    h0: tl.tensor, w0: tl.tensor, h1: tl.tensor, w1: tl.tensor,
    h2: tl.tensor, w2: tl.tensor, h3: tl.tensor, w3: tl.tensor,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ENTRIES: tl.constexpr, FIRST: tl.constexpr, LEVELS: tl.constexpr,
    POINTS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of `attention_forward`; grad is (B, Q, H, D), grad_value (B, N, H, D) fp32 is added to."""
    image, head = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    query, channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    asked = query < queries
    first = (image * queries * HEADS + head) * ENTRIES
    locations += 2 * first
    grad_locations += 2 * first
    weights += first
    grad_weights += first
    value += image * total * (HEADS * WIDTH) + head * WIDTH
    grad_value += image * total * (HEADS * WIDTH) + head * WIDTH
    grad += image * queries * (HEADS * WIDTH) + head * WIDTH
    entry = query * (HEADS * ENTRIES) + FIRST * POINTS

    place = (query * (HEADS * WIDTH))[:, None] + channel[None, :]
    given = tl.load(grad + place, mask=asked[:, None], other=0.0).to(tl.float32)
    for level in tl.static_range(LEVELS):
        height = h0 if level == 0 else (h1 if level == 1 else (h2 if level == 2 else h3))
        width = w0 if level == 0 else (w1 if level == 1 else (w2 if level == 2 else w3))
        for _ in tl.static_range(POINTS):
            x = tl.load(locations + 2 * entry, mask=asked, other=0.0).to(tl.float32)
            y = tl.load(locations + 2 * entry + 1, mask=asked, other=0.0).to(tl.float32)
            weight = tl.load(weights + entry, mask=asked, other=0.0).to(tl.float32)
            column, right = _axis(x, width)
            line, below = _axis(y, height)
            row = (start + line * width + column) * (HEADS * WIDTH)
            sampled = tl.zeros([BLOCK], tl.float32)  # <gradient, sample>, and its slopes in pixels
            along_x = tl.zeros([BLOCK], tl.float32)
            along_y = tl.zeros([BLOCK], tl.float32)
            for down in tl.static_range(2):
                for across in tl.static_range(2):
                    inside = (asked & _corner(column + across, line + down, width, height))[:, None]
                    by_x = right if across == 1 else 1 - right
                    by_y = below if down == 1 else 1 - below
                    index = (row + (across + down * width) * (HEADS * WIDTH))[:, None] + channel[None, :]
                    corner = tl.load(value + index, mask=inside, other=0.0).to(tl.float32)
                    product = tl.sum(given * corner, axis=1)
                    sampled += by_x * by_y * product
                    along_x += (by_y if across == 1 else -by_y) * product
                    along_y += (by_x if down == 1 else -by_x) * product
                    share = (weight * by_x * by_y)[:, None] * given
                    tl.atomic_add(grad_value + index, share, mask=inside, sem="relaxed")
            tl.store(grad_weights + entry, sampled.to(grad_weights.dtype.element_ty), mask=asked)
            slope_x, slope_y = weight * along_x * width, weight * along_y * height
            tl.store(grad_locations + 2 * entry, slope_x.to(grad_locations.dtype.element_ty), mask=asked)
            tl.store(grad_locations + 2 * entry + 1, slope_y.to(grad_locations.dtype.element_ty), mask=asked)
            entry += 1
        start += height * width


# The operators are opaque to torch.compile: it neither traces into them nor breaks the graph at them.


@torch.library.custom_op(
    "rein::deformable_attention",
    mutates_args=(),
    schema="(Tensor value, SymInt[] sizes, Tensor locations, Tensor weights) -> Tensor",
)
def attend(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """`ops.deformable.deformable_attention`; `sizes` are height and width of one level after another."""
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    levels = len(sizes) // 2
    batch, queries, heads, width = *locations.shape[:3], value.shape[3]
    # levels of a later launch are added to those before: not in a type that would round between
    kind = value.dtype if levels <= LEVELS_AT_ONCE else torch.float32
    out = torch.empty(batch, queries, heads * width, dtype=kind, device=value.device)
    for grid, numbers, constants in _launches(value, sizes, locations):
        with torch.cuda.device_of(value):
            attention_forward[grid](value, locations, weights, out, *numbers, **constants, num_warps=WARPS)
    return out.to(value.dtype)


@torch.library.custom_op(
    "rein::deformable_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor value, SymInt[] sizes, Tensor locations, Tensor weights)"
    " -> (Tensor, Tensor, Tensor)",
)
def attend_backward(
    grad: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values, locations and weights, each in the type of what it belongs to."""
    grad, value = grad.contiguous(), value.contiguous()
    locations, weights = locations.contiguous(), weights.contiguous()
    grad_value = torch.zeros_like(value, dtype=torch.float32)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    given = (grad, value, locations, weights, grad_value, grad_locations, grad_weights)
    for grid, numbers, constants in _launches(value, sizes, locations):
        with torch.cuda.device_of(value):
            attention_backward[grid](*given, *numbers, **constants, num_warps=WARPS)
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _launches(
    value: Tensor, sizes: Sequence[int], locations: Tensor
) -> Iterator[tuple[tuple[int, int], list[int], dict[str, int]]]:
    """Grid, numbers (queries, rows, first row, sizes) and constants of each launch; none where nothing is asked."""
    batch, queries, heads, levels, points, _ = locations.shape
    width = value.shape[3]
    block = max(1, ELEMENTS // width)
    start = 0
    for first in range(0, levels if locations.numel() else 0, LEVELS_AT_ONCE):
        some = list(sizes[2 * first : 2 * (first + LEVELS_AT_ONCE)])
        padded = some + [0] * (2 * LEVELS_AT_ONCE - len(some))
        constants = {
            "HEADS": heads, "WIDTH": width, "ENTRIES": levels * points, "FIRST": first,
            "LEVELS": len(some) // 2, "POINTS": points, "BLOCK": block,
        }  # fmt: skip
        yield (
            (triton.cdiv(queries, block), batch * heads),
            [queries, value.shape[1], start, *padded],
            constants,
        )
        start += sum(h * w for h, w in zip(some[::2], some[1::2], strict=True))


@attend.register_fake
def _(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(locations.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@attend_backward.register_fake
def _(
    grad: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(  # type: ignore[return-value]
        torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in (value, locations, weights)
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.sizes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = attend_backward(grad, value, ctx.sizes, locations, weights)
    return grad_value, None, grad_locations, grad_weights


attend.register_autograd(_gradients, setup_context=_keep)
