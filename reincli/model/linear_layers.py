"""The linear layers inside the blocks of a plain transformer of timm's: q, k, v, proj, fc1, fc2, however it holds them.

Queries, keys and values are one fused layer or three; the input of a SwiGLU is two layers, or one fused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from reincli.config import MinorSettings
from reincli.errors import ReinError
from reincli.model.hierarchical import Hierarchical
from reincli.model.vit import ViT

FUSED = ("q", "k", "v")


@dataclass(frozen=True)
class Place:
    """One linear layer.

    Attributes:
        path: block, and names within it: ('4', 'attn', 'qkv').
        owner: the module that holds it. linear: the layer.
        slices: into how many equal parts its rows are divided. taken: those that are adapted.
    """

    path: tuple[str, ...]
    owner: Any
    linear: nn.Linear
    slices: int = 1
    taken: tuple[int, ...] = (0,)

    @property
    def rows(self) -> int:
        """Of one slice."""
        return self.linear.out_features // self.slices

    def biases(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those that act on this layer, by name: its own, or q's and v's that its owner holds."""
        if self.linear.bias is not None:
            yield "bias", self.linear.bias
        for name in ("q_bias", "v_bias") if self.path[-1] == "qkv" else ():
            bias = getattr(self.owner, name, None)
            if isinstance(bias, nn.Parameter):
                yield name, bias

    def let_layer_be_called(self, wanted: bool = True) -> bool:
        """Where timm reads the fused weight past the layer, let it call the layer and add the biases after it.

        Returns:
            What was so before, to go back to it.
        """
        if not self._is_read_past():
            return False
        before, self.owner.qkv_bias_separate = bool(self.owner.qkv_bias_separate), wanted
        return before

    def _is_read_past(self) -> bool:
        return self.path[-1] == "qkv" and getattr(self.owner, "q_bias", None) is not None


def blocks_of(backbone: ViT | Hierarchical) -> list[nn.Module]:
    """The blocks of a plain transformer. ReinError where the backbone is none."""
    if isinstance(backbone, ViT):
        return list(backbone.body.blocks)
    if backbone.anatomy.plain:
        return list(backbone.anatomy.stages[0].blocks)
    raise ReinError(
        f"'{backbone.settings.name}' has no blocks with the linear layers q, k, v, proj, fc1, fc2 at one width: "
        "minor directions are tuned in plain transformers.",
        "Take a ViT (dinov2_l, dinov3_l, eva02_l, clip_l, sam_h, a ViT of timm), or --set model.tune=rein",
        usage=True,
    )


def first_block(settings: MinorSettings, kind: str, depth: int) -> int:
    """The first adapted block: as set, else block 8 of 24 and 4 of 12 for SoMA and all for RecycleLoRA.

    Raises:
        ReinError: there is no such block.
    """
    first = settings.first_block
    if first is None:
        return depth // 3 if kind == "soma" else 0
    if first >= depth:
        raise ReinError(
            f"model.minor.first_block {first} is not there: the backbone has blocks 0 to {depth - 1}.",
            f"Take one of them, for example {depth // 3}.",
            usage=True,
        )
    return first


def places_of(backbone: ViT | Hierarchical, settings: MinorSettings, kind: str) -> list[Place]:
    """The layers to adapt, block by block. SoMA takes q, k, v of a fused layer apart, RecycleLoRA does not.

    Raises:
        ReinError: no plain transformer, or blocks or layers that are not there.
    """
    blocks = blocks_of(backbone)
    first = first_block(settings, kind, len(blocks))
    return [
        place
        for number in range(first, len(blocks))
        for place in _in_block(blocks[number], str(number), settings.layers, kind, backbone.settings.name)
    ]


def _in_block(block: Any, number: str, wanted: tuple[str, ...], kind: str, name: str) -> Iterator[Place]:
    attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    inputs = [each for each in FUSED if each in wanted]
    found: list[Place] = []
    fused = getattr(attention, "qkv", None)
    if inputs and isinstance(fused, nn.Linear):
        found.append(_fused(attention, fused, number, inputs, kind, name))
    else:
        found += [_layer(attention, f"{each}_proj", (number, "attn"), name) for each in inputs]
    if "proj" in wanted:
        found.append(_layer(attention, "proj", (number, "attn"), name))
    if "fc1" in wanted:
        gated = isinstance(getattr(mlp, "fc1_g", None), nn.Linear)
        for each in ("fc1_g", "fc1_x") if gated else ("fc1",):
            place = _layer(mlp, each, (number, "mlp"), name)
            packed = type(mlp).__name__ == "GluMlp" and kind == "soma"  # gate and input in one weight
            found.append(Place(place.path, mlp, place.linear, 2, (0, 1)) if packed else place)
    if "fc2" in wanted:
        found.append(_layer(mlp, "fc2", (number, "mlp"), name))
    yield from found


def _fused(owner: Any, linear: nn.Linear, number: str, wanted: list[str], kind: str, name: str) -> Place:
    if getattr(owner, "q_bias", None) is not None and not hasattr(owner, "qkv_bias_separate"):
        raise _absent(name, number, "a fused q, k, v that is called as a layer")
    path = (number, "attn", "qkv")
    if kind == "soma":
        return Place(path, owner, linear, 3, tuple(FUSED.index(each) for each in wanted))
    if len(wanted) < len(FUSED):
        raise ReinError(
            f"'{name}' holds q, k, v in one layer, which RecycleLoRA takes whole; model.minor.layers names "
            f"{', '.join(wanted)}.",
            "Name q, k and v, or none of them.",
            usage=True,
        )
    return Place(path, owner, linear)


def _layer(owner: Any, layer: str, path: tuple[str, ...], name: str) -> Place:
    linear = getattr(owner, layer, None)
    if not isinstance(linear, nn.Linear):
        raise _absent(name, path[0], f"a linear layer '{path[1]}.{layer}'")
    return Place((*path, layer), owner, linear)


def _absent(name: str, number: str, what: str) -> ReinError:
    return ReinError(
        f"Block {number} of '{name}' has not {what}, so its minor directions cannot be tuned.",
        "Leave those layers out (model.minor.layers), or --set model.tune=rein",
        usage=True,
    )
