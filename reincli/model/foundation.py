"""Files of foundation models: taken apart, recognised, fitted to a patch and image size.

Pure functions of dicts of tensors. `layouts` says how each family names and stores its weights.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reincli.config import BackboneSettings
from reincli.errors import ReinError
from reincli.model.backbones import Backbone, build_backbone
from reincli.model.families import FAMILIES, OWN
from reincli.model.layouts import HEADS, LAYOUTS, Layout, State
from reincli.model.weights import is_original, require_fit
from reincli.model.wrappers import average_taken as average_taken
from reincli.model.wrappers import plain_backbone as plain_backbone
from reincli.model.wrappers import unwrap as unwrap
from reincli.ops.resample import resize_grid, resize_kernel, resize_positions

AGAIN = "It is damaged, or of a model that was changed: give the published file."
SOME_GRID = 32
"""Side of the grid of positions for which shapes are compared."""


@dataclass(frozen=True)
class BackboneFacts:
    """What a backbone file is, read from names and shapes.

    Attributes:
        name: of the family in the settings ('dinov2_l', ...), or what it is called and how large.
        layout: how it is named. width: of its first map. depth: blocks.
        patch: size of the patch kernel or first convolution. grid: (h, w) of the stored positions, if there are.
    """

    name: str
    layout: Layout
    width: int
    depth: int
    patch: int
    grid: tuple[int, int] | None


def recognise_backbone(
    state: State, path: str, prefer: tuple[int, int] | None = None
) -> tuple[dict[str, Tensor], BackboneFacts]:
    """Which backbone a file holds.

    Args:
        state: from `plain_backbone`: published, converted, or timm's.
        path: for the message. prefer: the grid of positions where their number leaves it open.

    Returns:
        The tensors in the original's names, and the facts.

    Raises:
        ReinError: it is none of the families, with a word on what it looks like.
    """
    _refuse_other_model(state, path)
    for layout in LAYOUTS.values():
        renamed = layout.published(state) if layout.signs else None
        if renamed is not None:
            _require_floats(renamed, layout, path)
            return renamed, _facts(renamed, layout, path, prefer)
    raise ReinError(
        f"'{path}' is no backbone that is known here ({looks_like(state)}).",
        f"Known: {', '.join(FAMILIES)}, raw or converted; for another model of timm give timm's own file and "
        "its name: --set model.backbone.name=NAME",
    )


def _require_floats(state: State, layout: Layout, path: str) -> None:
    """ReinError where the weights were quantised: what their numbers stand for is not in the tensors themselves."""
    known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    others = [each.dtype for each in state.values() if each.is_floating_point() and each.dtype not in known]
    dtype = others[0] if others else state[layout.width].dtype
    if dtype not in known:
        raise ReinError(
            f"'{path}' holds its weights as {str(dtype).removeprefix('torch.')}: they were quantised.",
            "Give the file of the same weights in 32 or 16 bits.",
        )


def _facts(state: State, layout: Layout, path: str, prefer: tuple[int, int] | None) -> BackboneFacts:
    pattern = re.compile(re.escape(layout.block).replace(r"\#", r"\d+"))
    blocks = {found.group() for found in map(pattern.match, state) if found}
    tables = {layout.width: 4, layout.kernel: 4} | ({layout.positions: 2} if layout.positions else {})
    for name, dimensions in tables.items():
        if state[name].ndim < dimensions or not state[name].numel():
            raise ReinError(
                f"'{path}' does not hold together: {name} has the shape {list(state[name].shape)}.", AGAIN
            )
    width, patch = state[layout.width].shape[0], state[layout.kernel].shape[-1]
    grid = None
    if layout.positions is not None:
        table = state[layout.positions]
        if table.ndim == 4:
            grid = (table.shape[1], table.shape[2])
        else:
            cells = table.reshape(-1, table.shape[-1])[layout.prefix :]
            grid = grid_of(len(cells), path, prefer, cells)
    return BackboneFacts(name_of(layout, width, len(blocks)), layout, width, len(blocks), patch, grid)


def _number(layout: Layout) -> re.Pattern[str]:
    """The pattern of a block's names, its (last) number a group."""
    before, _, after = layout.block.rpartition("#")
    return re.compile(re.escape(before).replace(r"\#", "0") + r"(\d+)" + re.escape(after))


def name_of(layout: Layout, width: int, blocks: int) -> str:
    """Name of the family in the settings, or what a model of these sizes is called."""
    for name, family in FAMILIES.items():
        if (family.kind, family.widths[0], family.blocks) == (layout.kind, width, blocks):
            return name
    return OWN if layout.kind == "dinov2" else f"another {layout.title}"


REGISTERED = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
"""Sizes of DINOv2 with registers by width, as timm calls them."""


