"""Inference through the blocks of a plain transformer, as a residual stream that is changed in place.

What is computed is what the blocks compute. Additions, norms and changes of type that stand beside each other are one
pass over memory (`ops.norm`), gains can be multiplied into the weights before, and no block's input is kept.

Shapes: B images, T tokens (prefix first), C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reincli.ops.norm import add_cast, add_norm
from reincli.ops.types import exact

KNOWN = ("timm.models.vision_transformer.Block", "timm.models.eva.EvaBlock")
"""timm's blocks whose parts are run one by one: two pre-norm branches, each with a gain and nothing else."""


class Stream:
    """The blocks of a body, run as a stream; see `Stream.of`.

    Args:
        blocks: timm's, of `KNOWN` classes.
    """

    def __init__(self, blocks: Sequence[Any]) -> None:
        self.blocks = list(blocks)

    @classmethod
    def of(cls, body: Any) -> Stream | None:
        """For a body all of whose blocks are known; None for any other."""
        blocks = list(body.blocks)
        return cls(blocks) if blocks and all(_is_known(block) for block in blocks) else None

    def run(
        self,
        stream: Tensor,
        rotations: Sequence[Tensor | None],
        refine: Any,
        adapted: Sequence[int],
        taps: Sequence[int],
        prefix: int,
        cut: int,
    ) -> list[Tensor]:
        """All blocks up to the last tap.

        Args:
            stream: (B, T, C) what goes into the first block; its memory is used.
            rotations: of each block.
            refine: folded adapters (`change` is called), or None. adapted: blocks that they refine.
            taps: after which blocks a map is read.
            prefix: leading tokens that are not refined. cut: those that are not read.

        Returns:
            (B, T - cut, C) after each tap, in the type of the blocks' weights.
        """
        stream = stream.contiguous()
        dtype = self.blocks[0].mlp.fc2.weight.dtype
        branch, skip = None, 0
        found: dict[int, Tensor] = {}
        last = max(taps)
        for index, block in enumerate(self.blocks[: last + 1]):
            normed = add_norm(stream, branch, block.norm1, dtype, skip)
            if index - 1 in taps:
                found[index - 1] = stream[:, cut:].to(dtype, copy=True)
            rotation = rotations[index]
            branch = block.attn(normed) if rotation is None else block.attn(normed, rope=rotation)
            normed = add_norm(stream, _gained(branch, block, 1), block.norm2, dtype)
            branch, skip = _gained(block.mlp(normed), block, 2), 0
            if refine is not None and index in adapted:
                narrow = add_cast(stream, branch, dtype)
                branch, skip = refine.change(narrow, adapted.index(index)), prefix
        assert branch is not None
        found[last] = add_cast(stream, branch, dtype, skip)[:, cut:]
        return [found[tap] for tap in taps]

    @torch.no_grad()
    def merge_gains(self) -> None:
        """gain * (W x + b) = (gain W) x + gain b: the gains are gone afterwards, the results the same."""
        for block in self.blocks:
            for number, layer in ((1, block.attn.proj), (2, block.mlp.fc2)):
                gain = _gain(block, number)
                if gain is None:
                    continue
                factor = exact(gain)
                layer.weight.copy_(exact(layer.weight) * factor[:, None])
                if layer.bias is not None:
                    layer.bias.copy_(exact(layer.bias) * factor)
                if hasattr(block, f"gamma_{number}"):
                    setattr(block, f"gamma_{number}", None)
                else:
                    setattr(block, f"ls{number}", nn.Identity())


def _is_known(block: nn.Module) -> bool:
    norms = [getattr(block, name, None) for name in ("norm1", "norm2")]
    plain = all(isinstance(norm, nn.LayerNorm) for norm in norms)
    parts = hasattr(block, "attn") and hasattr(block, "mlp")
    return (
        f"{type(block).__module__}.{type(block).__name__}" in KNOWN
        and plain
        and parts
        and isinstance(getattr(block.attn, "proj", None), nn.Linear)
        and isinstance(getattr(block.mlp, "fc2", None), nn.Linear)
    )


def _gain(block: Any, number: int) -> Tensor | None:
    """Gain of the first or second branch, where it has one."""
    if hasattr(block, f"gamma_{number}"):
        gain: Tensor | None = getattr(block, f"gamma_{number}")
        return gain
    return getattr(getattr(block, f"ls{number}", None), "gamma", None)


def _gained(branch: Tensor, block: Any, number: int) -> Tensor:
    gain = _gain(block, number)
    return branch if gain is None else (branch * gain).to(branch.dtype)
