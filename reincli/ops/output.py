"""From query masks to class scores and label maps, without a tensor of (queries x image).

A class's score at a pixel is the sum over queries of class probability x mask probability. The mask logits, a
quarter of the image's size, are resized bilinearly and THEN squashed, as the method does; so the sum cannot be taken
before. The plain form goes a band of rows at a time; on CUDA a kernel (`ops.output_triton`) takes tiles of pixels and
never writes a resized mask down.

Shapes: B images, Q queries, K classes, (h, w) masks, (H, W) the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reincli.ops import triton_use
from reincli.ops.resample import resized_bands
from reincli.ops.window import best_class

BAND_ROWS, BAND_ELEMENTS = 64, 2**24
"""A band's height, and the most that it may hold over all queries and images: 64 MiB in fp32."""
MOST_CLASSES = 256


def triton_reason(device: torch.device, classes: int, dtype: torch.dtype) -> str | None:
    """Why the plain form runs and not the kernel, in a few words; None: the kernel runs.

    Args:
        device: where the masks are. classes: K. dtype: of the mask logits.
    """
    if classes > MOST_CLASSES:
        return f"its kernel takes up to {MOST_CLASSES} classes, not {classes}"
    return triton_use.reason(device, dtype)


@torch.compiler.assume_constant_result
def _by_triton(device: torch.device, classes: int, dtype: torch.dtype) -> bool:
    """Looked up while torch.compile traces, not traced itself."""
    return triton_reason(device, classes, dtype) is None


def _needs_gradient(logits: Tensor, shares: Tensor) -> bool:
    return torch.is_grad_enabled() and (
        logits.requires_grad or shares.requires_grad
    )  # the kernel has no backward


def class_scores(logits: Tensor, shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores of every class at a size.

    Args:
        logits: (B, Q, h, w) mask logits.
        shares: (B, Q, K) float32 class probabilities of the queries.
        size: (H, W).

    Returns:
        (B, K, H, W) float32, sums over queries (not probabilities: they reach tens).
    """
    if not _needs_gradient(logits, shares) and _by_triton(logits.device, shares.shape[2], logits.dtype):
        from reincli.ops.output_triton import scores

        return scores(logits, shares, *size)
    return scores_plain(logits, shares, size)


def class_labels(logits: Tensor, shares: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of the largest score, the first of equals, (B, H, W) uint8; as `class_scores`, but no score is kept."""
    if _by_triton(logits.device, shares.shape[2], logits.dtype):
        from reincli.ops.output_triton import labels

        return labels(logits, shares, *size)
    return labels_plain(logits, shares, size)


def scores_plain(logits: Tensor, shares: Tensor, size: tuple[int, int]) -> Tensor:
    """`class_scores` in PyTorch, a band of rows at a time: any device, the reference for the kernel."""
    result = torch.empty(len(logits), shares.shape[2], *size, device=logits.device)
    for part, band in resized_bands(logits.float(), size, band_rows(logits, size)):
        result[:, :, part] = torch.einsum("bqk,bqhw->bkhw", shares, band.sigmoid())
    return result


def labels_plain(logits: Tensor, shares: Tensor, size: tuple[int, int]) -> Tensor:
    """`class_labels` in PyTorch."""
    bands = resized_bands(logits.float(), size, band_rows(logits, size))
    # (K, B, rows, W): the class first, as `best_class` takes it
    best = [
        best_class(torch.einsum("bqk,bqhw->bkhw", shares, band.sigmoid()).transpose(0, 1))
        for _, band in bands
    ]
    return torch.cat(best, dim=1)


def band_rows(logits: Tensor, size: tuple[int, int]) -> int:
    """Rows of a band that keep it small, at least 1."""
    return max(1, min(BAND_ROWS, BAND_ELEMENTS // max(1, logits.shape[0] * logits.shape[1] * size[1])))
