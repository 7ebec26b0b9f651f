"""How each family's weights are named and stored: recognising a file, renaming it, fitting it to a size.

Three forms of the same weights: as published (an archive with a prefix, other towers, half precision), in the
original's names (what the original's converters write and its models hold), and ours (`body.` + timm's name).
Published and timm's files are first brought to the original's names, then resampled, then read into ours. Every
rename is a row of a table that works both ways; pure functions of dicts throughout.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reincli.ops.resample import resize_grid, resize_kernel, resize_positions

State = Mapping[str, Tensor]
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]

CLASSIFIERS = ("head.", "head_dist.")
HEADS = (*CLASSIFIERS, "norm.", "fc_norm.", "attn_pool.")
"""Parts of timm's classifiers behind the last block: nothing here reads them."""


@functools.cache
def _row(source: str) -> re.Pattern[str]:
    """The pattern of one side of a row."""
    pattern = re.escape(source).replace(r"\#", r"(\d+)")
    return re.compile(pattern + ("" if source[-1:] in ("", ".", "_") else "$"))


def rename(name: str, table: Mapping[str, str]) -> str | None:
    """The name by the first row of a table that fits, or None.

    '#' in a row stands for a number, in order of appearance; a row ends at '.' or '_', is empty, or names a tensor.
    """
    for source, target in table.items():
        found = _row(source).match(name)
        if found:
            for number in found.groups():
                target = target.replace("#", number, 1)
            return target + name[found.end() :]
    return None


def inverse(table: Mapping[str, str]) -> dict[str, str]:
    """The same table read from right to left."""
    return {right: left for left, right in table.items()}


