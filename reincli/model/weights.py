"""Weights of adapters and head: the original's names and ours, strict loading, recognition of checkpoints.

Pure functions of dicts. Every rename is a row of a table; the same table reads and writes. Names of the backbones
are in `layouts`, files of backbones in `foundation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reincli.errors import ReinError
from reincli.model.layouts import Layout, inverse, rename

State = Mapping[str, Tensor]

# Ours -> the original's. '#' stands for a number; a row ends at a dot or names a whole tensor.
_ADAPTER = {
    "scale": "scale",
    "tokens": "learnable_tokens",
    "tokens_a": "learnable_tokens_a",
    "tokens_b": "learnable_tokens_b",
    "to_value.": "mlp_token2feat.",
    "to_delta.": "mlp_delta_f.",
    "to_query.": "transform.",
    "merge.": "merge.",
}

NAMES: dict[str, str] = {
    **{f"rein.{ours}": f"backbone.reins.{original}" for ours, original in _ADAPTER.items()},
    **{f"rein.stages.#.{ours}": f"backbone.reins.#.{original}" for ours, original in _ADAPTER.items()},
    "minor.": "minor.",  # no name there: `minor_files` writes it in theirs
    "neck.up4.": "backbone.fpn1.",
    "neck.up2.": "backbone.fpn2.",
    "neck.same.": "backbone.fpn3.",
    "neck.down2.": "backbone.fpn4.",
    "neck.lateral.#.": "neck.lateral_convs.#.conv.",
    "neck.smooth.#.": "neck.convs.#.conv.",
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
    # the plain decoder, in its authors' names; the projection is not of theirs
    "plain_decoder.laterals.#.norm.": "network.bn.#.",
    "plain_decoder.laterals.#.project.": "network.decoder.projections.#.",
    "plain_decoder.laterals.#.fc1.": "network.decoder.lateral_projections.#.0.",
    "plain_decoder.laterals.#.fc2.": "network.decoder.lateral_projections.#.2.",
    "plain_decoder.laterals.#.gain": "network.decoder.scalers.#",
    "plain_decoder.queries": "network.decoder.q.weight",
    **{
        f"plain_decoder.layers.#.{ours}": f"network.decoder.blocks.#.{original}"
        for ours, original in {
            "norm1.": "norm1.",
            "attention.query.": "attention.q_proj.",
            "attention.key.": "attention.k_proj.",
            "attention.value.": "attention.v_proj.",
            "attention.out.": "attention.o_proj.",
            "gain1": "layer_scale1.lambda1",
            "norm2.": "norm2.",
            "fc1.": "mlp.up_proj.",
            "fc2.": "mlp.down_proj.",
            "gain2": "layer_scale2.lambda1",
        }.items()
    },
    "plain_decoder.norm.": "network.decoder.decoder_norm.",
    "plain_decoder.enlarge.#.twice.": "network.decoder.upscale.#.conv1.",
    "plain_decoder.enlarge.#.smooth.": "network.decoder.upscale.#.conv2.",
    "plain_decoder.enlarge.#.norm.": "network.decoder.upscale.#.norm.",
    "plain_decoder.class_head.": "network.decoder.class_head.",
    "plain_decoder.mask_head.#.": "network.decoder.mask_head.#.",
}  # fmt: skip

DROPPED = ("decode_head.criterion.", "data_preprocessor.", "network.decoder.attn_mask_probs")
"""Tensors of the originals that this model has no use for: left out on purpose when reading."""

_BACK = inverse(NAMES)


def to_original(state: State, layout: Layout) -> dict[str, Tensor]:
    """Tensors in our names -> the original's, those of the backbone by its layout.

    Raises:
        KeyError: a name that is not ours.
    """
    result = {}
    for name, value in state.items():
        if name.startswith("backbone."):
            continue
        renamed = rename(name, NAMES)
        if renamed is None:
            raise KeyError(name)
        result[renamed] = value
    backbone = _within(state, "backbone.")
    return result | {f"backbone.{name}": value for name, value in layout.to_original(backbone).items()}


def from_original(state: State) -> dict[str, Tensor]:
    """A state dict in the original's names -> ours, but for the backbone's tensors: see `backbone_to_ours`.

    Unknown names are kept, so that strict loading names them.
    """
    result = {}
    for name, tensor in state.items():
        if not name.startswith(DROPPED):
            result[rename(name, _BACK) or name] = tensor
    if any(name.startswith("neck.lateral.") for name in result):
        # a frozen CLIP of the original carries scale branches too, and never runs them
        branches = ("neck.up4.", "neck.up2.", "neck.same.", "neck.down2.")
        result = {name: value for name, value in result.items() if not name.startswith(branches)}
    return result


def backbone_to_ours(state: State, layout: Layout) -> dict[str, Tensor]:
    """What `from_original` gave, with the backbone's tensors renamed too."""
    others = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    read = layout.to_ours(_within(state, "backbone."))
    return others | {f"backbone.{name}": value for name, value in read.items()}


