"""Backbones: which families exist, and the plain ViT whose blocks Rein refines.

Shapes: B images, N patches, C width, p patch size, (h, w) = patch grid of the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reincli.config import BackboneSettings
from reincli.errors import ReinError, nearest
from reincli.model.timm_import import import_timm
from reincli.ops.recompute import run
from reincli.ops.resample import stretch_grid

Refine = Callable[[Tensor, int, int], Tensor]
"""(features, block, prefix tokens) -> refined features."""


@dataclass(frozen=True)
class Family:
    """One backbone of the tables.

    Attributes:
        timm: name of the timm model that equals it.
        width, depth, heads: of the transformer. taps: blocks whose outputs the head reads.
        file: usual name of the raw weights under `checkpoints/`. address: where they can be had.
        layer_scale: whether every block ends in learned channel gains.
    """

    timm: str
    width: int
    depth: int
    heads: int
    taps: tuple[int, ...]
    file: str
    address: str
    layer_scale: bool = True


def _dinov2(letter: str, timm: str, width: int, depth: int, heads: int, taps: tuple[int, ...]) -> Family:
    file = f"dinov2_vit{letter}14_pretrain.pth"
    address = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{letter}14/{file}"
    return Family(timm, width, depth, heads, taps, file, address)


FAMILIES: dict[str, Family] = {
    "dinov2_s": _dinov2("s", "vit_small_patch14_dinov2", 384, 12, 6, (2, 5, 8, 11)),
    "dinov2_b": _dinov2("b", "vit_base_patch14_dinov2", 768, 12, 12, (2, 5, 8, 11)),
    "dinov2_l": _dinov2("l", "vit_large_patch14_dinov2", 1024, 24, 16, (7, 11, 15, 23)),
}

PLANNED = (
    "resnet50",
    "resnet101",
    "convnext_l",
    "clip_l",
    "sam_h",
    "eva02_l",
    "dinov3_s",
    "dinov3_b",
    "dinov3_l",
)


def family_of(settings: BackboneSettings) -> Family:
    """The family that settings name; `vit` is a ViT of any size, in the DINOv2 form.

    Raises:
        ReinError: unknown name, a backbone that cannot be built yet, or sizes that do not fit.
    """
    if settings.name in FAMILIES:
        if settings.width or settings.depth or settings.heads:
            raise ReinError(
                f"Backbone '{settings.name}' has fixed sizes, but width, depth or heads are set.",
                'Use model.backbone.name = "vit" for a ViT of your own sizes.',
                usage=True,
            )
        return FAMILIES[settings.name]
    if settings.name in PLANNED:
        raise ReinError(
            f"Backbone '{settings.name}' cannot be built in this version.",
            f"Backbones that can: {', '.join([*FAMILIES, 'vit'])}. Choose one with --set model.backbone.name=…",
        )
    if settings.name != "vit":
        raise ReinError(
            f"No backbone is named '{settings.name}'.",
            nearest(settings.name, [*FAMILIES, *PLANNED, "vit"]),
            usage=True,
        )
    if not (settings.width and settings.depth and settings.heads):
        raise ReinError("Backbone 'vit' needs width, depth and heads under [model.backbone].", usage=True)
    if settings.width % settings.heads:
        raise ReinError(
            f"A width of {settings.width} does not divide into {settings.heads} heads.", usage=True
        )
    depth = settings.depth
    taps = settings.taps or tuple(max(0, round(depth * share) - 1) for share in (1 / 3, 1 / 2, 2 / 3, 1))
    return Family("", settings.width, depth, settings.heads, taps, "", "")


class ViT(nn.Module):
    """A plain ViT (class token first, LayerScale, exact GELU) whose block outputs can be refined one by one.

    Args:
        settings: which family, patch size, taps.
        grid: patches along each side of the training crop: the size of the stored positions.

    Attributes:
        width: C of every map. depth: number of blocks. patch_size: p.
        zooms: by how much each map is enlarged before the head: strides 4, 8, 16, 32 for p = 16.
    """

    prefix = 1
    zooms = (4.0, 2.0, 1.0, 0.5)

    def __init__(self, settings: BackboneSettings, grid: int) -> None:
        super().__init__()
        family = family_of(settings)
        self.settings = settings
        self.width, self.depth, self.patch_size = family.width, family.depth, settings.patch_size
        self.grid = (grid, grid)
        self.taps = settings.taps or family.taps
        if len(self.taps) != 4 or any(not 0 <= tap < family.depth for tap in self.taps):
            raise ReinError(
                f"model.backbone.taps {list(self.taps)} must be four blocks between 0 and {family.depth - 1}.",
                usage=True,
            )
        timm = import_timm()
        sizes = {"img_size": grid * self.patch_size, "patch_size": self.patch_size, "num_classes": 0}
        if family.timm:
            self.body = timm.create_model(family.timm, pretrained=False, **sizes)
        else:
            self.body = timm.models.vision_transformer.VisionTransformer(
                embed_dim=family.width, depth=family.depth, num_heads=family.heads, init_values=1.0,
                global_pool="", **sizes,
            )  # fmt: skip

    def forward(
        self, images: Tensor, refine: Refine | None = None, *, recompute: bool = False
    ) -> list[Tensor]:
        """Maps after the tapped blocks.

        Args:
            images: (B, 3, H, W), normalised; H and W are multiples of the patch size.
            refine: called on every block's output.
            recompute: keep only what goes into each block for the backward pass.

        Returns:
            Four (B, C, H/p, W/p). The final norm of the ViT is not applied.
        """
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        patches = self.body.patch_embed.proj(images).flatten(2).transpose(1, 2)
        cls_token = self.body.cls_token.expand(len(images), -1, -1)
        features = torch.cat([cls_token, patches.to(cls_token.dtype)], dim=1) + self.positions(grid)
        maps = {}
        for index, block in enumerate(self.body.blocks):
            features = run(block, features, recompute=recompute)
            if refine is not None:
                features = refine(features, index, self.prefix)
            if index in self.taps:
                tokens = features[:, self.prefix :]
                maps[index] = tokens.transpose(1, 2).unflatten(2, grid)
        return [maps[tap] for tap in self.taps]

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings (1, 1+h*w, C): as stored for the square training size, stretched for any other."""
        stored = self.body.pos_embed
        if grid == self.grid:
            return stored
        square = stored[0, self.prefix :].reshape(*self.grid, -1)
        stretched = stretch_grid(square.float(), grid).to(stored.dtype)
        return torch.cat([stored[:, : self.prefix], stretched.reshape(1, grid[0] * grid[1], -1)], dim=1)
