"""Minor directions in files: SoMA's names and ours.

SoMA's files call the backbone `backbone.model.`, hold q, k, v apart, A and B as `lora_A.weight` and `lora_B.weight`, no
weight, and every bias of the backbone, also those that are frozen. Beside A and B belongs the WHOLE weight of the
backbone: so their tools put them together, and so the scores were made. Ours hold what was taken out too, and belong
beside the residual. Pure functions of dicts.

Shapes: as in `minor`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from reincli.errors import ReinError
from reincli.model.minor import WHOLE, Adapted
from reincli.model.segmentor import Segmentor
from reincli.model.weights import State, to_original

PREFIX = "backbone.model."
_FACTOR = re.compile(r"backbone\.model\.blocks\.(\d+)\.(attn|mlp)\.(\w+)\.lora_([AB])\.weight")


def is_somas(state: State) -> bool:
    """Whether a state dict is a released file of SoMA's, in its names."""
    return any(_FACTOR.fullmatch(name) for name in state)


def read_from_soma(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A released file, head included -> what is ours of it, and the frozen biases in the backbone's names.

    Names that are none of theirs are kept: strict loading names them. `mask_token` is left out: nothing reads it.
    """
    rest = {name: value for name, value in state.items() if name != f"{PREFIX}mask_token"}
    result: dict[str, Tensor] = {}
    for (block, way, layer), parts in _adapted_layers(state).items():
        fused = layer == "qkv"
        for part, ours in (("A", "a"), ("B", "b")):
            keys = [f"{PREFIX}blocks.{block}.{way}.{each}.lora_{part}.weight" for each in parts]
            if all(key in rest for key in keys):
                stacked = torch.stack([rest.pop(key) for key in keys])
                name = f"minor.blocks.{block}.{way}.{layer}.main."
                result |= {f"{name}{ours}": stacked, f"{name}start_{ours}": torch.zeros_like(stacked)}
        keys = [f"{PREFIX}blocks.{block}.{way}.{each}.bias" for each in (("q", "k", "v") if fused else parts)]
        if all(key in rest for key in keys):
            result[f"minor.blocks.{block}.{way}.{layer}.bias"] = torch.cat([rest.pop(key) for key in keys])
    frozen = {name[len(PREFIX) :]: rest.pop(name) for name in list(rest) if _is_frozen_bias(name)}
    return rest | result, frozen


def _is_frozen_bias(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(".bias")


def _adapted_layers(state: State) -> dict[tuple[str, str, str], list[str]]:
    """(block, 'attn' or 'mlp', our layer) -> their layers with factors, q before k before v."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for name in state:
        match = _FACTOR.fullmatch(name)
        if match:
            block, way, layer, _ = match.groups()
            key = (block, way, "qkv" if way == "attn" and layer in ("q", "k", "v") else layer)
            found.setdefault(key, set()).add(layer)
    return {key: sorted(layers, key="qkv".find) for key, layers in found.items()}


def written_for_soma(model: Segmentor) -> tuple[dict[str, Tensor], int]:
    """What trains, in the names of SoMA's files and for the WHOLE weight beside it; and its rank.

    Beside the whole weight W belongs B A - B0 A0 where ours belongs beside W - B0 A0: two products of rank r are one
    of rank 2 r. Of what was read from such a file, and so never left the whole weight, the rank stays.

    Raises:
        ReinError: another method than SoMA's, or a backbone whose names there are not known.
    """
    minor = model.minor
    if (
        minor is None
        or minor.kind != "soma"
        or model.rein is not None
        or model.backbone.layout.kind != "dinov2"
    ):
        raise ReinError(
            f"SoMA has a form for its own method on DINOv2 alone, not for model.tune = '{model.settings.tune}' on "
            f"'{model.backbone.settings.name}'.",
            "To use the backbone elsewhere, write it merged: rein convert-weights CHECKPOINT --merge",
        )
    own = {name: value for name, value in model.trained_state().items() if not name.startswith("minor.")}
    result = to_original(own, model.backbone.layout)
    for layer in minor.layers():
        result |= _written(layer, minor.form == WHOLE)
    return result, minor.rank if minor.form == WHOLE else 2 * minor.rank


def _written(layer: Adapted, whole: bool) -> dict[str, Tensor]:
    block, way, ours = layer.place.path
    pair, taken = layer.main, layer.place.taken
    names = [("q", "k", "v")[part] for part in taken] if ours == "qkv" else [ours]
    a: Tensor = pair.a
    b: Tensor = pair.b
    if not whole:
        a, b = torch.cat([pair.a, pair.start_a], 1), torch.cat([pair.b, -pair.start_b], 2)
    result: dict[str, Tensor] = {}
    for index, name in enumerate(names):
        key = f"{PREFIX}blocks.{block}.{way}.{name}"
        result |= {f"{key}.lora_A.weight": a[index], f"{key}.lora_B.weight": b[index]}
    bias = layer.place.linear.bias
    if bias is not None:
        every = ("q", "k", "v") if ours == "qkv" else (ours,)
        parts = bias.chunk(len(every))
        result |= {f"{PREFIX}blocks.{block}.{way}.{n}.bias": v for n, v in zip(every, parts, strict=True)}
    return result


def frozen_biases(model: Segmentor) -> dict[str, Tensor]:
    """Biases of the backbone that do not train, as SoMA's files hold them, without their prefix."""
    layers = model.minor.layers() if model.minor is not None else ()
    trained = {f"blocks.{'.'.join(layer.place.path)}.bias" for layer in layers}
    original = model.backbone.layout.to_original(model.backbone.state_dict())
    return split_biases({n: v for n, v in original.items() if n.endswith(".bias") and n not in trained})


def split_biases(biases: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fused biases of queries, keys and values as three."""
    result: dict[str, Tensor] = {}
    for name, value in biases.items():
        if name.endswith(".qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            result |= {f"{stem}{p}.bias": v for p, v in zip("qkv", value.chunk(3), strict=True)}
        else:
            result[name] = value
    return result
