"""Plain vision transformers whose block outputs are refined one by one: DINOv2, DINOv3, EVA02, CLIP, SAM, others.

timm builds the blocks; what is done around them is written here, because the method resamples positions in its own
way (timm antialiases) and reads maps before the final norm.

Shapes: B images, N patches, C width, P prefix tokens, p patch size, (h, w) = patch grid of the input.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reincli.config import BackboneSettings
from reincli.errors import ReinError
from reincli.model.families import Family, quarters
from reincli.model.layouts import LAYOUTS
from reincli.model.necks import ScaleBranches
from reincli.model.stream import Stream
from reincli.ops.recompute import checkpointed
from reincli.ops.resample import resize_grid, stretch_grid

Refine = Callable[[Tensor, int, int], Tensor]
"""(features (B, P + N, C), number of the adapted block, P) -> refined features."""

BEHIND = ("norm", "fc_norm", "head_drop", "head", "attn_pool", "neck")
"""What timm's classifiers have behind the last block; nothing here reads it."""


def strip(body: nn.Module, keep: tuple[str, ...] = ()) -> None:
    """Take away what lies behind the last block, so that it neither trains nor is asked of a file."""
    for name in BEHIND:
        if name not in keep and getattr(body, name, None) is not None:
            setattr(body, name, nn.Identity())


def patches_of(images: Tensor, conv: nn.Conv2d) -> Tensor:
    """Patch embedding as one matrix product: (B, 3, H, W) -> (B, N, C).

    The kernels do not overlap, so no product is done twice; GPUs have no fast convolution of such a form.
    """
    height, width = conv.kernel_size
    if conv.stride != conv.kernel_size or conv.padding != (0, 0):
        return conv(images).flatten(2).transpose(1, 2)
    batch, channels = images.shape[:2]
    rows, columns = images.shape[2] // height, images.shape[3] // width
    split = images[:, :, : rows * height, : columns * width].view(
        batch, channels, rows, height, columns, width
    )
    flat = split.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * height * width)
    return F.linear(flat, conv.weight.flatten(1), conv.bias)


