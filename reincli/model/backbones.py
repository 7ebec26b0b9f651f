"""The choice of a backbone: a family of the tables, a ViT of any size, or any other model of timm's.

All backbones share one form, which is all that the rest of the program knows of them:

- `forward(images, refine)` gives four maps, fine to coarse; `refine(features, block, prefix)` is called on what each
  adapted block gives, as tokens, blocks counted through;
- `widths` of the maps, and `zooms` by which they are enlarged before the head;
- `banks`: how many blocks each adapter refines, one adapter a width;
- `layout`: how its weights are named in files, and `body`: timm's model, whose names ours are;
- `multiple`: what both sides of an input must divide by; `grid`: stored positions (h, w), None where there are none.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import nn

from reincli.config import BackboneSettings
from reincli.errors import ReinError, nearest
from reincli.model.anatomy import Anatomy, find_stages
from reincli.model.attention import choose_attention
from reincli.model.families import Family, family_of, unknown_name, usual_taps
from reincli.model.hierarchical import Hierarchical, probe
from reincli.model.layouts import LAYOUTS
from reincli.model.timm_import import import_timm
from reincli.model.vit import VIEWS, ViT, strip

Backbone = ViT | Hierarchical


def build_token_backbone(settings: BackboneSettings, grid: int) -> ViT:
    """As `build_backbone`, for a head that reads tokens: a plain transformer that has kept its final norm.

    Raises:
        ReinError: as `build_backbone`; a backbone whose grid changes from stage to stage.
    """
    backbone = build_backbone(settings, grid, with_norm=True)
    if not isinstance(backbone, ViT):
        raise ReinError(
            f"The plain head reads the tokens of a plain transformer, and '{settings.name}' is none that is run here.",
            "Set model.head.kind=mask2former, or take a ViT: dinov2_l, dinov3_l or one of timm's.",
            usage=True,
        )
    backbone.serve_tokens()
    return backbone


def build_backbone(settings: BackboneSettings, grid: int, *, with_norm: bool = False) -> Backbone:
    """The backbone of these settings, with fresh weights.

    Args:
        settings: which, patch size, taps.
        grid: patches along a side of the training crop.
        with_norm: keep the final norm of a plain transformer, where its files bring one for patches.

    Raises:
        ReinError: a name that does not exist, or a model of timm's that Rein cannot be attached to.
    """
    backbone = _built(import_timm(), settings, grid, with_norm)
    choose_attention(backbone.body, settings)
    return backbone


def _built(timm: ModuleType, settings: BackboneSettings, grid: int, with_norm: bool) -> Backbone:
    family = family_of(settings)
    if settings.output_stride is not None and (family is None or family.kind != "resnet"):
        raise ReinError(
            f"model.backbone.output_stride is for ResNets; '{settings.name}' has its own strides.",
            "Leave it out.",
            usage=True,
        )
    if family is None:
        return _from_timm(timm, settings, grid, with_norm)
    if family.kind == "resnet":
        stride = settings.output_stride or 8  # as released: stages 3 and 4 dilated
        body = timm.create_model(family.timm, pretrained=False, num_classes=0, output_stride=stride)
        return Hierarchical(settings, family.kind, body, find_stages(body), multiple=1)
    if family.kind == "convnext":
        body = timm.create_model(family.timm, pretrained=False, num_classes=0)
        body.head.norm = nn.Identity()  # the classifier's; ours is the last of four
        return Hierarchical(settings, family.kind, body, find_stages(body))
    return _plain(timm, settings, family, grid, with_norm)


def _plain(timm: ModuleType, settings: BackboneSettings, family: Family, grid: int, with_norm: bool) -> ViT:
    size = grid * settings.patch_size
    sizes: dict[str, Any] = {"img_size": size, "patch_size": settings.patch_size, "num_classes": 0}
    keep: tuple[str, ...] = ("norm",) if with_norm and LAYOUTS[family.kind].norm else ()
    if family.kind == "dinov2":
        keep = ("norm",)  # never applied; the original's whole models hold it
    elif family.kind == "sam":
        sizes["img_size"] = 64 * settings.patch_size  # relative positions are stored for a grid of 64x64
    elif family.kind in ("eva02", "dinov3"):
        sizes["dynamic_img_size"] = True  # else timm keeps rotary tables for one size
    if family.timm:
        body = timm.create_model(family.timm, pretrained=False, **sizes)
    else:
        body = timm.models.vision_transformer.VisionTransformer(
            embed_dim=family.widths[0], depth=family.blocks, num_heads=family.heads, init_values=1.0,
            global_pool="", **sizes,
        )  # fmt: skip
    strip(body, keep)
    if family.kind == "sam":
        body.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, family.widths[0]))
    return VIEWS.get(family.kind, ViT)(settings, family, body, (grid, grid))


# --- any other model of timm's -----------------------------------------------------------------------------


def _from_timm(timm: ModuleType, settings: BackboneSettings, grid: int, with_norm: bool) -> Backbone:
    """A model that timm knows by this name; sizes, taps, strides and prefix tokens follow from it."""
    name = settings.name
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise unknown_name(name, timm.list_models())
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        raise ReinError(f"timm has no weights '{tag}' of '{model}'.", nearest(tag, tags), usage=True)
    pattern = _pattern(timm, name)
    anatomy = find_stages(pattern)
    size = grid * settings.patch_size
    if anatomy.plain and _is_plain(timm, pattern):
        width, depth = anatomy.stages[0].width, len(anatomy.stages[0].blocks)
        family = Family("timm", name, (width,) * 4, (depth,), taps=usual_taps(depth))
        sizes: dict[str, Any] = {"img_size": size, "patch_size": settings.patch_size, "num_classes": 0}
        if isinstance(pattern, timm.models.eva.Eva):
            sizes["dynamic_img_size"] = True
        body = timm.create_model(name, pretrained=False, **sizes)
        strip(body, ("norm",) if with_norm else ())
        return ViT(settings, family, body, (grid, grid))
    return _by_hooks(timm, settings, anatomy, size)


def _pattern(timm: ModuleType, name: str, **options: Any) -> nn.Module:
    """A model without numbers, to look at: its parts, its shapes."""
    try:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, **options)
    except (
        NotImplementedError
    ):  # timm's RegNets count their widths as tensors: up to 1.0.29 the pattern's, too
        return timm.create_model(name, pretrained=False, **options)


def _is_plain(timm: ModuleType, model: nn.Module) -> bool:
    """Whether `ViT` can run a model itself: timm's subclasses and hybrids do other things around the blocks."""
    classes = (timm.models.vision_transformer.VisionTransformer, timm.models.eva.Eva)
    return type(model) in classes and type(model.patch_embed) is timm.layers.PatchEmbed


