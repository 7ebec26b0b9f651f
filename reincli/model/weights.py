"""Names and shapes of weights: the original's names and ours, raw and converted backbones, recognition.

Pure functions of dicts. Every rename is a row of a table; the same table reads and writes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reincli.errors import ReinError
from reincli.ops.resample import resize_kernel, resize_positions

State = Mapping[str, Tensor]

# Ours -> the original's. '#' stands for a number; a row ends at a dot or names a whole tensor.
NAMES: dict[str, str] = {
    "rein.scale": "backbone.reins.scale",
    "rein.tokens": "backbone.reins.learnable_tokens",
    "rein.tokens_a": "backbone.reins.learnable_tokens_a",
    "rein.tokens_b": "backbone.reins.learnable_tokens_b",
    "rein.to_value.": "backbone.reins.mlp_token2feat.",
    "rein.to_delta.": "backbone.reins.mlp_delta_f.",
    "rein.to_query.": "backbone.reins.transform.",
    "rein.merge.": "backbone.reins.merge.",
    "pixel_decoder.input_convs.#.": "decode_head.pixel_decoder.input_convs.#.conv.",
    "pixel_decoder.input_norms.#.": "decode_head.pixel_decoder.input_convs.#.gn.",
    "pixel_decoder.layers.#.attention.": "decode_head.pixel_decoder.encoder.layers.#.self_attn.",
    "pixel_decoder.layers.#.norm1.": "decode_head.pixel_decoder.encoder.layers.#.norms.0.",
    "pixel_decoder.layers.#.norm2.": "decode_head.pixel_decoder.encoder.layers.#.norms.1.",
    "pixel_decoder.layers.#.fc1.": "decode_head.pixel_decoder.encoder.layers.#.ffn.layers.0.0.",
    "pixel_decoder.layers.#.fc2.": "decode_head.pixel_decoder.encoder.layers.#.ffn.layers.1.",
    "pixel_decoder.level_encoding": "decode_head.pixel_decoder.level_encoding.weight",
    "pixel_decoder.lateral_conv.": "decode_head.pixel_decoder.lateral_convs.0.conv.",
    "pixel_decoder.lateral_norm.": "decode_head.pixel_decoder.lateral_convs.0.gn.",
    "pixel_decoder.output_conv.": "decode_head.pixel_decoder.output_convs.0.conv.",
    "pixel_decoder.output_norm.": "decode_head.pixel_decoder.output_convs.0.gn.",
    "pixel_decoder.mask_feature.": "decode_head.pixel_decoder.mask_feature.",
    **{
        f"mask_decoder.layers.#.{ours}": f"decode_head.transformer_decoder.layers.#.{original}"
        for ours, original in {
            "cross_attention.in_proj.": "cross_attn.attn.in_proj_",
            "cross_attention.out_proj.": "cross_attn.attn.out_proj.",
            "self_attention.in_proj.": "self_attn.attn.in_proj_",
            "self_attention.out_proj.": "self_attn.attn.out_proj.",
            "norm1.": "norms.0.",
            "norm2.": "norms.1.",
            "norm3.": "norms.2.",
            "fc1.": "ffn.layers.0.0.",
            "fc2.": "ffn.layers.1.",
        }.items()
    },
    "mask_decoder.post_norm.": "decode_head.transformer_decoder.post_norm.",
    "mask_decoder.level_embed": "decode_head.level_embed.weight",
    "mask_decoder.class_head.": "decode_head.cls_embed.",
    "mask_decoder.mask_head.#.": "decode_head.mask_embed.#.",
    "mask_decoder.query_positions": "decode_head.query_embed.weight",
    "mask_decoder.query_features": "decode_head.query_feat.weight",
    "mask_decoder.to_features.": "decode_head.querys2feat.",
    "backbone.body.": "backbone.",
}  # fmt: skip

DROPPED = ("backbone.mask_token", "decode_head.criterion.", "data_preprocessor.")
"""Tensors of the original that this model has no use for: left out on purpose when reading."""


def _rename(name: str, table: Mapping[str, str]) -> str | None:
    for source, target in table.items():
        pattern = re.escape(source).replace(r"\#", r"(\d+)")
        found = re.match(pattern + ("" if source[-1] in "._" else "$"), name)
        if found:
            number = found.group(1) if "#" in target else ""
            return target.replace("#", number) + name[found.end() :]
    return None


_BACK = {original: ours for ours, original in NAMES.items()}


def to_original(name: str) -> str:
    """Our name of a tensor -> the original's. KeyError for a name that is not ours."""
    renamed = _rename(name, NAMES)
    if renamed is None:
        raise KeyError(name)
    return renamed


