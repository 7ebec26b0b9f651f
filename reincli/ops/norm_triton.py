"""Residual addition, layer norm and change of type as one Triton kernel, for CUDA; `ops.norm` says when.

A program takes one token: its channels are read once, held in registers, and written once as the new sum and once as
what comes next.

Shapes: B images, T tokens, C channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["tokens", "skip"])
def add_and_normalise(
    stream: tl.tensor, branch: tl.tensor, weight: tl.tensor, bias: tl.tensor, out: tl.tensor,
    tokens: tl.tensor, skip: tl.tensor, eps: tl.tensor,
    WIDTH: tl.constexpr, SLOTS: tl.constexpr, ADD: tl.constexpr, STORE: tl.constexpr, NORM: tl.constexpr,
) -> None:  # fmt: skip
    """One token of stream (B, T, C) += branch (B, T, C), stored with STORE; out (B, T, C) = its norm or itself."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, SLOTS)
    there = channel < WIDTH
    place = row * WIDTH + channel
    value = tl.load(stream + place, mask=there, other=0.0).to(tl.float32)
    if ADD:
        given = there & ((row % tokens + 0 * channel) >= skip)
        value += tl.load(branch + place, mask=given, other=0.0).to(tl.float32)
        if STORE:
            tl.store(stream + place, value.to(stream.dtype.element_ty), mask=there)
    if NORM:
        centred = tl.where(there, value - tl.sum(value, axis=0) / WIDTH, 0.0)
        variance = tl.sum(centred * centred, axis=0) / WIDTH
        value = centred * tl.rsqrt(variance + eps)
        value = value * tl.load(weight + channel, mask=there, other=0.0).to(tl.float32)
        value += tl.load(bias + channel, mask=there, other=0.0).to(tl.float32)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=there)


def add_normalised(
    stream: Tensor,
    branch: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    skip: int,
) -> Tensor:
    """`ops.norm.add_norm`; without a weight, `ops.norm.add_cast`. Changes `stream`."""
    if not stream.is_contiguous():
        raise ValueError("the residual stream must be contiguous: it is changed in place")
    out = torch.empty_like(stream, dtype=dtype)
    _launch(stream, branch, weight, bias, out, eps, skip, store=True)
    return out


def normalised_sum(stream: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`ops.norm.sum_norm`: the stream stays as it is."""
    out = torch.empty_like(branch)
    _launch(stream, branch, weight, bias, out, eps, 0, store=False)
    return out


def _launch(
    stream: Tensor, branch: Tensor | None, weight: Tensor | None, bias: Tensor | None, out: Tensor,
    eps: float, skip: int, *, store: bool,
) -> None:  # fmt: skip
    width = stream.shape[-1]
    tokens = stream.shape[-2]
    rows = stream.numel() // width
    if not rows:
        return
    slots = triton.next_power_of_2(width)
    if weight is not None and bias is None:
        bias = torch.zeros_like(weight)
    with torch.cuda.device_of(stream):
        add_and_normalise[(rows,)](
            stream, stream if branch is None else branch.contiguous(), stream if weight is None else weight,
            stream if bias is None else bias, out, tokens, skip, eps, WIDTH=width, SLOTS=slots,
            ADD=branch is not None, STORE=store, NORM=weight is not None, num_warps=min(8, max(1, slots // 256)),
        )  # fmt: skip