def _by_hooks(timm: ModuleType, settings: BackboneSettings, anatomy: Anatomy, size: int) -> Hierarchical:
    """timm's own forward pass; the freest of its ways to take an input size that the model knows."""
    trials: list[dict[str, Any]] = [
        {"img_size": size, "strict_img_size": False},
        {"img_size": size, "dynamic_img_size": True},
        {"img_size": size},
        {},
    ]
    for options in trials:
        try:
            pattern = _pattern(timm, settings.name, num_classes=0, **options)
        except (TypeError, AssertionError, ValueError, RuntimeError):
            continue
        if not hasattr(pattern, "forward_intermediates"):
            continue
        if probe(pattern, (size, size)):
            free = probe(pattern, (size, size + 32)) and probe(pattern, (size + 64, size))
            body = timm.create_model(settings.name, pretrained=False, num_classes=0, **options)
            strip(body)
            fixed = None if free else (size, size)
            multiple = math.lcm(32, 2 * anatomy.strides[0]) if free else size
            return Hierarchical(settings, "timm", body, find_stages(body), multiple=multiple, fixed=fixed)
    raise ReinError(
        f"'{settings.name}' cannot take images of {size}x{size}, or tells no feature maps.",
        "Set data.augment.crop to a size that it takes, or choose another model of timm.",
    )