def _within(state: State, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def is_original(state: State) -> bool:
    """Whether a state dict is in the original's names."""
    return any(name.startswith("decode_head.") for name in state)


# --- strict loading ----------------------------------------------------------------------------------------


def load_strict(module: nn.Module, state: State, what: str, hint: str) -> None:
    """Load every tensor or none; arguments and errors are those of `require_fit`."""
    require_fit(module, state, what, hint)
    module.load_state_dict(dict(state))


def require_fit(module: nn.Module, state: State, what: str, hint: str) -> None:
    """Compare names, shapes and kinds of tensors with those of a module, and load nothing.

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
    kinds = [
        f"{name} {str(state[name].dtype).removeprefix('torch.')}"
        for name, value in expected.items()
        if name in state and state[name].is_floating_point() != value.is_floating_point()
    ]
    complaints = [
        f"{len(names)} {label}: {_some(names)}"
        for names, label in (
            (missing, "missing"),
            (extra, "left over"),
            (wrong, "of the wrong shape"),
            (kinds, "of the wrong type"),
        )
        if names
    ]
    if complaints:
        raise ReinError(f"{what} does not fit the model ({'; '.join(complaints)}).", hint)


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


# --- recognition of checkpoints ----------------------------------------------------------------------------


def holds_backbone(state: State) -> bool:
    """Whether a checkpoint (our names) brings the backbone along: the original's frozen and full ones do."""
    return any(name.startswith("backbone.") for name in state)


@dataclass(frozen=True)
class HeadFacts:
    """What a checkpoint of adapters and head was trained as, read from names and shapes (ours).

    Attributes:
        kind: 'mask2former' or 'plain'.
        tune: as `model.tune`: 'frozen' for the head alone, 'full' with the backbone, trained or not.
        classes: K. widths: of the four maps it needs, fine to coarse. banks: adapted blocks of each adapter.
        tokens, rank: of the adapters. link_features: whether they give query features.
        neck: 'branches', 'levels' or None, see `necks`.
        minor_rank, first_block: of minor directions, 0 where there are none.
        channels: of the decoder. pixel_layers, decoder_layers: depths, of the plain decoder the second alone.
    """

    kind: str
    tune: str
    classes: int
    widths: tuple[int, ...]
    banks: tuple[int, ...]
    tokens: int
    rank: int | None
    link_features: bool
    neck: str | None
    channels: int
    pixel_layers: int
    decoder_layers: int
    minor_rank: int = 0
    first_block: int = 0


def recognise_head(state: State, path: str) -> HeadFacts:
    """Recognise adapters and head. ReinError where there are none."""
    plain = "plain_decoder.class_head.weight" in state
    if not plain and not {"mask_decoder.class_head.weight", "pixel_decoder.lateral_conv.weight"} <= set(
        state
    ):
        alone = any(name.endswith(("cls_token", "pos_embed", "patch_embed.proj.weight")) for name in state)
        kind = "a backbone alone" if alone else f"its first tensor is '{next(iter(state), 'nothing')}'"
        raise ReinError(
            f"'{path}' holds no segmentation head ({kind}).",
            "A checkpoint of adapters and head is needed, for example checkpoints/dinov2_rein_and_head.pth.",
        )
    try:
        return _head_facts(state)
    except (KeyError, IndexError) as error:
        raise ReinError(
            f"'{path}' holds no whole segmentation head: what stands at {error} is missing or has another form.",
            "It is damaged, or of another program: fetch it again.",
        ) from None


def _head_facts(state: State) -> HeadFacts:
    banks = [state[name] for name in _bank_names(state)]
    plain = "plain_decoder.class_head.weight" in state
    decoder = "plain_decoder" if plain else "mask_decoder"
    if plain:
        queries = banks[0] if banks else state["plain_decoder.queries"]
        widths = tuple(len(state[f"plain_decoder.laterals.{tap}.norm.weight"]) for tap in range(4))
        channels, linked = len(state["plain_decoder.norm.weight"]), "plain_decoder.queries" not in state
    else:
        queries = banks[0] if banks else state["mask_decoder.query_positions"]
        lateral = state["pixel_decoder.lateral_conv.weight"]
        inputs = [state[f"pixel_decoder.input_convs.{level}.weight"] for level in (2, 1, 0)]
        widths = tuple(kernel.shape[1] for kernel in (lateral, *inputs))
        channels, linked = lateral.shape[0], "mask_decoder.to_features.weight" in state
    low_rank = any(name.endswith("tokens_a") for name in _bank_names(state))
    neck = None
    if any(name.startswith("neck.") for name in state):
        neck = "levels" if "neck.lateral.0.weight" in state else "branches"
    return HeadFacts(
        kind="plain" if plain else "mask2former",
        tune=_tune_of(state, bool(banks)),
        classes=state[f"{decoder}.class_head.weight"].shape[0] - 1,
        widths=widths,
        banks=tuple(bank.shape[0] for bank in banks),
        tokens=queries.shape[-2],
        rank=banks[0].shape[2] if low_rank else None,
        link_features=linked,
        neck=neck,
        channels=channels,
        pixel_layers=_count(state, "pixel_decoder.layers."),
        decoder_layers=_count(state, f"{decoder}.layers."),
        minor_rank=next((v.shape[1] for n, v in state.items() if n.endswith(".main.a")), 0),
        first_block=min((int(n.split(".")[2]) for n in state if n.startswith("minor.")), default=0),
    )


def _tune_of(state: State, refined: bool) -> str:
    if any(name.startswith("minor.") for name in state):
        kind = "recycle" if any(".sub." in name for name in state) else "soma"
        return f"rein+{kind}" if refined else kind
    return "rein" if refined else "full" if holds_backbone(state) else "frozen"


def _bank_names(state: State) -> list[str]:
    """Names of the token banks, one an adapter, in the order of the stages."""
    found = [n for n in state if n.startswith("rein.") and n.rsplit(".", 1)[1] in ("tokens", "tokens_a")]
    return sorted(found, key=lambda name: [int(part) for part in name.split(".") if part.isdecimal()])


def _count(state: State, prefix: str) -> int:
    numbers = {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
    return len(numbers)


def half_precision(module: nn.Module, dtype: torch.dtype, spared: Iterable[nn.Parameter] = ()) -> None:
    """Keep the matrices of a frozen part in the compute type; norms, gains and positions stay in fp32.

    `spared` parameters stay too: biases of frozen weights that train.
    """
    kept = {id(parameter) for parameter in spared}
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for parameter in layer.parameters(recurse=False):
                if id(parameter) not in kept:
                    parameter.data = parameter.data.to(dtype)
