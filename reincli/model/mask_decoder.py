"""Mask decoder of Mask2Former: queries look at the image where their own masks are (arXiv 2112.01527, section 3.2).

Shapes: B images, Q queries, D channels, H heads, N pixels of a level, K classes, R rounds (layers + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reincli.model.pixel_decoder import LEVELS, PixelFeatures, resize, sine_positions
from reincli.ops.norm import sum_norm


@dataclass(frozen=True)
class Predictions:
    """What the head says, round by round; the last round is the answer, all are trained.

    A mask is a linear map of the mask features: logits = embedding . features, multiplied out only where needed.

    Attributes:
        class_logits: (R, B, Q, K+1), the last class is "no object".
        mask_embeddings: (R, B, Q, D).
        mask_features: (B, D, h, w) for all rounds, or (R, B, D, h, w) where each round has its own.
    """

    class_logits: Tensor
    mask_embeddings: Tensor
    mask_features: Tensor

    def mask_logits(self, index: int = -1) -> Tensor:
        """Masks of one round, (B, Q, h, w)."""
        features = self.mask_features[index] if self.by_round else self.mask_features
        return torch.einsum("bqd,bdhw->bqhw", self.mask_embeddings[index], features)

    @property
    def by_round(self) -> bool:
        """Whether each round has mask features of its own."""
        return self.mask_features.ndim == 5


class Attention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values, and a residual connection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(channels, 3 * channels)
        self.out_proj = nn.Linear(channels, channels)
        for layer in (self.in_proj, self.out_proj):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, Q, D), (B, N, D), (B, N, D), and (B, 1, Q, N) true where a query may look -> (B, Q, D)."""
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        query, key, value = (
            F.linear(source, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for source, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        # One mask for all heads, as truth values: on a GPU torch turns it into an addend of the type of the queries
        # and lends it to every head unexpanded, so the memory-efficient kernel takes it. Expanded here it would be
        # written out once a head; where N is no multiple of 16 torch pads it so itself, for one copy.
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class MaskDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward network, each followed by a norm."""

    def __init__(self, channels: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.cross_attention = Attention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, ffn)
        self.fc2 = nn.Linear(ffn, channels)
        self.norm3 = nn.LayerNorm(channels)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_normal_(layer.weight)

    def forward(
        self, queries: Tensor, query_positions: Tensor, memory: Tensor, keys: Tensor, allowed: Tensor
    ) -> Tensor:
        """Positions go to queries and keys, never to values: `keys` is `memory` with positions added."""
        looked = self.cross_attention(queries + query_positions, keys, memory, allowed)
        queries = sum_norm(queries, looked, self.norm1)
        placed = queries + query_positions
        queries = sum_norm(queries, self.self_attention(placed, placed, queries), self.norm2)
        return sum_norm(queries, self.fc2(F.relu(self.fc1(queries))), self.norm3)


class MaskDecoder(nn.Module):
    """Rounds of masked attention over the pixel decoder's three levels, coarsest first.

    Args:
        classes: K. channels: D. queries: Q, for learned queries. heads, layers, ffn: of the transformer.
        own_positions: learn query positions here (no adapter gives them).
        own_features: learn query features here; else they are a linear map of the given positions.
    """

    undecayed = ("level_embed", "query_positions")

    def __init__(
        self, classes: int, channels: int, *, queries: int, heads: int, layers: int, ffn: int,
        own_positions: bool, own_features: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = nn.ModuleList(MaskDecoderLayer(channels, heads, ffn) for _ in range(layers))
        self.post_norm = nn.LayerNorm(channels)
        self.level_embed = nn.Parameter(torch.randn(LEVELS, channels))
        self.class_head = nn.Linear(channels, classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(),
            nn.Linear(channels, channels),
        )  # fmt: skip
        self.query_positions = nn.Parameter(torch.randn(queries, channels)) if own_positions else None
        self.query_features = nn.Parameter(torch.randn(queries, channels)) if own_features else None
        self.to_features = None if own_features else nn.Linear(channels, channels)

    def forward(self, pixels: PixelFeatures, link: Tensor | None, every_round: bool) -> Predictions:
        """Decode.

        Args:
            pixels: from the pixel decoder.
            link: (Q, D) query positions from the adapters, or None where they are learned here.
            every_round: give class logits and mask embeddings of all rounds (training), else of the last.
        """
        positions = link if self.query_positions is None else self.query_positions
        if positions is None:
            raise ValueError("this decoder takes its queries from adapters, but none were given")
        features = self.query_features if self.to_features is None else self.to_features(positions)
        assert features is not None
        batch = pixels.mask_features.shape[0]
        queries = features.expand(batch, -1, -1)
        memories = [m + e for m, e in zip(pixels.memories, self.level_embed, strict=True)]
        keys = [
            memory + sine_positions(*shape, memory.shape[-1], memory.device)
            for memory, shape in zip(memories, pixels.shapes, strict=True)
        ]
        # masks at a level's size = embeddings times the mask features at that size: shrunk once, not every round
        small = [resize(pixels.mask_features.detach(), shape).flatten(2) for shape in pixels.shapes]

        rounds = []
        for index, layer in enumerate(self.layers):
            level = index % LEVELS
            normed = self.post_norm(queries)
            embedding = self.mask_head(normed)
            if every_round:
                rounds.append((self.class_head(normed), embedding))
            allowed = self._where_to_look(embedding.detach(), small[level])
            queries = layer(queries, positions, memories[level], keys[level], allowed)
        normed = self.post_norm(queries)
        rounds.append((self.class_head(normed), self.mask_head(normed)))
        class_logits, embeddings = (torch.stack(part) for part in zip(*rounds, strict=True))
        return Predictions(class_logits, embeddings, pixels.mask_features)

    @staticmethod
    def _where_to_look(embedding: Tensor, small_features: Tensor) -> Tensor:
        """(B, Q, D), (B, D, N) -> (B, 1, Q, N): true where the mask is likely; an empty row is opened."""
        allowed = embedding @ small_features >= 0  # sigmoid >= 0.5
        return (allowed | ~allowed.any(-1, keepdim=True))[:, None]