def _refuse_other_model(state: State, path: str) -> None:
    """Name models that timm carries and these tables do not, and what to write to use them."""
    name = title = None
    if {"pos_embed", "blocks.0.ls1.gamma"} <= set(state) and {"register_tokens", "reg_token"} & set(state):
        title = "DINOv2 with registers"
        size = REGISTERED.get(state["blocks.0.ls1.gamma"].shape[0])
        name = f"vit_{size}_patch14_reg4_dinov2" if size else None
    elif {"conv1.weight", "layer1.0.conv3.weight", "layer3.5.conv1.weight"} <= set(state):
        title = "a ResNet with one convolution in its stem (the method's form, v1c, has three)"
        depth = {6: 50, 23: 101, 36: 152}.get(
            len({name.split(".")[1] for name in state if name.startswith("layer3.")})
        )
        name = f"resnet{depth}" if depth else None
    if title is not None:
        raise ReinError(
            f"'{path}' is {title}: a model of timm's, another than those of the tables.",
            f"Use it as it is: --set model.backbone.name={name or 'NAME'} --backbone {path}",
        )


def looks_like(state: State) -> str:
    """A guess at what a file is that was not recognised."""
    if is_original(state) or any(name.startswith(("rein.", "pixel_decoder.")) for name in state):
        return "it looks like adapters and head, not a backbone"
    if any(name.startswith("image_encoder.") for name in state):
        return "it looks like a part of SAM"
    if any(name.startswith("visual.") for name in state):
        return "it looks like a part of CLIP, or a CLIP with another image tower"
    if "register_tokens" in state:
        return "it looks like a ViT with register tokens"
    if any("_flat_param" in name for name in state):
        return "it looks like flattened parts of FSDP; save the full state dict"
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        return "it looks like a ResNet with a plain stem; the v1c form has three convolutions there"
    if any("embeddings.patch_embeddings." in name for name in state):
        return "it looks like another model in the names of Hugging Face's transformers"
    if any("rope" in name for name in state):
        return "it looks like EVA or DINOv3 of another form"
    if any(name.startswith(("layer1.", "stem.", "stages.")) for name in state):
        return "it looks like a convolutional network"
    if any(name.startswith("blocks.") for name in state) and "blocks.0.ls1.gamma" not in state:
        return "it looks like a ViT without LayerScale"
    first = next(iter(state), "nothing")
    return f"its first tensor is '{first}'"


