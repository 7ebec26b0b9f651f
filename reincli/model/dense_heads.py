"""What a backbone is asked while it learns from generated worlds: depth, normal, albedo and edge of each cell, and
which cells belong to one surface; and that all of it be alike in every light. What a thing is called is never asked.

Shapes: B images, C width, (h, w) patch grid, F cells along a side of a patch, E numbers that tell surfaces apart,
N cells compared.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING = 16
"""E."""
TEMPERATURE = 0.2
"""Of the cosine similarities of two cells."""
EDGE_WEIGHT = 4.0
"""Few cells are edges; each counts as many."""
WEIGHTS = {"region": 0.5, "depth": 2.0, "normal": 1.0, "albedo": 2.0, "edge": 0.5, "light": 0.5}


@dataclass
class Truth:
    """What is to be told of each cell, (H, W) cells.

    Attributes:
        surface: (B, H, W) number of the surface within its world. compared: (N,) cells, row by row, whose surfaces
        are compared. depth: (B, 1, H, W), 0 near to 1 far. normal: (B, 3, H, W) unit length, 0 where there is none.
        albedo: (B, 3, H, W) 0-1. edge: (B, 1, H, W) 1 where the cell to the right or below is of another surface.
        lights: of each world: all worlds in their first light, then all in their second.
    """

    surface: Tensor
    compared: Tensor
    depth: Tensor
    normal: Tensor
    albedo: Tensor
    edge: Tensor
    lights: int = 1


@dataclass
class DenseLosses:
    """Weighted parts, and the share of compared cells whose likest cell is of the same surface."""

    region: Tensor
    depth: Tensor
    normal: Tensor
    albedo: Tensor
    edge: Tensor
    light: Tensor
    right: Tensor

    def total(self) -> Tensor:
        """What is minimised."""
        return self.region + self.depth + self.normal + self.albedo + self.edge + self.light


class DenseHeads(nn.Module):
    """One linear read-out for each of four tapped maps: whatever they tell must already lie in the features.

    Args:
        width: C. cells: F.
    """

    def __init__(self, width: int, cells: int) -> None:
        super().__init__()
        self.cells, self.split = cells, (EMBEDDING, 1, 3, 3, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.reads = nn.ModuleList(nn.Linear(width, cells**2 * sum(self.split)) for _ in range(4))

    def forward(self, maps: list[Tensor], truth: Truth) -> DenseLosses:
        """Losses of four maps (B, C, h, w); the last one counts as much as the others together."""
        losses = []
        for map_, norm, read in zip(maps, self.norms, self.reads, strict=True):
            features = map_.permute(0, 2, 3, 1)
            told = read(norm(features)).permute(0, 3, 1, 2).float()
            losses.append(self.compare(features, F.pixel_shuffle(told, self.cells), truth))
        shares = (1 / 6, 1 / 6, 1 / 6, 1 / 2)
        parts = {
            field.name: sum(
                share * getattr(loss, field.name) for share, loss in zip(shares, losses, strict=True)
            )
            for field in fields(DenseLosses)
        }
        return DenseLosses(**parts | {"right": losses[-1].right})

    def compare(self, features: Tensor, told: Tensor, truth: Truth) -> DenseLosses:
        """Losses of one map (B, h, w, C) and its read-out (B, E + 8, H, W)."""
        embedding, depth, normal, albedo, edge = told.split(self.split, dim=1)
        region, right = same_surface(embedding, truth)
        known = truth.normal.abs().sum(1, keepdim=True) > 0
        along = F.cosine_similarity(normal, truth.normal, dim=1, eps=1e-3)[:, None]
        flat = torch.full_like(truth.edge, EDGE_WEIGHT).where(truth.edge > 0.5, torch.ones_like(truth.edge))
        return DenseLosses(
            region=WEIGHTS["region"] * region,
            depth=WEIGHTS["depth"] * F.l1_loss(depth, truth.depth),
            normal=WEIGHTS["normal"] * ((1 - along) * known).sum() / known.sum().clamp(min=1),
            albedo=WEIGHTS["albedo"] * F.l1_loss(albedo, truth.albedo),
            edge=WEIGHTS["edge"] * F.binary_cross_entropy_with_logits(edge, truth.edge, weight=flat),
            light=WEIGHTS["light"] * change_with_light(features, truth.lights),
            right=right,
        )


def change_with_light(features: Tensor, lights: int) -> Tensor:
    """Share of each channel's variance, over worlds, that comes from the light; mean over channels, 0 to about 1.

    With two lights it is 1 minus the correlation between them: the invariance of VICReg (arXiv 2105.04906) on
    standardised channels. What keeps them from forgetting everything is what else they are asked. The mean of each
    place is taken off first: where a patch lies is alike in any light, and would hide what changes.

    Args:
        features: (lights * B, h, w, C), all worlds in their first light first.
    """
    if lights == 1:
        return features.new_zeros((), dtype=torch.float32)
    content = features.float() - features.float().mean(0)
    straight = content / (content.square().mean((0, 1, 2)).sqrt() + 1e-4)
    return torch.stack(straight.chunk(lights)).var(0).mean()


def same_surface(embedding: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """Supervised contrast (arXiv 2004.11362, equation 2) between cells of a world in all its lights: those of a
    surface attract.

    Args:
        embedding: (B, E, H, W).

    Returns:
        Loss, and the share of cells whose likest cell is of their surface; both over cells that have company.
    """
    cells = F.normalize(embedding.flatten(2)[:, :, truth.compared], dim=1)
    cells = torch.cat(cells.chunk(truth.lights), dim=2)
    surface = torch.cat(truth.surface.flatten(1)[:, truth.compared].chunk(truth.lights), dim=1)
    alone = torch.eye(surface.shape[1], dtype=torch.bool, device=cells.device)
    alike = (cells.transpose(1, 2) @ cells / TEMPERATURE).masked_fill(alone, -1e4)
    same = (surface[:, :, None] == surface[:, None, :]) & ~alone
    company = same.sum(2)
    attracted = (alike.log_softmax(2) * same).sum(2) / company.clamp(min=1)
    met = company > 0
    likest = same.gather(2, alike.detach().argmax(2, keepdim=True))[..., 0]
    return -attracted.sum() / met.sum().clamp(min=1), likest.sum() / met.sum().clamp(min=1)
