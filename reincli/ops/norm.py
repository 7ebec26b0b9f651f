"""The residual stream of a transformer at inference: add what a branch gives, and normalise, in one pass.

A pre-norm block reads the stream four times and writes it four times where additions, norms and changes of type run
one by one; memory, not arithmetic, is what that takes on a GPU. Here the stream is changed in place (nothing keeps it
for a backward pass) and on CUDA one kernel (`ops.norm_triton`) does what belongs to one addition.

Shapes: B images, T tokens, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reincli.ops import triton_use

MOST_CHANNELS = 8192
"""The kernel holds a token's channels in registers."""


def triton_reason(device: torch.device, channels: int, dtype: torch.dtype) -> str | None:
    """Why the plain form runs and not the kernel, in a few words; None: the kernel runs."""
    if channels > MOST_CHANNELS:
        return f"its kernel takes up to {MOST_CHANNELS} channels, not {channels}"
    return triton_use.reason(device, dtype)


def _by_triton(stream: Tensor, dtype: torch.dtype) -> bool:
    if torch.compiler.is_compiling():  # which fuses the plain form with what stands around it
        return False
    return triton_reason(stream.device, stream.shape[-1], dtype) is None


def add_norm(
    stream: Tensor, branch: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype, skip: int = 0
) -> Tensor:
    """Add a branch to the stream, in place, and give the normalised sum.

    Args:
        stream: (B, T, C), contiguous; it becomes the sum.
        branch: (B, T, C), or None where nothing is to be added.
        norm: over C.
        dtype: of the result. The sum and the norm are worked out in fp32.
        skip: leading tokens of each image that the branch does not change.

    Returns:
        (B, T, C).
    """
    if norm.weight is not None and _by_triton(stream, dtype):  # the kernel takes "no weight" for "no norm"
        from reincli.ops.norm_triton import add_normalised

        return add_normalised(stream, branch, norm.weight, norm.bias, norm.eps, dtype, skip)
    _add(stream, branch, skip)
    weight = None if norm.weight is None else norm.weight.to(stream.dtype)
    bias = None if norm.bias is None else norm.bias.to(stream.dtype)
    return F.layer_norm(stream, norm.normalized_shape, weight, bias, norm.eps).to(dtype)


def add_cast(stream: Tensor, branch: Tensor, dtype: torch.dtype, skip: int = 0) -> Tensor:
    """Add a branch to the stream, in place, and give the sum in another type, as `add_norm` without the norm.

    The result may be the stream itself where its type is that already.
    """
    if stream.dtype != dtype and _by_triton(stream, dtype):
        from reincli.ops.norm_triton import add_normalised

        return add_normalised(stream, branch, None, None, 0.0, dtype, skip)
    _add(stream, branch, skip)
    return stream.to(dtype)


def sum_norm(stream: Tensor, branch: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Norm of the sum, as a post-norm layer wants it: (B, T, C) twice -> (B, T, C) in the type of `branch`.

    Where gradients are wanted, or no kernel runs, it is PyTorch's own sum and norm.
    """
    tracked = torch.is_grad_enabled() and (stream.requires_grad or branch.requires_grad)
    fits = norm.weight is not None and branch.is_contiguous() and stream.is_contiguous()
    if fits and not tracked and _by_triton(stream, branch.dtype):
        from reincli.ops.norm_triton import normalised_sum

        return normalised_sum(stream, branch, norm.weight, norm.bias, norm.eps)
    return norm(stream + branch)


def _add(stream: Tensor, branch: Tensor | None, skip: int) -> None:
    if branch is None:
        return
    if skip:
        stream[:, skip:] += branch[:, skip:]
    else:
        stream += branch