def grid_of(
    count: int, path: str = "", prefer: tuple[int, int] | None = None, cells: Tensor | None = None
) -> tuple[int, int]:
    """The (h, w) of a position grid: `prefer` if it fits, a square, what the cells themselves say, or twice as wide.

    Args:
        count: of the cells. cells: (h*w, C) the positions: in their true shape, cells above each other are alike.

    Raises:
        ReinError: none of these fits.
    """
    if prefer is not None and prefer[0] * prefer[1] == count:
        return prefer
    count = max(count, 0)
    side = math.isqrt(count)
    if side * side == count > 0:
        return side, side
    found = _grid_of_likeness(cells) if cells is not None else None
    if found is not None:
        return found
    half = math.isqrt(count // 2)
    if half * half * 2 == count > 0:
        return half, 2 * half
    raise ReinError(
        f"'{path}' stores {count} positions, which is no square grid, and they do not show its shape.",
        "Give the published file, or one that was converted from it: rein convert-weights",
    )


def _grid_of_likeness(cells: Tensor) -> tuple[int, int] | None:
    """The one shape, no longer than 4:1, in which cells above each other are clearly more alike than in all others."""
    if cells.device.type == "meta":
        return None
    count, cells = len(cells), cells.float()
    apart: list[tuple[float, tuple[int, int]]] = []
    for height in range(2, count // 2 + 1):
        if count % height == 0 and max(height, count // height) <= 4 * min(height, count // height):
            width = count // height
            apart.append((float((cells[width:] - cells[:-width]).square().mean()), (height, width)))
    apart.sort()
    if len(apart) == 1 or (len(apart) > 1 and apart[0][0] < 0.7 * apart[1][0]):
        return apart[0][1]
    return None


def require_whole(state: State, facts: BackboneFacts, path: str) -> None:
    """Compare names and shapes with each other, and with those of the family that a file is of.

    Args:
        state, facts: from `recognise_backbone`; of no known family, kernel, positions and numbers of blocks alone.
        path: for the message.

    Raises:
        ReinError: tensors missing, left over or of another shape.
    """
    layout, kernel = facts.layout, state[facts.layout.kernel].shape
    if len(kernel) != 4 or kernel[-2] != kernel[-1]:
        raise ReinError(
            f"'{path}' does not hold together: {layout.kernel} has the shape {list(kernel)}.", AGAIN
        )
    channels = facts.width if layout.positions is None else state[layout.positions].shape[-1]
    if channels != facts.width:
        raise ReinError(
            f"'{path}' does not hold together: {layout.positions} has {channels} channels, {layout.width} "
            f"{facts.width}.",
            AGAIN,
        )
    numbers = {int(found.group(1)) for found in map(_number(layout).match, state) if found}
    if numbers != set(range(len(numbers))):
        absent = min(set(range(max(numbers))) - numbers)
        raise ReinError(
            f"'{path}' does not hold together: of its blocks, {layout.block.replace('#', str(absent))}* is missing.",
            AGAIN,
        )
    if facts.name not in FAMILIES:
        return
    settings = BackboneSettings(name=facts.name, patch_size=facts.patch)
    with torch.device("meta"):
        model = build_backbone(settings, SOME_GRID)
    fitted = convert_backbone(state, facts, (SOME_GRID, SOME_GRID), facts.patch)
    require_fit(model, layout.to_ours(fitted), f"'{path}' is {facts.name}, but", AGAIN)


def convert_backbone(
    state: State, facts: BackboneFacts, grid: tuple[int, int], patch: int
) -> dict[str, Tensor]:
    """Fit a backbone's positions to a grid (h, w) and its kernel to a patch size; the rest is kept as it is.

    Args:
        state, facts: from `recognise_backbone`.
        grid, patch: what is wanted. Networks without positions and RoPE models are left alone.
    """
    if facts.grid is None:
        return dict(state)
    return facts.layout.resample(state, facts.grid, grid, patch)


def fit(
    state: State, facts: BackboneFacts, backbone: Backbone, path: str, notes: list[str]
) -> dict[str, Tensor]:
    """Resample what a file holds to what a model needs, with a remark in `notes` where that changes anything."""
    grid = backbone.grid
    if facts.grid is None or grid is None or (facts.grid == grid and facts.patch == backbone.patch_size):
        return dict(state)
    size = "x".join(str(side * backbone.patch_size) for side in grid)
    notes.append(
        f"'{path}' holds {facts.grid[0]}x{facts.grid[1]} positions and patches of {facts.patch}: resampled to "
        f"{grid[0]}x{grid[1]} and {backbone.patch_size} (input {size})."
    )
    return convert_backbone(state, facts, grid, backbone.patch_size)


def fit_timm(state: State, backbone: Backbone, path: str, notes: list[str]) -> dict[str, Tensor]:
    """The same for any other model of timm's: what a plain one stores is told by the model itself."""
    wanted = backbone.body.state_dict()
    if "register_tokens" in state:
        state = _registers(dict(state))
    classifier = (getattr(backbone.body, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = (*HEADS, *((classifier,) if isinstance(classifier, str) else classifier))
    state = {name: value for name, value in state.items() if name in wanted or not name.startswith(heads)}
    layout, kernel, positions = backbone.layout, state.get(backbone.layout.kernel), state.get("pos_embed")
    if backbone.grid is None or kernel is None or layout.kernel not in wanted:
        return _square_positions(dict(state), wanted, path, notes)
    grid = stored = backbone.grid
    prefix = 0
    if positions is not None and "pos_embed" in wanted:
        prefix = wanted["pos_embed"].shape[1] - grid[0] * grid[1]
        stored = grid_of(positions.shape[1] - prefix, path, grid)
    patch = kernel.shape[-1]
    if stored == grid and patch == backbone.patch_size:
        return dict(state)
    fitted = replace(layout, prefix=prefix, positions="pos_embed" if positions is not None else None)
    facts = BackboneFacts(backbone.settings.name, fitted, backbone.width, backbone.depth, patch, stored)
    if positions is None:  # rotary positions follow the input; the kernel alone has a size
        return dict(state) | {layout.kernel: resize_kernel(kernel, backbone.patch_size)}
    return fit(state, facts, backbone, path, notes)


def timm_hint(backbone: Backbone) -> str:
    """What to do where a file does not fit a model of timm's."""
    facts = getattr(backbone.body, "pretrained_cfg", None) or {}
    place = f" (https://huggingface.co/{facts['hf_hub_id']})" if facts.get("hf_hub_id") else ""
    height, width = facts.get("input_size", (3, 0, 0))[1:]
    return (
        f"Give timm's own file of this model{place}. It was made for {width}x{height}: where only shapes differ, set "
        "data.augment.crop and test.window to that size."
    )


def _square_positions(
    state: dict[str, Tensor], wanted: State, path: str, notes: list[str]
) -> dict[str, Tensor]:
    """Resample one table of absolute positions of a model that timm runs itself, square to square."""
    there, here = state.get("pos_embed"), wanted.get("pos_embed")
    if there is None or here is None or there.shape == here.shape or there.ndim != here.ndim:
        return state
    if there.ndim == 4 and there.shape[3] == here.shape[3]:
        state["pos_embed"] = resize_grid(there[0], (here.shape[1], here.shape[2]))[None]
    elif there.ndim == 3:
        sides = [math.isqrt(table.shape[1]) for table in (there, here)]
        prefix = there.shape[1] - sides[0] ** 2  # with a class token the number is a square and one
        if prefix > 1 or here.shape[1] - sides[1] ** 2 != prefix:
            return state
        stored, grid = (sides[0], sides[0]), (sides[1], sides[1])
        state["pos_embed"] = resize_positions(there, prefix, stored, grid)
    else:
        return state
    notes.append(f"'{path}' holds positions of another input size: resampled.")
    return state


def _registers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2 with registers as published -> timm's form, whose class token has its position added already."""
    positions = state.pop("pos_embed")
    state["reg_token"] = state.pop("register_tokens")
    state["cls_token"] = state["cls_token"] + positions[:, :1]
    state["pos_embed"] = positions[:, 1:]
    state.pop("mask_token", None)
    return state
