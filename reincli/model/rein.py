"""Rein: learned tokens that refine a frozen backbone's patch features, block by block (arXiv 2312.04265, section 3).

Shapes: B images, N patches, C backbone width, L blocks, M tokens, R token rank, D query width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reincli.ops.types import exact, low

ALIGNED = 8
"""Tensor cores want rows of 16 bytes: folded token tables are filled up to it."""


def refinement(patches: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """Mix token values into each patch by similarity: (B,N,C), (M,C), (M-1,C) -> (B,N,C).

    Token 0 is a sink: it takes part in the softmax and has no value.
    """
    similarity = patches @ tokens.T * patches.shape[-1] ** -0.5  # (B, N, M)
    return F.softmax(similarity, dim=-1)[..., 1:] @ values


class Attached(nn.Module):
    """An adapter that may hang on the blocks of a model, see `attach.attach_rein`."""

    hooks: tuple[RemovableHandle, ...] = ()

    def detach(self) -> None:
        """Take the adapter off the model: its blocks give again what they gave before."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = ()


class ReinAdapter(Attached):
    """One token bank a block, low-rank or whole; both projections and the scale are shared by all blocks.

    Args:
        blocks: L. width: C. tokens: M.
        rank: R; None keeps whole token tables (M, C) instead of a product.
        patch_size: of the backbone; it enters the released initialisation only.
        query_width: D; None where the head does not take its queries from the tokens.
        scale: what the factor of all refinements starts from.
    """

    undecayed: tuple[str, ...] = ("tokens", "tokens_a", "tokens_b", "scale")

    def __init__(
        self,
        blocks: int,
        width: int,
        *,
        tokens: int = 100,
        rank: int | None = 16,
        patch_size: int = 16,
        query_width: int | None = None,
        scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.blocks = blocks
        fan_out = width if rank is None else math.sqrt(width * rank)
        bound = math.sqrt(6 / (3 * patch_size**2 + fan_out))  # as released; other published forms differ
        if rank is None:
            self.tokens = nn.Parameter(torch.empty(blocks, tokens, width).uniform_(-bound, bound))
        else:
            self.tokens_a = nn.Parameter(torch.empty(blocks, tokens, rank).uniform_(-bound, bound))
            self.tokens_b = nn.Parameter(torch.empty(blocks, rank, width).uniform_(-bound, bound))
        self.rank = rank
        self.to_value = nn.Linear(width, width)
        self.to_delta = nn.Linear(width, width)
        for layer in (self.to_value, self.to_delta):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
        self.scale = nn.Parameter(torch.tensor(scale))  # small: starts close to the frozen backbone
        self.to_query = nn.Linear(width, query_width) if query_width else None
        self.merge = nn.Linear(3 * query_width, query_width) if query_width else None

    def token_bank(self) -> Tensor:
        """The tokens of all blocks, (L, M, C)."""
        return self.tokens if self.rank is None else self.tokens_a @ self.tokens_b

    def forward(self, features: Tensor, block: int, prefix: int = 1) -> Tensor:
        """Refine the output of one block.

        Args:
            features: (B, prefix + N, C), class and register tokens first.
            block: which block produced them, 0 <= block < L.
            prefix: how many leading tokens pass through unchanged.

        Returns:
            (B, prefix + N, C).
        """
        tokens = self.tokens[block] if self.rank is None else self.tokens_a[block] @ self.tokens_b[block]
        # to_delta is linear, so what it makes of the mixed values is worked out for the few values, not the patches:
        # W (x + s V) + b = W x + b + s (W V)
        values = F.linear(self.to_value(tokens[1:]), self.to_delta.weight)
        narrow = low(features)
        change = self.to_delta(narrow) + refinement(narrow, tokens, values)
        gain: Tensor = self.scale
        if prefix:  # 0 for what passes through: no tensor is cut and put together again
            gain = gain * (torch.arange(features.shape[1], device=features.device) >= prefix)[:, None]
        return features + gain * change

    def queries(self) -> Tensor:
        """Link to the head: (M, D), the same for every image.

        Per token and channel the maximum over blocks, the mean, and the last block, interleaved channel by
        channel (channel 0 max, mean, last, channel 1 max, ...) as the merging layer was trained.
        """
        if self.to_query is None or self.merge is None:
            raise ValueError("this adapter was built without a link to queries")
        projected = self.to_query(self.token_bank())  # (L, M, D)
        views = torch.stack([projected.amax(0), projected.mean(0), projected[-1]], dim=-1)  # (M, D, 3)
        return self.merge(views.flatten(1))

    @torch.no_grad()
    def fold(self, dtype: torch.dtype = torch.float32) -> FoldedRein:
        """The same refinement with everything that does not depend on the image worked out once.

        scale * W_d(m + x) + scale * b = x (scale W_d)^T + s (V (scale W_d)^T) + scale * b, where m = s V.
        """
        bank = exact(self.token_bank())  # once a run: exact, so that folding adds next to no rounding
        value, change = self.to_value, self.to_delta
        scale, device = exact(self.scale), self.scale.device
        delta = (scale * exact(change.weight)).T
        values = bank @ exact(value.weight).T + exact(value.bias)
        values[:, 0] = 0  # the sink has none
        tokens = bank.shape[1]
        spare = -tokens % ALIGNED
        floor = torch.zeros(tokens + spare, device=device)
        floor[tokens:] = -torch.inf
        return FoldedRein(
            keys=F.pad((bank * bank.shape[-1] ** -0.5).transpose(1, 2), (0, spare))
            .contiguous()
            .to(device, dtype),
            floor=floor.to(dtype),
            values=F.pad(values @ delta, (0, 0, 0, spare)).to(device, dtype),
            delta=delta.contiguous().to(device, dtype),
            bias=(scale * exact(change.bias)).to(device, dtype),
            link=self.queries() if self.to_query is not None else None,
        )


@dataclass(frozen=True)
class FoldedRein:
    """Constants of `ReinAdapter` for inference.

    Attributes:
        keys: (L, C, M'), M' = M filled up to a multiple of `ALIGNED`. floor: (M',), 0, and -inf for what fills up.
        values: (L, M', C), 0 for the sink and for what fills up.
        delta: (C, C). bias: (C,). link: (M, D).
    """

    keys: Tensor
    floor: Tensor
    values: Tensor
    delta: Tensor
    bias: Tensor
    link: Tensor | None

    def __call__(self, features: Tensor, block: int, prefix: int = 1) -> Tensor:
        """As `ReinAdapter.forward`. Products in the folded type, the sum in the type of `features`."""
        patches = features[:, prefix:]
        refined = patches + self.change(patches.to(self.keys.dtype), block)
        return torch.cat([features[:, :prefix], refined], dim=1) if prefix else refined

    def change(self, features: Tensor, block: int) -> Tensor:
        """What is added to each token: (B, T, C) in the folded type -> (B, T, C)."""
        flat = features.flatten(0, 1)
        similarity = torch.addmm(self.floor, flat, self.keys[block]).softmax(-1)
        change = torch.addmm(self.bias, flat, self.delta)
        return change.addmm(similarity.to(change.dtype), self.values[block]).view_as(features)

    def queries(self) -> Tensor:
        """(M, D), worked out once."""
        if self.link is None:
            raise ValueError("this adapter was built without a link to queries")
        return self.link


class StagedRein(Attached):
    """One adapter a stage, for backbones whose width grows from stage to stage. Blocks are counted through.

    Args:
        banks: blocks of each stage. widths: of the stages.
        tokens, rank, patch_size, query_width, scale: as for `ReinAdapter`.
    """

    def __init__(
        self,
        banks: Sequence[int],
        widths: Sequence[int],
        *,
        tokens: int = 100,
        rank: int | None = 16,
        patch_size: int = 16,
        query_width: int | None = None,
        scale: float = 1e-3,
    ) -> None:
        super().__init__()
        stages = [
            ReinAdapter(
                blocks,
                width,
                tokens=tokens,
                rank=rank,
                patch_size=patch_size,
                query_width=query_width,
                scale=scale,
            )
            for blocks, width in zip(banks, widths, strict=True)
        ]
        for stage in stages:  # as in the original, whose rule names the single adapter's scale alone
            stage.undecayed = ("tokens", "tokens_a", "tokens_b")
        self.stages = nn.ModuleList(stages)
        self.places = _places(banks)

    def forward(self, features: Tensor, block: int, prefix: int = 0) -> Tensor:
        """As `ReinAdapter.forward`; `block` counts through all stages."""
        stage, within = self.places[block]
        return self.stages[stage](features, within, prefix)

    def queries(self) -> Tensor:
        """Link to the head: the stages' queries summed, (M, D)."""
        return torch.stack([stage.queries() for stage in self.stages]).sum(0)  # type: ignore[operator]

    def fold(self, dtype: torch.dtype = torch.float32) -> FoldedStages:
        """As `ReinAdapter.fold`."""
        folded = tuple(stage.fold(dtype) for stage in self.stages)  # type: ignore[operator]
        links = [each.link for each in folded]
        return FoldedStages(folded, self.places, None if links[0] is None else torch.stack(links).sum(0))


def _places(banks: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Block, counted through -> (stage, block of the stage)."""
    return tuple((stage, block) for stage, blocks in enumerate(banks) for block in range(blocks))


@dataclass(frozen=True)
class FoldedStages:
    """Constants of `StagedRein` for inference."""

    stages: tuple[FoldedRein, ...]
    places: tuple[tuple[int, int], ...]
    link: Tensor | None

    def __call__(self, features: Tensor, block: int, prefix: int = 0) -> Tensor:
        """As `StagedRein.forward`."""
        stage, within = self.places[block]
        return self.stages[stage](features, within, prefix)

    def change(self, features: Tensor, block: int) -> Tensor:
        """As `FoldedRein.change`."""
        stage, within = self.places[block]
        return self.stages[stage].change(features, within)

    def queries(self) -> Tensor:
        """(M, D), worked out once."""
        if self.link is None:
            raise ValueError("this adapter was built without a link to queries")
        return self.link


Adapter = ReinAdapter | StagedRein
Folded = FoldedRein | FoldedStages


def adapter_for(banks: Sequence[int], widths: Sequence[int], **options: Any) -> Adapter:
    """One adapter for a backbone with one bank of blocks, one a stage for any other; `options` of `ReinAdapter`."""
    if len(banks) == 1:
        return ReinAdapter(banks[0], widths[0], **options)
    return StagedRein(banks, widths, **options)