def _same(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


@dataclass(frozen=True)
class Layout:
    """One family's names and shapes.

    Attributes:
        kind: its key. title: what to call it in a sentence.
        names: ours within the backbone -> the original's within its backbone.
        signs: tensors in the original's names that together tell the family. timm_signs: the same in timm's.
        archive: prefix of the tensors in the published file, which holds other parts too.
        aliases: further published names -> the original's.
        unused: tensors (starts of names) that nothing here reads.
        norm: start of the names of the final norm, in the original's and in timm's, where the plain head reads it.
        kernel: patch kernel or first convolution. positions: table of absolute positions, or None.
        prefix: positions before those of the patches. mode: how positions are resampled.
        width: the tensor whose first size is the width of the first map. block: prefix of one block.
        read, write: what renaming cannot do, after and before it.
    """

    kind: str
    title: str
    names: Mapping[str, str]
    signs: tuple[str, ...]
    timm_signs: tuple[str, ...] = ()
    archive: str = ""
    aliases: Mapping[str, str] | None = None
    unused: tuple[str, ...] = ()
    norm: str | None = None
    kernel: str = "patch_embed.proj.weight"
    positions: str | None = "pos_embed"
    prefix: int = 1
    mode: str = "bicubic"
    width: str = "patch_embed.proj.weight"
    block: str = "blocks.#."
    read: Change = _same
    write: Change = _same

    def with_norm(self) -> Layout:
        """For a model that has kept its final norm."""
        return replace(self, unused=tuple(each for each in self.unused if each != self.norm))

    def to_ours(self, state: State) -> dict[str, Tensor]:
        """The original's names -> ours; unused tensors are dropped, unknown names kept for the strict check."""
        back = inverse(self.names)
        used = {name: value for name, value in state.items() if not self._is_unused(name)}
        return self.read({rename(name, back) or name: value for name, value in used.items()})

    def to_original(self, state: State) -> dict[str, Tensor]:
        """Ours -> the original's names; unknown names are kept."""
        return {rename(name, self.names) or name: value for name, value in self.write(dict(state)).items()}

    def _is_unused(self, name: str) -> bool:
        return any(re.match(re.escape(row).replace(r"\#", r"\d+"), name) for row in self.unused)

    def published(self, state: State) -> dict[str, Tensor] | None:
        """A file's tensors in the original's names and in float32, or None where it is of another family."""
        if self.archive and all(self.archive + sign in state for sign in self.signs):
            start = len(self.archive)
            state = {name[start:]: v for name, v in state.items() if name.startswith(self.archive)}
        elif self.timm_signs and all(sign in state for sign in self.timm_signs):
            needed = (*self.timm_signs, *([self.norm] if self.norm else ()))
            kept = {
                f"body.{n}": v for n, v in state.items() if not n.startswith(HEADS) or n.startswith(needed)
            }
            state = self.to_original(kept)
        elif self.aliases:
            state = {rename(name, self.aliases) or name: value for name, value in state.items()}
        if not all(sign in state for sign in self.signs):
            return None
        kept = {name: v for name, v in state.items() if not name.startswith(CLASSIFIERS)}
        return _counted({name: v.float() if v.dtype == torch.float16 else v for name, v in kept.items()})

    def resample(
        self, state: State, stored: tuple[int, int], grid: tuple[int, int], patch: int
    ) -> dict[str, Tensor]:
        """Fit positions and patch kernel (the original's names) to a grid and patch size; the rest is kept."""
        result = dict(state)
        if self.positions is None:
            return result
        result[self.kernel] = resize_kernel(state[self.kernel], patch)
        table = state[self.positions]
        if stored != grid:
            if table.ndim == 4:  # (1, h, w, C), as SAM keeps them
                result[self.positions] = resize_grid(table[0], grid, self.mode)[None]
            else:
                flat = resize_positions(
                    table.view(1, -1, table.shape[-1]), self.prefix, stored, grid, self.mode
                )
                result[self.positions] = flat.view(*table.shape[:-2], -1, table.shape[-1])
        return result


# --- what renaming cannot do -------------------------------------------------------------------------------


def _counted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Counters of batch norms as whole numbers: some files lack them, some hold them in half precision."""
    for name in [name for name in state if name.endswith(".running_mean")]:
        counter = name.removesuffix("running_mean") + "num_batches_tracked"
        state[counter] = state.get(counter, torch.zeros(())).long()
    return state


def _clip_read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm keeps a batch axis before the class token and the positions."""
    for name, ndim in (("body.cls_token", 1), ("body.pos_embed", 2)):
        if name in state and state[name].ndim == ndim:
            state[name] = state[name].view(1, -1, state[name].shape[-1])
    return state


def _clip_write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if "body.cls_token" in state:
        state["body.cls_token"] = state["body.cls_token"].flatten()
    if "body.pos_embed" in state:
        state["body.pos_embed"] = state["body.pos_embed"].flatten(0, 1)
    return state


def _dinov3_read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split the bias of queries, keys and values; the keys' part is masked, timm has none.

    The distilled models' biases are all zero, so some of timm's files leave them out.
    """
    for name in [name for name in state if name.endswith("attn.qkv.weight")]:
        block = name.removesuffix("qkv.weight")
        zeros = torch.zeros(3 * state[name].shape[1], dtype=state[name].dtype)
        query, _, value = state.pop(f"{block}qkv.bias", zeros).chunk(3)
        state.setdefault(f"{block}q_bias", query)
        state.setdefault(f"{block}v_bias", value)
    return state


def _dinov3_write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for name in [name for name in state if name.endswith("attn.q_bias")]:
        block = name.removesuffix("q_bias")
        query, value = state.pop(name), state.pop(f"{block}v_bias")
        state[f"{block}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return state


def _convnext_read(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier has a norm behind its last stage only; those of the other stages start as the identity."""
    for stage in range(4):
        last = f"body.stages.{stage}.blocks.0.gamma"
        if f"norms.{stage}.weight" not in state and last in state:
            state[f"norms.{stage}.weight"] = torch.ones_like(state[last])
            state[f"norms.{stage}.bias"] = torch.zeros_like(state[last])
    return state


def _convnext_write(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for part in ("weight", "bias"):
        if f"body.head.norm.{part}" in state:
            state[f"norms.3.{part}"] = state.pop(f"body.head.norm.{part}")
    return state


# --- the families ------------------------------------------------------------------------------------------

DINOV2 = Layout(
    "dinov2", "DINOv2",
    names={"body.": ""},
    signs=("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma"),
    unused=("mask_token",),
    norm="norm.",
)  # fmt: skip

EVA02 = Layout(
    "eva02", "EVA02",
    names={
        "body.blocks.#.attn.q_proj.bias": "blocks.#.attn.q_bias",
        "body.blocks.#.attn.v_proj.bias": "blocks.#.attn.v_bias",
        "body.blocks.#.mlp.fc1_g.": "blocks.#.mlp.w1.",
        "body.blocks.#.mlp.fc1_x.": "blocks.#.mlp.w2.",
        "body.blocks.#.mlp.norm.": "blocks.#.mlp.ffn_ln.",
        "body.blocks.#.mlp.fc2.": "blocks.#.mlp.w3.",
        "body.": "",
    },
    signs=("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.q_bias", "blocks.0.mlp.w1.weight"),
    timm_signs=("pos_embed", "blocks.0.attn.q_proj.bias", "blocks.0.mlp.fc1_g.weight"),
    unused=("mask_token", "norm.", "fc_norm.", "head.", "lm_head.", "rope.", "blocks.#.attn.rope."),
)  # fmt: skip

CLIP = Layout(
    "clip", "CLIP",
    names={
        "body.cls_token": "class_embedding",
        "body.pos_embed": "positional_embedding",
        "body.patch_embed.proj.": "conv1.",
        "body.norm_pre.": "ln_pre.",
        "body.blocks.#.norm1.": "transformer.resblocks.#.ln_1.",
        "body.blocks.#.norm2.": "transformer.resblocks.#.ln_2.",
        "body.blocks.#.attn.qkv.": "transformer.resblocks.#.attn.in_proj_",
        "body.blocks.#.attn.proj.": "transformer.resblocks.#.attn.out_proj.",
        "body.blocks.#.mlp.fc1.": "transformer.resblocks.#.mlp.c_fc.",
        "body.blocks.#.mlp.fc2.": "transformer.resblocks.#.mlp.c_proj.",
    },
    signs=("class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight"),
    timm_signs=("cls_token", "pos_embed", "patch_embed.proj.weight", "norm_pre.weight"),
    archive="visual.",
    unused=("proj", "ln_post."),
    kernel="conv1.weight", positions="positional_embedding", mode="bilinear", width="conv1.weight",
    block="transformer.resblocks.#.", read=_clip_read, write=_clip_write,
)  # fmt: skip

SAM = Layout(
    "sam", "SAM",
    names={
        "body.blocks.#.mlp.fc1.": "blocks.#.mlp.lin1.",
        "body.blocks.#.mlp.fc2.": "blocks.#.mlp.lin2.",
        "body.": "",
    },
    signs=("pos_embed", "patch_embed.proj.weight", "blocks.0.attn.rel_pos_h", "blocks.0.mlp.lin1.weight"),
    timm_signs=("pos_embed", "blocks.0.attn.rel_pos_h", "blocks.0.mlp.fc1.weight"),
    archive="image_encoder.",
    unused=("neck.",),
    prefix=0,
)  # fmt: skip

DINOV3 = Layout(
    "dinov3", "DINOv3",
    names={
        "body.reg_token": "storage_tokens",
        "body.blocks.#.gamma_1": "blocks.#.ls1.gamma",
        "body.blocks.#.gamma_2": "blocks.#.ls2.gamma",
        "body.": "",
    },
    signs=("cls_token", "storage_tokens", "patch_embed.proj.weight", "blocks.0.ls1.gamma"),
    timm_signs=("cls_token", "reg_token", "patch_embed.proj.weight", "blocks.0.gamma_1"),
    unused=("mask_token", "norm.", "cls_norm.", "local_cls_norm.", "rope_embed.", "blocks.#.attn.qkv.bias_mask"),
    norm="norm.",
    positions=None, read=_dinov3_read, write=_dinov3_write,
)  # fmt: skip

CONVNEXT = Layout(
    "convnext", "ConvNeXt",
    names={
        "norms.#.": "norm#.",
        "body.stem.#.": "downsample_layers.0.#.",
        "body.stages.#.downsample.": "downsample_layers.#.",
        "body.stages.#.blocks.#.conv_dw.": "stages.#.#.depthwise_conv.",
        "body.stages.#.blocks.#.mlp.fc1.": "stages.#.#.pointwise_conv1.",
        "body.stages.#.blocks.#.mlp.fc2.": "stages.#.#.pointwise_conv2.",
        "body.stages.#.blocks.#.": "stages.#.#.",
    },
    signs=("downsample_layers.0.0.weight", "stages.0.0.depthwise_conv.weight", "stages.0.0.gamma"),
    timm_signs=("stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "head.norm.weight", "head.norm.bias"),
    aliases={  # as the authors of ConvNeXt published it
        "stages.#.#.dwconv.": "stages.#.#.depthwise_conv.",
        "stages.#.#.pwconv1.": "stages.#.#.pointwise_conv1.",
        "stages.#.#.pwconv2.": "stages.#.#.pointwise_conv2.",
        "norm.": "norm3.",
    },
    unused=("head.",),
    kernel="downsample_layers.0.0.weight", positions=None, width="downsample_layers.0.0.weight",
    block="stages.#.#.", read=_convnext_read, write=_convnext_write,
)  # fmt: skip

RESNET = Layout(
    "resnet", "ResNet v1c",
    names={"body.bn1.": "stem.7.", "body.conv1.": "stem.", "body.": ""},
    signs=("stem.0.weight", "stem.7.weight", "layer1.0.conv3.weight"),
    timm_signs=("conv1.0.weight", "conv1.6.weight", "bn1.weight", "layer1.0.conv3.weight"),
    unused=("fc.",),
    kernel="stem.0.weight", positions=None, width="layer1.0.conv3.weight", block="layer#.#.",
)  # fmt: skip

TIMM = Layout("timm", "timm", names={"body.": ""}, signs=())
"""Any other model of timm, in timm's names."""

LAYOUTS: dict[str, Layout] = {
    layout.kind: layout for layout in (EVA02, CLIP, SAM, DINOV3, CONVNEXT, RESNET, DINOV2, TIMM)
}
