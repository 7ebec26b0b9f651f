"""Mask upsampling, sigmoid, class product and argmax as one Triton kernel, for CUDA; `ops.output` says when.

A program takes a tile of output pixels and goes through the queries in chunks: the four neighbours of each pixel are
read (the tile's neighbours overlap, so they come from the cache), mixed, squashed, and multiplied with the chunk's
class probabilities. Of what is (queries x pixels) only the chunk's part exists, in the chip.

Shapes: B images, Q queries, K classes, (h, w) masks, (H, W) the image.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, PIXELS, CHUNK = 4, 64, 16
"""A tile's rows (one mask row high where the image is four times as large), its pixels, queries of a chunk."""
WARPS, STAGES = 4, 1
ACCUMULATORS = 2048
"""Most sums (classes x pixels) of a program. Twice as many fill all registers, and some Tritons spill them."""


@triton.jit
def _neighbours(place: tl.tensor, scale: tl.tensor, length: tl.tensor) -> tl.tensor:
    """Lower and upper neighbour of output positions, and the share of the upper: half-pixel, held at the borders."""
    source = tl.maximum((place.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    lower = tl.minimum(source.to(tl.int32), length - 1)
    return lower, tl.minimum(lower + 1, length - 1), source - lower.to(tl.float32)


@triton.jit(do_not_specialize=["queries", "height", "width", "mask_height", "mask_width"])
def classify(
    logits: tl.tensor, shares: tl.tensor, out: tl.tensor,
    queries: tl.tensor, height: tl.tensor, width: tl.tensor, mask_height: tl.tensor, mask_width: tl.tensor,
    scale_y: tl.tensor, scale_x: tl.tensor,
    CLASSES: tl.constexpr, SLOTS: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr, CHUNKS: tl.constexpr, PRECISION: tl.constexpr, LABELS: tl.constexpr,
) -> None:  # fmt: skip
    """Scores (B, K, H, W) fp32 or, with LABELS, labels (B, H, W) uint8 into `out`.

    Arguments: logits (B, Q, h, w), shares (B, Q, K), both contiguous; scales: h/H and w/W; SLOTS: K or the next power
    of two, at least 16; QUERIES: of each of the CHUNKS; PRECISION: of the product, see `precision`.
    """
    image = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(width, TILE_COLUMNS)
    pixel = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    y = (tl.program_id(0) // across) * TILE_ROWS + pixel // TILE_COLUMNS
    x = (tl.program_id(0) % across) * TILE_COLUMNS + pixel % TILE_COLUMNS
    there = (y < height) & (x < width)
    top, bottom, below = _neighbours(y, scale_y, mask_height)
    left, right, beyond = _neighbours(x, scale_x, mask_width)
    top_left, top_right = (top * mask_width + left)[None, :], (top * mask_width + right)[None, :]
    bottom_left, bottom_right = (bottom * mask_width + left)[None, :], (bottom * mask_width + right)[None, :]
    below, beyond = below[None, :], beyond[None, :]
    area = mask_height * mask_width
    logits += image * queries * area
    shares += image * queries * CLASSES
    slot = tl.arange(0, SLOTS)
    member = tl.arange(0, QUERIES)

    total = tl.zeros([SLOTS, TILE_ROWS * TILE_COLUMNS], tl.float32)
    for chunk in range(CHUNKS):
        query = chunk * QUERIES + member
        asked = (query < queries)[:, None] & there[None, :]
        mask = logits + (query * area)[:, None]
        a = tl.load(mask + top_left, mask=asked, other=0.0).to(tl.float32)
        b = tl.load(mask + top_right, mask=asked, other=0.0).to(tl.float32)
        c = tl.load(mask + bottom_left, mask=asked, other=0.0).to(tl.float32)
        d = tl.load(mask + bottom_right, mask=asked, other=0.0).to(tl.float32)
        upper, lower = a + (b - a) * beyond, c + (d - c) * beyond
        likely = tl.sigmoid(upper + (lower - upper) * below)
        known = (slot < CLASSES)[:, None] & (query < queries)[None, :]
        share = tl.load(shares + (query * CLASSES)[None, :] + slot[:, None], mask=known, other=0.0)
        total = tl.dot(share, likely, total, input_precision=PRECISION)

    place = y * width + x
    if LABELS:
        best = tl.argmax(tl.where((slot < CLASSES)[:, None], total, -1.0), axis=0)  # scores are at least 0
        tl.store(out + image * height * width + place, best.to(tl.uint8), mask=there)
    else:
        plane = (image * CLASSES + slot) * (height * width)  # 64 bits: scores of large images pass 2^31
        tl.store(
            out + plane[:, None] + place[None, :], total, mask=(slot < CLASSES)[:, None] & there[None, :]
        )


def precision(device: torch.device, dtype: torch.dtype) -> str:
    """How the class product multiplies fp32 numbers.

    On tensor cores as three products of TF32 parts ('tf32x3'): it keeps 21 of 24 bits, far more than the comparison of
    scores needs, at a tenth of the time of plain fp32. Masks that come in 16 bits have 8 or 11 that count: one product
    of TF32 parts keeps 11. GPUs before Ampere have no TF32.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "ieee"
    return "tf32x3" if dtype == torch.float32 else "tf32"


@torch.library.custom_op(
    "rein::class_scores",
    mutates_args=(),
    schema="(Tensor logits, Tensor shares, SymInt height, SymInt width) -> Tensor",
)
def scores(logits: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
    """`ops.output.class_scores`."""
    out = torch.empty(len(logits), shares.shape[2], height, width, device=logits.device)
    _launch(logits, shares, out)
    return out


@torch.library.custom_op(
    "rein::class_labels",
    mutates_args=(),
    schema="(Tensor logits, Tensor shares, SymInt height, SymInt width) -> Tensor",
)
def labels(logits: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
    """`ops.output.class_labels`."""
    out = torch.empty(len(logits), height, width, dtype=torch.uint8, device=logits.device)
    _launch(logits, shares, out)
    return out


def _launch(logits: Tensor, shares: Tensor, out: Tensor) -> None:
    """Fill scores (B, K, H, W) or labels (B, H, W)."""
    if not out.numel():
        return
    (batch, queries, mask_height, mask_width), classes = logits.shape, shares.shape[2]
    height, width = out.shape[-2:]
    slots = max(16, triton.next_power_of_2(classes))
    columns = max(16, min(PIXELS, ACCUMULATORS // slots)) // ROWS
    grid = (triton.cdiv(height, ROWS) * triton.cdiv(width, columns), batch)
    with torch.cuda.device_of(out):
        classify[grid](
            logits.contiguous(), shares.float().contiguous(), out, queries, height, width, mask_height, mask_width,
            mask_height / height, mask_width / width, CLASSES=classes, SLOTS=slots, TILE_ROWS=ROWS,
            TILE_COLUMNS=columns, QUERIES=CHUNK, CHUNKS=triton.cdiv(queries, CHUNK),
            PRECISION=precision(out.device, logits.dtype), LABELS=out.dtype == torch.uint8,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip


@scores.register_fake
def _(logits: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
    return shares.new_empty(logits.shape[0], shares.shape[2], height, width)


@labels.register_fake
def _(logits: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
    return shares.new_empty(logits.shape[0], height, width, dtype=torch.uint8)