def from_original(state: State) -> dict[str, Tensor]:
    """A state dict in the original's names -> ours; unknown names are kept, so that strict loading names them."""
    result = {}
    for name, tensor in state.items():
        if name.startswith(DROPPED):
            continue
        result[_rename(name, _BACK) or name] = tensor
    return result


def is_original(state: State) -> bool:
    """Whether a state dict is in the original's names."""
    return any(name.startswith("decode_head.") for name in state)


# --- strict loading ----------------------------------------------------------------------------------------


def load_strict(module: nn.Module, state: State, what: str, hint: str) -> None:
    """Load every tensor or none.

    Args:
        module: its own `state_dict` says what is expected.
        state: what there is.
        what: subject of the error sentence, for example "The checkpoint 'x.pth'".
        hint: what to do next.

    Raises:
        ReinError: names of tensors missing, left over or of the wrong shape, all in one.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    wrong = [
        f"{name} {list(state[name].shape)} instead of {list(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    complaints = [
        f"{len(names)} {label}: {_some(names)}"
        for names, label in ((missing, "missing"), (extra, "left over"), (wrong, "of the wrong shape"))
        if names
    ]
    if complaints:
        raise ReinError(f"{what} does not fit the model ({'; '.join(complaints)}).", hint)
    module.load_state_dict(dict(state))


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


# --- backbones ---------------------------------------------------------------------------------------------


WRAPPERS = ("state_dict", "model", "teacher", "model_state")


def unwrap(content: object) -> dict[str, Tensor]:
    """The state dict inside a loaded file: itself, or under one of the usual keys; a shared prefix is cut.

    Raises:
        ReinError: no tensors there.
    """
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ReinError(
            "The file holds no weights (no table of tensors).", "Expected a state dict, .pth or .safetensors."
        )
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for prefix in ("module.",):
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


@dataclass(frozen=True)
class BackboneFacts:
    """What a backbone file is, read from names and shapes.

    Attributes:
        name: of the family in the settings ('dinov2_l', ...), or 'vit' for another size.
        width, depth, patch: sizes. grid: (h, w) of the stored positions.
    """

    name: str
    width: int
    depth: int
    patch: int
    grid: tuple[int, int]


_DINOV2 = {(384, 12): "dinov2_s", (768, 12): "dinov2_b", (1024, 24): "dinov2_l"}


def plain_backbone(state: State) -> dict[str, Tensor]:
    """A ViT backbone's tensors under their own names, out of a raw file or of a whole model's state dict."""
    if any(name.startswith("backbone.") for name in state):
        state = {
            name.removeprefix("backbone.").removeprefix("body."): value
            for name, value in state.items()
            if name.startswith("backbone.") and not name.startswith("backbone.reins.")
        }
    return {
        name: value for name, value in state.items() if name != "mask_token"
    }  # never used in the forward pass


def recognise_backbone(state: State, path: str) -> BackboneFacts:
    """Which backbone a state dict (from `plain_backbone`) holds.

    Raises:
        ReinError: it is no ViT in DINOv2's names, with a word on what it looks like.
    """
    needed = (
        "patch_embed.proj.weight",
        "pos_embed",
        "cls_token",
        "blocks.0.attn.qkv.weight",
        "blocks.0.ls1.gamma",
    )
    missing = [name for name in needed if name not in state]
    if missing:
        raise ReinError(
            f"'{path}' is not a DINOv2 backbone ({_looks_like(state)}; missing: {_some(missing)}).",
            "Give a DINOv2 file, raw (dinov2_vitl14_pretrain.pth) or converted.",
        )
    width = state["cls_token"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    patch = state["patch_embed.proj.weight"].shape[-1]
    if "register_tokens" in state:
        raise ReinError(f"'{path}' is a DINOv2 with register tokens.", "Use the files without '_reg4'.")
    grid = grid_of(state["pos_embed"].shape[1] - 1, path)
    return BackboneFacts(_DINOV2.get((width, depth), "vit"), width, depth, patch, grid)


def _looks_like(state: State) -> str:
    if is_original(state) or any(name.startswith(("rein.", "pixel_decoder.")) for name in state):
        return "it looks like adapters and head, not a backbone"
    if any(name.startswith("image_encoder.") for name in state):
        return "it looks like SAM"
    if any(name.startswith("visual.") for name in state):
        return "it looks like CLIP"
    if any("rope" in name for name in state):
        return "it looks like EVA02 or DINOv3"
    if any(name.startswith(("layer1.", "stem.", "stages.")) for name in state):
        return "it looks like a convolutional network"
    if any(name.startswith("blocks.") for name in state) and "blocks.0.ls1.gamma" not in state:
        return "it looks like a ViT without LayerScale"
    first = next(iter(state), "nothing")
    return f"its first tensor is '{first}'"


def holds_backbone(state: State) -> bool:
    """Whether a checkpoint (our names) brings the backbone along: the original's frozen and full ones do."""
    return any(name.startswith("backbone.") for name in state)


