"""What CLIP has between its transformer and the head: four equal maps become a pyramid, by layers that train.

Shapes: B images, C width, (h, w) the patch grid. Both give maps of (4h, 4w), (2h, 2w), (h, w) and (h/2, w/2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from reincli.model.doubling import Doubling


class ScaleBranches(nn.Module):
    """The pyramid of BEiT (arXiv 2106.08254): transposed convolutions enlarge, pooling shrinks.

    Every map is first normalised over all of its channels together. The batch norm counts with the statistics of
    the batch in training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()

        def norm() -> nn.GroupNorm:
            return nn.GroupNorm(1, width)

        self.up4 = nn.Sequential(norm(), Doubling(width), nn.BatchNorm2d(width), nn.GELU(), Doubling(width))
        self.up2 = nn.Sequential(norm(), Doubling(width))
        self.same = norm()
        self.down2 = nn.Sequential(norm(), nn.MaxPool2d(kernel_size=2, stride=2))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four (B, C, h, w) -> four of their own size."""
        branches = (self.up4, self.up2, self.same, self.down2)
        return [branch(each) for branch, each in zip(branches, maps, strict=True)]


class MultiLevelNeck(nn.Module):
    """Project, resize bilinearly, smooth: for the frozen CLIP."""

    scales = (4.0, 2.0, 1.0, 0.5)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in self.scales)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.scales)
        for conv in (*self.lateral, *self.smooth):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four (B, C, h, w) -> four of their own size."""
        result = []
        for each, lateral, smooth, scale in zip(maps, self.lateral, self.smooth, self.scales, strict=True):
            resized = F.interpolate(lateral(each), scale_factor=scale, mode="bilinear", align_corners=False)
            result.append(smooth(resized))
        return result