class ViT(nn.Module):
    """A plain transformer of timm's, as a backbone.

    Args:
        settings: patch size, taps.
        family: of the tables, or made up for another model of timm's.
        body: timm's model, a `VisionTransformer` or `Eva`, stripped of its head.
        grid: (h, w) of the training crop: the size of the stored positions.

    Attributes:
        widths: of the four maps. banks: adapted blocks of each adapter. depth: number of blocks.
        prefix: P. zooms: by how much each map is enlarged before the head: strides 4, 8, 16, 32 for p = 16.
        multiple: what both sides of an input must divide by, the coarsest map included.
    """

    zooms: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    body: Any

    def __init__(
        self, settings: BackboneSettings, family: Family, body: nn.Module, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.settings, self.layout, self.body, self.grid = settings, LAYOUTS[family.kind], body, grid
        self.widths, self.banks, self.depth = family.widths, family.banks, family.blocks
        self.patch_size = settings.patch_size
        self.multiple = 2 * self.patch_size
        self.adapted = range(family.blocks) if family.adapted is None else family.adapted
        self.taps = settings.taps or family.taps
        if len(self.taps) != 4 or any(not 0 <= tap < family.blocks for tap in self.taps):
            raise ReinError(
                f"model.backbone.taps {list(self.taps)} must be four blocks between 0 and {family.blocks - 1}.",
                "Leave them out, or name four that are there.",
                usage=True,
            )
        self.prefix = int(getattr(body, "num_prefix_tokens", 0))
        self.stream = Stream.of(body)

    @property
    def width(self) -> int:
        """C."""
        return self.widths[0]

    def serve_tokens(self) -> None:
        """Be read by `tokens`: taps at the quarters where none are set, any input that patches divide, the norm."""
        self.taps = self.settings.taps or quarters(self.depth)
        self.multiple = self.patch_size
        self.layout = self.layout.with_norm()

    def forward(
        self, images: Tensor, refine: Refine | None = None, *, recompute: bool = False
    ) -> list[Tensor]:
        """Maps after the tapped blocks.

        Args:
            images: (B, 3, H, W), normalised; H and W are multiples of the patch size.
            refine: called on the output of every adapted block.
            recompute: keep only what goes into each block for the backward pass.

        Returns:
            Four (B, C, H/p, W/p). The final norm of the ViT is not applied.
        """
        tapped = self._tapped(images, refine, self.prefix, recompute)
        return [each.transpose(1, 2).unflatten(2, self.grid_of(images)) for each in tapped]

    def tokens(
        self, images: Tensor, refine: Refine | None = None, *, recompute: bool = False
    ) -> list[Tensor]:
        """As `forward`, but four (B, P + N, C) after the model's final norm, where it has one."""
        tapped = self._tapped(images, refine, 0, recompute)
        norm = getattr(self.body, "norm", None)
        return tapped if norm is None else [norm(each.to(torch.float32)) for each in tapped]

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """(h, w) of (B, 3, H, W) images."""
        return images.shape[2] // self.patch_size, images.shape[3] // self.patch_size

    def _tapped(self, images: Tensor, refine: Refine | None, cut: int, recompute: bool) -> list[Tensor]:
        """(B, P + N - cut, C) after each tapped block, without so many leading tokens."""
        grid = self.grid_of(images)
        features = self.embed(images, grid)
        rotations = self.rotations(grid)
        if (
            self.stream is not None
            and not torch.is_grad_enabled()
            and (refine is None or hasattr(refine, "change"))
        ):
            return self.stream.run(features, rotations, refine, self.adapted, self.taps, self.prefix, cut)
        found = {}
        for index, block in enumerate(self.body.blocks):
            features = checkpointed(self.run, block, features, grid, rotations[index], when=recompute)
            if refine is not None and index in self.adapted:
                features = refine(features, self.adapted.index(index), self.prefix)
            if index in self.taps:
                found[index] = features[:, cut:]
        return [found[tap] for tap in self.taps]

    def merge_gains(self) -> None:
        """Multiply the gains of the branches into their last layers: for models that will not be trained or saved."""
        if self.stream is not None:
            self.stream.merge_gains()

    @torch.no_grad()
    def fix_positions(self, size: tuple[int, int]) -> None:
        """Store the positions of one input size (H, W) in place of the training crop's: for models of one size."""
        grid = (size[0] // self.patch_size, size[1] // self.patch_size)
        stored = self.body.pos_embed
        if stored is not None:
            positions = ViT.positions(self, grid)
            assert positions is not None
            self.body.pos_embed = nn.Parameter(positions.clone(), requires_grad=False)
        self.grid = grid

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches and prefix tokens with their positions: (B, P + N, C)."""
        body, positions = self.body, self.positions(grid)
        patches = body.patch_embed.norm(patches_of(images, body.patch_embed.proj))
        leading = [token for token in (body.cls_token, getattr(body, "reg_token", None)) if token is not None]
        stored = positions if positions is not None else leading[0] if leading else patches
        parts = [token.expand(images.shape[0], -1, -1) for token in leading] + [patches.to(stored.dtype)]
        if positions is not None and positions.shape[1] == grid[0] * grid[1]:
            parts[-1] = parts[-1] + positions  # the prefix has none
            positions = None
        features = torch.cat(parts, dim=1)
        return self.body.norm_pre(features if positions is None else features + positions)

    def positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Position embeddings (1, P + h*w or h*w, C): as stored for the training size, resampled for any other."""
        stored = self.body.pos_embed
        if stored is None or grid == self.grid:
            return stored
        prefix = stored.shape[1] - self.grid[0] * self.grid[1]
        table = stored[0, prefix:].reshape(*self.grid, -1).float()
        resampled = self.resampled(table, grid).to(stored.dtype).reshape(1, grid[0] * grid[1], -1)
        return torch.cat([stored[:, :prefix], resampled], dim=1) if prefix else resampled

    def resampled(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        """Positions (h, w, C) for another grid: as DINOv2 does it."""
        return stretch_grid(table, grid)

    def rotations(self, grid: tuple[int, int]) -> list[Tensor | None]:
        """Tables of rotary positions for each block, where the model has them."""
        rope = getattr(self.body, "rope", None)
        if rope is None:
            return [None] * self.depth
        tables = rope.get_embed(shape=list(grid))
        return list(tables) if getattr(self.body, "rope_mixed", False) else [tables] * self.depth

    def run(
        self, block: nn.Module, features: Tensor, grid: tuple[int, int], rotation: Tensor | None
    ) -> Tensor:
        """One block: (B, P + N, C) -> (B, P + N, C)."""
        return block(features) if rotation is None else block(features, rope=rotation)

    def unread(self) -> dict[str, Tensor]:
        """Tensors that the original's whole models hold and nothing here reads, in the original's names."""
        return {"mask_token": torch.zeros(1, self.width)} if self.layout.kind == "dinov2" else {}


class EvaViT(ViT):
    """EVA02: positions and rotary tables both stand for the grid of 16x16 of pretraining, stretched over the input.

    The original has them for one square size alone; other sizes here are stretched in the same way.
    """

    def resampled(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        """Bicubic, as the weights were converted."""
        return resize_grid(table, grid)

    def unread(self) -> dict[str, Tensor]:
        """The original saves its rotary tables, once and again for each block."""
        sine, cosine = self.body.rope.get_embed(shape=list(self.grid)).chunk(2, dim=-1)
        places = ["rope.", *(f"blocks.{index}.attn.rope." for index in range(self.depth))]
        return {f"{p}freqs_{n}": table for p in places for n, table in (("cos", cosine), ("sin", sine))}


class ClipViT(ViT):
    """CLIP: the class embedding is counted twice on token 0, and positions are resized bilinearly."""

    def resampled(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        """Bilinear, at every call."""
        return resize_grid(table, grid, "bilinear")

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """As `ViT.positions`, with the class embedding added to token 0: the original adds it to both."""
        table = super().positions(grid)
        assert table is not None
        return torch.cat([table[:, :1] + self.body.cls_token, table[:, 1:]], dim=1)

    def unread(self) -> dict[str, Tensor]:
        """The original's backbone carries scale branches, which a frozen one never runs."""
        branches = ScaleBranches(self.width)
        parts = (branches.up4, branches.up2, branches.same, branches.down2)
        return {
            f"fpn{number}.{name}": value
            for number, part in enumerate(parts, start=1)
            for name, value in part.state_dict().items()
        }


class SamViT(ViT):
    """SAM's image encoder without its neck: windows of 14, relative positions, no prefix tokens."""

    @torch.no_grad()
    def fix_positions(self, size: tuple[int, int]) -> None:
        """As `ViT.fix_positions`; positions are a map (1, h, w, C)."""
        self.grid = (size[0] // self.patch_size, size[1] // self.patch_size)
        table = resize_grid(self.body.pos_embed[0], self.grid)[None]
        self.body.pos_embed = nn.Parameter(table, requires_grad=False)

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C), row by row."""
        table = self.body.pos_embed  # (1, h, w, C)
        if tuple(table.shape[1:3]) != grid:
            table = resize_grid(table[0], grid)[None].to(table.dtype)
        patches = patches_of(images, self.body.patch_embed.proj).to(table.dtype)
        return patches + table.flatten(1, 2)

    def run(
        self, block: nn.Module, features: Tensor, grid: tuple[int, int], rotation: Tensor | None
    ) -> Tensor:
        """SAM's blocks want the grid.

        timm works their relative positions out on the host, which would wait for a GPU twice a block, unless the
        features' device is where new tensors go; a compiler cannot follow that, and needs it not.
        """
        with nullcontext() if torch.compiler.is_compiling() else features.device:
            return block(features.unflatten(1, grid)).flatten(1, 2)


VIEWS: dict[str, type[ViT]] = {"eva02": EvaViT, "clip": ClipViT, "sam": SamViT}
"""Kinds that differ from the plain form."""