def grid_of(count: int, path: str = "", prefer: tuple[int, int] | None = None) -> tuple[int, int]:
    """The (h, w) of a position grid from the number of its cells: `prefer` if it fits, a square, or twice as wide.

    Raises:
        ReinError: none of these fits.
    """
    if prefer is not None and prefer[0] * prefer[1] == count:
        return prefer
    side = math.isqrt(count)
    if side * side == count:
        return side, side
    half = math.isqrt(count // 2)
    if half * half * 2 == count:
        return half, 2 * half
    raise ReinError(
        f"'{path}' stores {count} positions, which is no square grid.",
        "Convert the raw file for the size you need.",
    )


def convert_backbone(
    state: State, grid: tuple[int, int], patch: int, stored: tuple[int, int]
) -> dict[str, Tensor]:
    """Resample positions and patch kernel of a ViT; everything else is kept as it is.

    Args:
        state: raw or converted, plain names.
        grid: (h, w) of the positions wanted. patch: patch size wanted.
        stored: (h, w) of the positions there are.
    """
    result = dict(state)
    result["pos_embed"] = resize_positions(state["pos_embed"], 1, stored, grid)
    result["patch_embed.proj.weight"] = resize_kernel(state["patch_embed.proj.weight"], patch)
    return result


# --- recognition of checkpoints ----------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadFacts:
    """What a checkpoint of adapters and head was trained as, read from names and shapes (ours).

    Attributes:
        tune: 'rein', 'frozen' (head alone) or 'full' (with the backbone, trained or not).
        classes: K. width: of the backbone it needs. depth: adapted blocks (0 without adapters).
        tokens, rank: of the adapters. link_features: whether they give query features.
        channels: of the decoder. pixel_layers, decoder_layers: depths.
    """

    tune: str
    classes: int
    width: int
    depth: int
    tokens: int
    rank: int | None
    link_features: bool
    channels: int
    pixel_layers: int
    decoder_layers: int


def recognise_head(state: State, path: str) -> HeadFacts:
    """Recognise adapters and head. ReinError where there are none."""
    if "mask_decoder.class_head.weight" not in state or "pixel_decoder.lateral_conv.weight" not in state:
        kind = (
            "a backbone alone"
            if "cls_token" in state or "backbone.body.cls_token" in state
            else _looks_like(state)
        )
        raise ReinError(
            f"'{path}' holds no segmentation head ({kind}).",
            "A checkpoint of adapters and head is needed, for example checkpoints/dinov2_rein_and_head.pth.",
        )
    bank = state.get("rein.tokens_a", state.get("rein.tokens"))
    queries = bank if bank is not None else state["mask_decoder.query_positions"]
    rank = state["rein.tokens_a"].shape[2] if "rein.tokens_a" in state else None
    return HeadFacts(
        tune="rein" if bank is not None else "full" if holds_backbone(state) else "frozen",
        classes=state["mask_decoder.class_head.weight"].shape[0] - 1,
        width=state["pixel_decoder.lateral_conv.weight"].shape[1],
        depth=0 if bank is None else bank.shape[0],
        tokens=queries.shape[-2],
        rank=rank,
        link_features="mask_decoder.to_features.weight" in state,
        channels=state["pixel_decoder.lateral_conv.weight"].shape[0],
        pixel_layers=_count(state, "pixel_decoder.layers."),
        decoder_layers=_count(state, "mask_decoder.layers."),
    )


def _count(state: State, prefix: str) -> int:
    numbers = {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
    return len(numbers)


def half_precision(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep the matrices of a frozen part in the compute type; norms, gains and positions stay in fp32."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.to(dtype)
