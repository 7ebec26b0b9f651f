"""Twice the size by a learned kernel of 2x2."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Doubling(nn.ConvTranspose2d):
    """A transposed convolution of 2x2 with stride 2 as one matrix product.

    No two places of the result share a place of the input, so it is a linear layer whose outputs are put side by side.
    PyTorch's own form takes many times as long on a CPU, above all backward. Names, shapes and first values are its.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=2, stride=2)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, D, h, w) -> (B, D, 2h, 2w), channels last; `output_size` is PyTorch's and not used."""
        assert self.bias is not None
        kernel = self.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * D, D)
        blocks = F.linear(maps.permute(0, 2, 3, 1), kernel, self.bias.repeat(4))  # (B, h, w, 2 * 2 * D)
        rows = blocks.unflatten(3, (2, 2, -1)).transpose(2, 3)  # (B, h, 2, w, 2, D)
        return rows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
