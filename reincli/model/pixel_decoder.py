"""Pixel decoder of Mask2Former (arXiv 2112.01527, section 3.2): multi-scale deformable attention over three levels.

Shapes: B images, D channels, L = 3 levels from coarse to fine (strides 32, 16, 8), N = sum of h*w over them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reincli.ops.deformable import deformable_attention
from reincli.ops.norm import sum_norm
from reincli.ops.recompute import checkpointed
from reincli.ops.types import low

LEVELS = 3
GROUPS = 32
"""Groups of every GroupNorm in the decoder."""


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Sine and cosine of row and column, (height*width, channels), rows first (arXiv 2005.12872, appendix A.4).

    Positions run from 1/size to 1 (times 2 pi); half the channels encode y, half x; temperature 10000.
    """
    half = channels // 2
    exponent = 2 * torch.div(torch.arange(half, device=device), 2, rounding_mode="floor") / half
    frequency = 10000.0**exponent

    def encode(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = (position / (length + 1e-6) * (2 * math.pi))[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)  # (length, half)

    rows, columns = encode(height), encode(width)
    both = [rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)]
    return torch.cat(both, dim=-1).reshape(height * width, channels)


def reference_points(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Centres of all pixels of all levels as x, y in 0..1: (N, 2)."""
    points = []
    for height, width in shapes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        points.append(
            torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).reshape(-1, 2)
        )
    return torch.cat(points)


def extents(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Width and height of each level, (L, 1, 2): filled on the device, as a copy from the host would wait for it."""
    return torch.stack(
        [torch.full((), float(side), device=device) for height, width in shapes for side in (width, height)]
    ).view(-1, 1, 2)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (B, D, h, w), half-pixel, without antialiasing, in the type of the maps.

    A map that shrinks by an even factor is read at the middle four pixels of each block, in equal shares: pooling.
    """
    height, width = maps.shape[2:]
    if (height, width) == size:
        return maps
    down, across = height // size[0], width // size[1]
    with uncast(maps):  # unasked, autocast makes it fp32, of twice the size
        if (down * size[0], across * size[1]) == (height, width) and down % 2 == across % 2 == 0:
            middle = maps[:, :, down // 2 - 1 :, across // 2 - 1 :]
            return F.avg_pool2d(middle, 2, (down, across))
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def uncast(example: Tensor) -> AbstractContextManager[object]:
    """While it lasts, operators run in the type of what they are given."""
    kind = example.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def project(maps: Tensor, conv: nn.Module) -> Tensor:
    """1x1 convolution, (B, C, h, w) -> (B, D, h, w).

    A transformer's maps lie channels last, as its tokens do: there it is a matrix product, and stays channels last.
    """
    if maps.stride(1) != 1 or maps.shape[1] == 1:
        return conv(maps)
    tokens = F.linear(maps.flatten(2).transpose(1, 2), conv.weight.flatten(1), conv.bias)  # type: ignore[operator,arg-type]
    return as_map(tokens, (maps.shape[2], maps.shape[3]))


def as_map(tokens: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, h*w, D) -> (B, D, h, w), channels last also for a single image.

    Transposing first would leave a stride of the batch by which PyTorch does not see the layout, and resizes slowly.
    """
    return tokens.unflatten(1, shape).permute(0, 3, 1, 2)


class DeformableSelfAttention(nn.Module):
    """Each position attends to `points` learned places on every level."""

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Offsets start on rays, one direction a head, further out point by point; attention starts even."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        star = ray[:, None, None] * torch.arange(1, self.points + 1).view(1, 1, -1, 1)  # (H, 1, P, 2)
        self.sampling_offsets.bias.copy_(star.expand(-1, self.levels, -1, -1).reshape(-1))
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        references: Tensor,
        shapes: Sequence[tuple[int, int]],
        sides: Tensor | None = None,
    ) -> Tensor:
        """(B, N, D) features, (N, D) or (B, N, D) positions, (…, N, 1 or L, 2) references -> (B, N, D).

        `sides` are the `extents` of the shapes, worked out here if they are not at hand.
        """
        batch, total, _ = features.shape
        queries = low(features + positions)
        value = self.value_proj(features).view(batch, total, self.heads, -1)
        layout = (batch, total, self.heads, self.levels, self.points)
        offsets, weights = self.where_and_how_much(queries)
        offsets = offsets.float().view(*layout, 2)
        weights = weights.float().view(batch, total, self.heads, -1).softmax(-1)
        sides = extents(shapes, offsets.device) if sides is None else sides
        locations = references[..., :, None, :, None, :] + offsets / sides  # offsets are in pixels
        return self.output_proj(deformable_attention(value, shapes, locations, weights.view(layout)))

    def where_and_how_much(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and unnormalised weights, one product for both: (B, N, D) -> (B, N, H*L*P*2), (B, N, H*L*P)."""
        layers = (self.sampling_offsets, self.attention_weights)
        both = F.linear(
            queries,
            torch.cat([layer.weight for layer in layers]),
            torch.cat([layer.bias for layer in layers]),
        )
        offsets, weights = both.split([layer.out_features for layer in layers], dim=-1)
        return offsets, weights


class PixelDecoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each followed by a norm."""

    def __init__(self, channels: int, heads: int, points: int, ffn: int) -> None:
        super().__init__()
        self.attention = DeformableSelfAttention(channels, heads, LEVELS, points)
        self.norm1 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, ffn)
        self.fc2 = nn.Linear(ffn, channels)
        self.norm2 = nn.LayerNorm(channels)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_normal_(layer.weight)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        references: Tensor,
        shapes: Sequence[tuple[int, int]],
        sides: Tensor,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        mixed = self.attention(features, positions, references, shapes, sides)
        features = sum_norm(features, mixed, self.norm1)
        return sum_norm(features, self.fc2(F.relu(self.fc1(features))), self.norm2)


