"""Pseudo-labels, and what is made of them: counting, pasting, hiding (VFM-UDA++, arXiv 2503.10685; DACS, 2007.08702;
MIC, 2212.01322). Nothing here makes the host wait for the device.

Shapes: B crops of (H, W) pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NO_CLASS = 255
"""Of pixels that get no pseudo-label: padding, and borders that are left out."""


@dataclass(frozen=True)
class Pseudo:
    """What a teacher says of target crops.

    Attributes:
        labels: (B, H, W) uint8 class indices, 255 where nothing counts.
        weights: (B, H, W) float32: of each crop one number, the share of its pixels that are certain; 0 where
            nothing counts.
        shares: (B,) these numbers.
        confidence: 0-d, mean probability of the chosen classes where something counts.
    """

    labels: Tensor
    weights: Tensor
    shares: Tensor
    confidence: Tensor


def pseudo_labels(probabilities: Tensor, counted: Tensor, threshold: float) -> Pseudo:
    """The most probable class of each pixel, weighted by how much of the crop is certain.

    Args:
        probabilities: (B, K, H, W) 0 to 1.
        counted: (B, H, W) bool, true where a pseudo-label is wanted.
        threshold: probability from which a pixel is certain.
    """
    confidence, labels = probabilities.max(1)
    pixels = counted.sum((1, 2)).clamp(min=1)
    shares = ((confidence >= threshold) & counted).sum((1, 2)) / pixels
    chosen = torch.where(counted, labels, NO_CLASS).to(torch.uint8)
    weights = shares[:, None, None] * counted
    mean = (confidence * counted).sum() / counted.sum().clamp(min=1)
    return Pseudo(chosen, weights, shares, mean)


def class_pixels(labels: Tensor, classes: int, weights: Tensor | None = None) -> Tensor:
    """Pixels of each class, or the sum of their weights: (B, H, W) -> (B, K) float32.

    Class by class: a histogram would have to be scattered, which a GPU does in another order each time.
    """
    masks = (labels == index for index in range(classes))
    sums = [(mask if weights is None else weights * mask).sum((1, 2)) for mask in masks]
    return torch.stack(sums, dim=1).float()


def paste(pasted: Tensor, onto: Tensor, where: Tensor) -> Tensor:
    """`pasted` where `where` is true, else `onto`: (B, H, W) or (B, C, H, W) each, `where` (B, H, W) bool."""
    return torch.where(where if pasted.ndim == 3 else where[:, None], pasted, onto)


def hide(images: Tensor, hidden: Tensor, block: int) -> Tensor:
    """Images with blocks set to 0, which is the mean colour of normalised ones.

    Args:
        images: (B, C, H, W).
        hidden: (B, h, w) bool a block, from the upper left; h and w times `block` cover the image.
        block: side in pixels.
    """
    height, width = images.shape[2:]
    shown = F.interpolate((~hidden)[:, None].to(images.dtype), scale_factor=float(block), mode="nearest")
    return images * shown[:, :, :height, :width]
