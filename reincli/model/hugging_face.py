"""Foundation models in the names of Hugging Face's `transformers`, brought to those of their publishers.

A table a family: its names on the left, the published ones on the right. Queries, keys and values, which
`transformers` keeps apart, are rows that end at `@0.`, `@1.` and `@2.`, and are joined afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from reincli.model.layouts import State, rename


@dataclass(frozen=True)
class Form:
    """How `transformers` names one family.

    Attributes:
        title: what to call it in a sentence.
        signs: tensors that together tell it. names: theirs -> as published, see `layouts.rename`.
    """

    title: str
    signs: tuple[str, ...]
    names: Mapping[str, str]

    def published(self, state: State) -> dict[str, Tensor]:
        """Tensors under the published names; unknown ones are kept, so that strict loading names them."""
        return _joined({rename(name, self.names) or name: value for name, value in state.items()})


def _joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values in one tensor; a bias that the keys lack is zero (DINOv3 masks it)."""
    result: dict[str, Tensor] = {}
    groups: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        stem, at, rest = name.partition("@")
        if not at:
            result[name] = value
            continue
        number, _, part = rest.partition(".")
        groups.setdefault(f"{stem}{'' if stem.endswith('_') else '.'}{part}", {})[int(number)] = value
    for name, group in groups.items():
        one = next(iter(group.values()))
        result[name] = torch.cat([group.get(index, torch.zeros_like(one)) for index in range(3)])
    return result


def _block(theirs: str, published: str, rows: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}{left}": f"{published}{right}" for left, right in rows.items()}


DINOV2 = Form(
    "DINOv2",
    signs=("embeddings.cls_token", "embeddings.position_embeddings",
           "embeddings.patch_embeddings.projection.weight", "encoder.layer.0.layer_scale1.lambda1"),
    names={
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
        "embeddings.": "",
        "layernorm.": "norm.",
        **_block("encoder.layer.#.", "blocks.#.", {
            "attention.attention.query.": "attn.qkv@0.",
            "attention.attention.key.": "attn.qkv@1.",
            "attention.attention.value.": "attn.qkv@2.",
            "attention.output.dense.": "attn.proj.",
            "layer_scale1.lambda1": "ls1.gamma",
            "layer_scale2.lambda1": "ls2.gamma",
            "mlp.weights_in.": "mlp.w12.",
            "mlp.weights_out.": "mlp.w3.",
            "": "",
        }),
    },
)  # fmt: skip

DINOV3 = Form(
    "DINOv3",
    signs=("embeddings.cls_token", "embeddings.register_tokens", "embeddings.patch_embeddings.weight",
           "layer.0.layer_scale1.lambda1", "layer.0.attention.q_proj.weight"),
    names={
        "embeddings.register_tokens": "storage_tokens",
        "embeddings.patch_embeddings.": "patch_embed.proj.",
        "embeddings.": "",
        **_block("layer.#.", "blocks.#.", {
            "attention.q_proj.": "attn.qkv@0.",
            "attention.k_proj.": "attn.qkv@1.",
            "attention.v_proj.": "attn.qkv@2.",
            "attention.o_proj.": "attn.proj.",
            "layer_scale1.lambda1": "ls1.gamma",
            "layer_scale2.lambda1": "ls2.gamma",
            "mlp.up_proj.": "mlp.fc1.",
            "mlp.down_proj.": "mlp.fc2.",
            "": "",
        }),
    },
)  # fmt: skip

CLIP = Form(
    "CLIP",
    signs=("embeddings.class_embedding", "embeddings.position_embedding.weight",
           "embeddings.patch_embedding.weight", "pre_layrnorm.weight"),
    names={
        "embeddings.class_embedding": "class_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.patch_embedding.": "conv1.",
        "pre_layrnorm.": "ln_pre.",
        "post_layernorm.": "ln_post.",
        **_block("encoder.layers.#.", "transformer.resblocks.#.", {
            "self_attn.q_proj.": "attn.in_proj_@0.",
            "self_attn.k_proj.": "attn.in_proj_@1.",
            "self_attn.v_proj.": "attn.in_proj_@2.",
            "self_attn.out_proj.": "attn.out_proj.",
            "layer_norm1.": "ln_1.",
            "layer_norm2.": "ln_2.",
            "mlp.fc1.": "mlp.c_fc.",
            "mlp.fc2.": "mlp.c_proj.",
        }),
    },
)  # fmt: skip

SAM = Form(
    "SAM",
    signs=("pos_embed", "patch_embed.projection.weight", "layers.0.attn.rel_pos_h", "layers.0.mlp.lin1.weight"),
    names={
        "patch_embed.projection.": "patch_embed.proj.",
        "layers.#.layer_norm1.": "blocks.#.norm1.",
        "layers.#.layer_norm2.": "blocks.#.norm2.",
        "layers.#.": "blocks.#.",
    },
)  # fmt: skip

CONVNEXT = Form(
    "ConvNeXt",
    signs=("embeddings.patch_embeddings.weight", "encoder.stages.0.layers.0.dwconv.weight",
           "encoder.stages.0.layers.0.layer_scale_parameter"),
    names={
        "embeddings.patch_embeddings.": "downsample_layers.0.0.",
        "embeddings.layernorm.": "downsample_layers.0.1.",
        "encoder.stages.#.downsampling_layer.": "downsample_layers.#.",
        "layernorm.": "norm3.",
        **_block("encoder.stages.#.layers.#.", "stages.#.#.", {
            "layer_scale_parameter": "gamma",
            "dwconv.": "depthwise_conv.",
            "layernorm.": "norm.",
            "pwconv1.": "pointwise_conv1.",
            "pwconv2.": "pointwise_conv2.",
        }),
    },
)  # fmt: skip

RESNET = Form(
    "ResNet",
    signs=("embedder.embedder.convolution.weight", "encoder.stages.0.layers.0.layer.2.convolution.weight"),
    names={
        "embedder.embedder.convolution.": "conv1.",
        "embedder.embedder.normalization.": "bn1.",
        **{
            f"encoder.stages.{stage}.layers.#.{left}": f"layer{stage + 1}.#.{right}"
            for stage in range(4)
            for left, right in {
                **{f"layer.{n}.convolution.": f"conv{n + 1}." for n in range(3)},
                **{f"layer.{n}.normalization.": f"bn{n + 1}." for n in range(3)},
                "shortcut.convolution.": "downsample.0.",
                "shortcut.normalization.": "downsample.1.",
            }.items()
        },
    },
)  # fmt: skip
"""Its stem is one convolution of 7x7; the method's form, v1c, has three of 3x3: timm's `resnet50` equals it."""

FORMS = (DINOV2, DINOV3, CLIP, SAM, CONVNEXT, RESNET)