@dataclass(frozen=True)
class PixelFeatures:
    """What the mask decoder reads.

    Attributes:
        mask_features: (B, D, H/4, W/4), multiplied with mask embeddings to give mask logits.
        memories: three (B, h*w, D), coarse to fine. shapes: their (h, w).
    """

    mask_features: Tensor
    memories: list[Tensor]
    shapes: list[tuple[int, int]]


class PixelDecoder(nn.Module):
    """From four backbone maps to `PixelFeatures`.

    Args:
        in_channels: of the four maps, fine to coarse (strides 4, 8, 16, 32).
        channels: D. heads, points, layers, ffn: of the deformable encoder.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, *, heads: int, points: int, layers: int, ffn: int
    ) -> None:
        super().__init__()
        coarse_to_fine = list(in_channels)[:0:-1]
        self.input_convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in coarse_to_fine)
        self.input_norms = nn.ModuleList(nn.GroupNorm(GROUPS, channels) for _ in coarse_to_fine)
        self.layers = nn.ModuleList(PixelDecoderLayer(channels, heads, points, ffn) for _ in range(layers))
        self.level_encoding = nn.Parameter(torch.empty(LEVELS, channels))
        self.lateral_conv = nn.Conv2d(in_channels[0], channels, 1, bias=False)
        self.lateral_norm = nn.GroupNorm(GROUPS, channels)
        self.output_conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.output_norm = nn.GroupNorm(GROUPS, channels)
        self.mask_feature = nn.Conv2d(channels, channels, 1)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise convolutions and level encoding as the original does."""
        for conv in self.input_convs:
            nn.init.xavier_uniform_(conv.weight)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        for conv in (self.lateral_conv, self.output_conv, self.mask_feature):
            nn.init.kaiming_uniform_(conv.weight, a=1)  # "Caffe2 Xavier": bound sqrt(3 / fan_in)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        nn.init.normal_(self.level_encoding)

    def forward(
        self, maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]], *, recompute: bool = False
    ) -> PixelFeatures:
        """Decode.

        Args:
            maps: four backbone maps (B, C_i, h, w), fine to coarse; those of a ViT all have its own grid.
            sizes: (h, w) that each map is meant to have. A 1x1 convolution and a bilinear resize commute, so
                the maps are projected first and resized after: the wide enlarged maps are never built.
            recompute: keep only what goes into each layer for the backward pass.
        """
        flat, shapes = [], []
        for conv, norm, level in zip(self.input_convs, self.input_norms, (3, 2, 1), strict=True):
            projected = norm(resize(project(maps[level], conv), sizes[level]))
            flat.append(projected.flatten(2).transpose(1, 2))
            shapes.append(sizes[level])
        features = torch.cat(flat, dim=1)  # (B, N, D)
        device, channels = features.device, features.shape[-1]
        positions = torch.cat(
            [
                sine_positions(*shape, channels, device) + encoding
                for shape, encoding in zip(shapes, self.level_encoding, strict=True)
            ]
        )
        references = reference_points(shapes, device)[:, None]  # the same on every level
        sides = extents(shapes, device)
        for layer in self.layers:
            features = checkpointed(layer, features, positions, references, shapes, sides, when=recompute)

        memories = list(features.split([h * w for h, w in shapes], dim=1))
        finest = as_map(memories[-1], shapes[-1])
        lateral = self.lateral_norm(resize(project(maps[0], self.lateral_conv), sizes[0]))
        merged = F.relu(self.output_norm(self.output_conv(lateral + resize(finest, sizes[0]))))
        return PixelFeatures(self.mask_feature(merged), memories, shapes)
