"""A convolution whose weight gradient is as fast as the rest of it on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(maps: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution of the same size, (B, C, h, w) x (D, C, 3, 3) -> (B, D, h, w), without bias.

    On a CPU oneDNN's weight gradient in fp32 takes five times as long where maps lie channels last as where they lie
    channels first; turning both beforehand costs a tenth of that. Elsewhere this is `F.conv2d`.
    """
    slow = maps.device.type == "cpu" and maps.stride(1) == 1 and not torch.compiler.is_compiling()
    if slow and torch.is_grad_enabled() and weight.requires_grad and not torch.is_autocast_enabled("cpu"):
        return _Convolve.apply(maps, weight)
    return F.conv2d(maps, weight, padding=1)


class _Convolve(torch.autograd.Function):
    """`convolve`, with a backward pass on maps that lie channels first."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return F.conv2d(maps, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        maps, weight = ctx.saved_tensors
        needed = [*ctx.needs_input_grad, False]
        found = torch.ops.aten.convolution_backward(
            grads[0].contiguous(), maps.contiguous(), weight, None,
            [1, 1], [1, 1], [1, 1], False, [0, 0], 1, needed,
        )  # fmt: skip
        return found[0], found[1]
