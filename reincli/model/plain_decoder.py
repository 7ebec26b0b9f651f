"""The plain mask decoder: six transformer layers over queries and patch tokens together (PMT, arXiv 2603.25398).

No pyramid, no deformable attention: tokens of four blocks of a plain transformer are summed, queries are put in front,
and masks are products of queries with the enlarged patches.

Shapes: B images, P prefix tokens, N = h*w patches, T = P + N, C width of the backbone, D width of the decoder, Q
queries, K classes, L layers, R = L + 1 rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reincli.errors import ReinError
from reincli.model.doubling import Doubling
from reincli.model.mask_decoder import Predictions
from reincli.model.pixel_decoder import resize
from reincli.ops.recompute import checkpointed

HEAD_WIDTH = 64
"""Channels of an attention head, where nothing else is set."""
TEMPERATURE = 100.0
"""Base of the frequencies of the rotary positions, as DINOv3 has it."""
STRETCH = 2.0
"""In training the patch coordinates are multiplied by a factor between 1 / STRETCH and STRETCH."""
FIRST_END = 3_000
"""Step at which the masks before the first layer are gone, however long the training."""
STARTS, LENGTH = (4 / 15, 2 / 3), 1 / 6
"""Shares of the training: where the masks before the second and the last layer begin to go, and how long they take."""
POWER = 0.9


class MaskDraws(NamedTuple):
    """What chance decides in one pass of training.

    Attributes:
        opened: (L, B, Q) true where a query sees the whole image before a layer, and not its own mask alone.
        stretch: 0-d float32, factor of the patch coordinates.
    """

    opened: Tensor
    stretch: Tensor


def mask_probabilities(layers: int, iteration: int, iterations: int) -> list[float]:
    """Probability that a query is held to its mask before each layer, during an iteration (from 0).

    Each falls from 1 to 0 by (1 - t)^0.9, one layer after another: the first over the first 3,000 steps, the others
    over a sixth of the training each, the second from .267 of it and the last from .667 on, as published for six
    layers. In a training so short that the second would begin first, the first is done by then.
    """
    first, last = STARTS
    probabilities = []
    for layer in range(layers):
        if layer == 0:
            begin, end = 0.0, min(float(FIRST_END), first * iterations)
        else:
            share = first + (last - first) * (layer - 1) / max(layers - 2, 1)
            begin, end = share * iterations, (share + LENGTH) * iterations
        done = min(max((iteration - begin) / (end - begin), 0.0), 1.0)
        probabilities.append((1 - done) ** POWER)
    return probabilities


def draw_masks(
    probabilities: Sequence[float], batch: int, queries: int, seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """What chance decides for a whole batch, the same for the same seed.

    Returns:
        (L, batch, queries) bool and 0-d float32, see `MaskDraws`. Slices of the batch take their images' part.
    """
    rng = np.random.Generator(np.random.SFC64(list(seed)))
    stretch = np.float32(STRETCH ** rng.uniform(-1, 1))
    drawn = rng.random((len(probabilities), batch, queries), dtype=np.float32)
    opened = drawn >= np.asarray(probabilities, np.float32)[:, None, None]
    return opened, np.asarray(stretch)


def rotary_tables(grid: tuple[int, int], width: int, stretch: Tensor | None, device: torch.device) -> Tensor:
    """Sine and cosine of the patch positions for heads of a width: (h*w, 2 * width), sines first, as timm keeps them.

    Coordinates are patch centres in [-1, 1], each axis by its own extent, times `stretch`; angle 2 pi c f with
    frequencies f = 100^(-4j / width) for j = 0 to width / 4 - 1, of y, then of x, and all of it once more.
    """
    index = torch.arange(width // 4, device=device, dtype=torch.float32)
    frequency = TEMPERATURE ** (-4 * index / width)
    axes = []
    for length in grid:
        centres = (torch.arange(length, device=device, dtype=torch.float32) + 0.5) / length * 2 - 1
        if stretch is not None:
            centres = centres * stretch
        axes.append(2 * math.pi * centres[:, None] * frequency)  # (length, width / 4)
    rows = axes[0][:, None].expand(-1, grid[1], -1)
    columns = axes[1][None].expand(grid[0], -1, -1)
    angle = torch.cat([rows, columns, rows, columns], dim=-1).flatten(0, 1)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def rotated(features: Tensor, tables: Tensor) -> Tensor:
    """Turn each pair of channels (c, c + half) by its angle: (B, H, T, d), (T, 2 d) -> (B, H, T, d)."""
    sine, cosine = tables.to(features.dtype).chunk(2, dim=-1)
    left, right = features.chunk(2, dim=-1)
    return features * cosine + torch.cat([-right, left], dim=-1) * sine


class SelfAttention(nn.Module):
    """Multi-head attention of all tokens among themselves; keys without bias."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, tables: Tensor, allowed: Tensor | None) -> Tensor:
        """(B, Q + T, D), (Q + T, 2 d), and (B, 1, Q, Q + T) true where a query may look -> (B, Q + T, D)."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query, key = rotated(query, tables), rotated(key, tables)
        if allowed is None:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:  # rows do not know each other: those that see everything need no mask of (Q + T)^2
            count = allowed.shape[2]
            mixed = torch.cat(
                [
                    F.scaled_dot_product_attention(query[:, :, :count], key, value, attn_mask=allowed),
                    F.scaled_dot_product_attention(query[:, :, count:], key, value),
                ],
                dim=2,
            )
        return self.out(mixed.transpose(1, 2).flatten(2))


class PlainLayer(nn.Module):
    """A pre-norm transformer layer whose two branches have a gain each."""

    def __init__(self, channels: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = SelfAttention(channels, heads)
        self.gain1 = nn.Parameter(torch.ones(channels))
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, ffn)
        self.fc2 = nn.Linear(ffn, channels)
        self.gain2 = nn.Parameter(torch.ones(channels))

    def forward(self, tokens: Tensor, tables: Tensor, allowed: Tensor | None) -> Tensor:
        """(B, Q + T, D) -> (B, Q + T, D); see `SelfAttention`."""
        tokens = tokens + self.gain1 * self.attention(self.norm1(tokens), tables, allowed)
        return tokens + self.gain2 * self.fc2(F.gelu(self.fc1(self.norm2(tokens))))


class Lateral(nn.Module):
    """What one tapped block gives: batch norm, where narrower a projection, a small network around which it passes."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.project = nn.Linear(width, channels) if channels != width else None
        self.fc1 = nn.Linear(channels, channels // 2)
        self.fc2 = nn.Linear(channels // 2, channels)
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, D)."""
        normed = self.norm(tokens.flatten(0, 1)).view_as(tokens)
        if self.project is not None:
            normed = self.project(normed)
        return (normed + self.fc2(F.gelu(self.fc1(normed)))) * self.gain


class Enlarge(nn.Module):
    """Twice the size: transposed convolution, GELU, depthwise convolution, norm over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.twice = Doubling(channels)
        self.smooth = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, 2h, 2w)."""
        smooth = self.smooth(F.gelu(self.twice(maps)))
        return self.norm(smooth.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PlainDecoder(nn.Module):
    """Queries among the tokens of a plain transformer.

    Everything decays, norms and gains too, as published.

    Args:
        classes: K. width: C. taps: blocks that are read. patch_size: of the backbone.
        channels: D; None: C. heads: None: one for each 64 channels. ffn: hidden width of the layers; None: D.
        queries: Q, for learned queries. own_queries: learn them here (no adapter gives them). layers: L.

    Raises:
        ReinError: D that does not divide into heads of a multiple of four channels.
    """

    def __init__(
        self, classes: int, width: int, *, taps: int, patch_size: int, queries: int, layers: int,
        channels: int | None = None, heads: int | None = None, ffn: int | None = None, own_queries: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        channels = channels or width
        heads = heads or max(1, channels // HEAD_WIDTH)
        if channels % (4 * heads):
            raise ReinError(
                f"The plain decoder's width {channels} does not divide into {heads} head{'s' * (heads > 1)} "
                "of a multiple of 4 channels.",
                "Set model.head.plain.channels and model.head.plain.heads so that it does: 256 and 4, for example.",
                usage=True,
            )
        self.head_width = channels // heads
        self.laterals = nn.ModuleList(Lateral(width, channels) for _ in range(taps))
        self.queries = nn.Parameter(torch.randn(queries, channels)) if own_queries else None
        self.layers = nn.ModuleList(PlainLayer(channels, heads, ffn or channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        # a patch of 16 to masks of stride 4, one of 14 to masks of stride 7
        self.enlarge = nn.Sequential(
            *(Enlarge(channels) for _ in range(max(1, int(math.log2(patch_size)) - 2)))
        )
        self.class_head = nn.Linear(channels, classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels), nn.GELU(),
            nn.Linear(channels, channels),
        )  # fmt: skip

    def forward(
        self,
        tokens: Sequence[Tensor],
        grid: tuple[int, int],
        link: Tensor | None,
        every_round: bool,
        *,
        tables: Tensor | None = None,
        draws: MaskDraws | None = None,
        recompute: bool = False,
    ) -> Predictions:
        """Decode.

        Args:
            tokens: (B, T, C) of each tapped block, after the backbone's final norm. grid: (h, w).
            link: (Q, D) queries from the adapters, or None where they are learned here.
            every_round: predict before each layer too (training), else after the last alone.
            tables: (N, 2 d) rotary tables of the backbone, taken where they fit the heads.
            draws: with `every_round`, hold queries to their masks where nothing is opened; None: no masks.
            recompute: keep only what goes into each layer for the backward pass.
        """
        queries = link if self.queries is None else self.queries
        if queries is None:
            raise ValueError("this decoder takes its queries from adapters, but none were given")
        count, batch = queries.shape[0], tokens[0].shape[0]
        summed = self.laterals[0](tokens[0])
        for lateral, each in zip(self.laterals[1:], tokens[1:], strict=True):
            summed = summed + lateral(each)
        stream = torch.cat([queries.expand(batch, -1, -1).to(summed.dtype), summed], dim=1)
        stretch = draws.stretch if draws is not None else None
        turns = self._turns(grid, stream.shape[1], tables, stretch)
        rounds = []
        for index, layer in enumerate(self.layers):
            allowed = None
            if every_round:
                rounds.append(checkpointed(self._predict, stream, count, grid, when=recompute))
                if draws is not None:
                    allowed = self._where_to_look(rounds[-1], draws.opened[index], grid, stream.shape[1])
            stream = checkpointed(layer, stream, turns, allowed, when=recompute)
        rounds.append(checkpointed(self._predict, stream, count, grid, when=recompute))
        if not every_round:
            class_logits, embeddings, features = rounds[0]
            return Predictions(class_logits[None], embeddings[None], features)
        return Predictions(*(torch.stack(each) for each in zip(*rounds, strict=True)))

    def _turns(
        self, grid: tuple[int, int], length: int, tables: Tensor | None, stretch: Tensor | None
    ) -> Tensor:
        """Rotary tables of the whole sequence, (Q + T, 2 d): what is no patch is not turned."""
        if tables is None or tables.shape != (grid[0] * grid[1], 2 * self.head_width):
            tables = rotary_tables(grid, self.head_width, stretch, self.norm.weight.device)
        before = tables.new_zeros(length - len(tables), 2 * self.head_width)
        before[:, self.head_width :] = 1
        return torch.cat([before, tables])

    def _predict(self, stream: Tensor, count: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, Q, K + 1), mask embeddings (B, Q, D) and mask features (B, D, H, W) of one round."""
        normed = self.norm(stream)
        queries, patches = normed[:, :count], normed[:, -grid[0] * grid[1] :]
        embeddings = self.mask_head(queries)
        features = self.enlarge(patches.transpose(1, 2).unflatten(2, grid))
        return self.class_head(queries), embeddings, features.to(embeddings.dtype)

    @staticmethod
    def _where_to_look(
        predicted: tuple[Tensor, Tensor, Tensor], opened: Tensor, grid: tuple[int, int], length: int
    ) -> Tensor:
        """(B, 1, Q, Q + T): true for all but the patches outside of a query's mask, unless its row is opened.

        Shrinking is linear: the features are shrunk and then multiplied, not the masks.
        """
        _, embeddings, features = predicted
        small = resize(features.detach(), grid).flatten(2)
        inside = (embeddings.detach() @ small > 0) | opened[:, :, None]
        others = inside.new_ones(*inside.shape[:2], length - inside.shape[2])
        return torch.cat([others, inside], dim=2)[:, None]
