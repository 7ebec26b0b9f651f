"""Where any model of timm's can be refined: its blocks, stage by stage, and hooks on them.

A hook leaves the model as it is: same forward pass, same names of weights; only the block's output is replaced.
Blocks give tokens (B, P + N, C), or maps (B, C, h, w) or (B, h, w, C); refinement is the same for all, because it
looks at one patch at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reincli.errors import ReinError
from reincli.model.vit import Refine


@dataclass(frozen=True)
class Stage:
    """Blocks of one width, in running order."""

    width: int
    blocks: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Anatomy:
    """What was found.

    Attributes:
        stages: one for a plain transformer, else one for each of the last four scales.
        prefix: leading tokens (class, registers) that are no patches.
        strides: of the stages' outputs.
        features: numbers of the stages' outputs among timm's features.
        channels_last: whether blocks that give maps give (B, h, w, C).
    """

    stages: tuple[Stage, ...]
    prefix: int
    strides: tuple[int, ...]
    features: tuple[int, ...]
    channels_last: bool

    @property
    def plain(self) -> bool:
        """Whether all blocks work on one grid."""
        return len(self.stages) == 1


def find_stages(model: nn.Module) -> Anatomy:
    """Find the blocks of a model of timm's.

    Raises:
        ReinError: it names no features, or fewer than four scales, or has no blocks to attach to.
    """
    name = type(model).__name__
    info = list(getattr(model, "feature_info", None) or [])
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    blocks = getattr(model, "blocks", None)
    if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(info) == len(blocks) > 0:
        width, stride = int(info[-1]["num_chs"]), int(info[-1]["reduction"])
        if all(int(each["num_chs"]) == width for each in info):
            return Anatomy((Stage(width, tuple(blocks.children())),), prefix, (stride,), (), last)
    if len(info) < 4:
        raise ReinError(
            f"{name} has no blocks that Rein can be attached to (it names {len(info)} feature maps, four are needed).",
            "Take a plain ViT, a hierarchical transformer or a convolutional network of timm's.",
        )
    kept = range(len(info) - 4, len(info))
    stages = tuple(Stage(int(info[i]["num_chs"]), _blocks_of(model, info, i, name)) for i in kept)
    return Anatomy(stages, prefix, tuple(int(info[i]["reduction"]) for i in kept), tuple(kept), last)


def _blocks_of(model: nn.Module, info: list[dict[str, Any]], index: int, name: str) -> tuple[nn.Module, ...]:
    path = str(info[index]["module"])
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise ReinError(
            f"{name} has no blocks that Rein can be attached to (it has no part '{path}', which it names).",
            "Take another model.",
        ) from None
    flat = re.fullmatch(r"(.*)\.(\d+)", path)
    inner: Any = getattr(module, "blocks", module)
    if isinstance(inner, nn.Sequential | nn.ModuleList) and len(inner):
        return tuple(inner.children())
    previous = re.fullmatch(r"(.*)\.(\d+)", str(info[index - 1]["module"])) if index else None
    if flat and (previous or not index):  # one list of all blocks, of which each stage ends at the named one
        start = int(previous.group(2)) + 1 if previous else 0
        row = model.get_submodule(flat.group(1))
        if isinstance(row, nn.Sequential | nn.ModuleList):
            return tuple(row[start : int(flat.group(2)) + 1].children())
    return (module,)


def refined(output: Any, refine: Refine, block: int, anatomy: Anatomy, width: int) -> Any:
    """Refine what a block of this width gave, in whatever form.

    Raises:
        ReinError: no axis of it has the block's width.
    """
    if isinstance(output, tuple):
        return (refined(output[0], refine, block, anatomy, width), *output[1:])
    shape = tuple(output.shape)
    if output.ndim == 3 and shape[-1] == width:
        return refine(output, block, anatomy.prefix)
    if output.ndim == 4 and shape[1] == width and not (anatomy.channels_last and shape[-1] == width):
        return refine(output.flatten(2).transpose(1, 2), block, 0).transpose(1, 2).reshape(shape)
    if output.ndim == 4 and shape[-1] == width:
        return refine(output.flatten(1, 2), block, 0).view(shape)
    raise ReinError(
        f"A block gave {list(shape)}, but its stage has width {width}: Rein cannot be attached to it.",
        "Take another model.",
    )


def attach_hooks(anatomy: Anatomy, refine: Refine) -> tuple[RemovableHandle, ...]:
    """Let every block's output be refined from now on; the handles take the hooks away again."""
    handles, number = [], 0
    for stage in anatomy.stages:
        for block in stage.blocks:
            handles.append(block.register_forward_hook(_hook(refine, number, anatomy, stage.width)))
            number += 1
    return tuple(handles)


def _hook(refine: Refine, block: int, anatomy: Anatomy, width: int) -> Any:
    def hook(module: nn.Module, given: tuple[Tensor, ...], output: Any) -> Any:
        return refined(output, refine, block, anatomy, width)

    return hook


@contextmanager
def refining(anatomy: Anatomy, refine: Refine | None) -> Iterator[None]:
    """Blocks refine within this context, and are as before after it."""
    handles = attach_hooks(anatomy, refine) if refine is not None else ()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
