"""Backbones that timm runs itself while their blocks are refined by hooks: pyramids, and transformers of other forms.

Shapes: B images, C_i width of stage i, (h_i, w_i) its grid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reincli.config import BackboneSettings
from reincli.errors import ReinError
from reincli.model.anatomy import Anatomy, refining
from reincli.model.families import usual_taps
from reincli.model.layouts import LAYOUTS
from reincli.model.vit import Refine
from reincli.ops.recompute import checkpointed


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, h, w)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Same shape."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Hierarchical(nn.Module):
    """A model of timm's, read after each of its last four stages (or after four blocks of a plain one).

    Args:
        settings: taps of a plain one.
        kind: key of `layouts.LAYOUTS`.
        body: timm's model. anatomy: its blocks.
        multiple: what both sides of an input must divide by.
        fixed: the only input size (H, W) that it takes, or None.

    Attributes:
        widths: C_i. banks: adapted blocks of each adapter. depth: all blocks.
        zooms: by how much each map is enlarged before the head: not at all for a pyramid.
    """

    body: Any
    widths: tuple[int, ...]
    zooms: tuple[float, ...]

    def __init__(
        self,
        settings: BackboneSettings,
        kind: str,
        body: nn.Module,
        anatomy: Anatomy,
        *,
        multiple: int = 32,
        fixed: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.layout, self.body, self.anatomy = settings, LAYOUTS[kind], body, anatomy
        self.multiple, self.fixed = multiple, fixed
        self.patch_size, self.grid = settings.patch_size, None
        self.banks = tuple(len(stage.blocks) for stage in anatomy.stages)
        self.depth = sum(self.banks)
        if anatomy.plain:
            self.widths = (anatomy.stages[0].width,) * 4
            self.taps = settings.taps or usual_taps(self.depth)
            self.zooms = tuple(anatomy.strides[0] / stride for stride in (4, 8, 16, 32))
        else:
            self.widths = tuple(stage.width for stage in anatomy.stages)
            self.taps, self.zooms = anatomy.features, (1.0, 1.0, 1.0, 1.0)
        # ConvNeXt for dense prediction has a norm behind each stage; timm's classifier behind the last alone.
        # It acts on the map that is read, after the refinement; the next stage goes on from the map before it.
        norms = (LayerNorm2d(width, eps=1e-6) for width in self.widths) if kind == "convnext" else ()
        self.norms = nn.ModuleList(norms)

    @property
    def width(self) -> int:
        """C_0, of the finest map."""
        return self.widths[0]

    def forward(
        self, images: Tensor, refine: Refine | None = None, *, recompute: bool = False
    ) -> list[Tensor]:
        """Maps of the four stages.

        Args:
            images: (B, 3, H, W), normalised.
            refine: called on every block's output as tokens (B, P + N, C_i), with its number counted over all
                stages.
            recompute: keep only the maps for the backward pass.

        Returns:
            Four (B, C_i, h_i, w_i), fine to coarse.

        Raises:
            ReinError: an input size that the model cannot take.
        """
        size = (images.shape[2], images.shape[3])
        if self.fixed is not None and size != self.fixed:
            raise ReinError(
                f"'{self.settings.name}' takes images of {self.fixed[1]}x{self.fixed[0]} (width x height) alone, "
                f"not {size[1]}x{size[0]}: its positions are fixed.",
                f'Set data.augment.crop and test.window to one size, and test.mode = "slide"; it is now '
                f"{self.fixed[0]}.",
            )
        maps = checkpointed(self._run, images, refine, when=recompute)
        if self.norms:
            return [norm(each) for norm, each in zip(self.norms, maps, strict=True)]
        return maps

    def _run(self, images: Tensor, refine: Refine | None) -> list[Tensor]:
        with refining(self.anatomy, refine):
            return list(
                self.body.forward_intermediates(images, indices=list(self.taps), intermediates_only=True)
            )

    def unread(self) -> dict[str, Tensor]:
        """Nothing: see `ViT.unread`."""
        return {}


def probe(body: nn.Module, size: tuple[int, int]) -> bool:
    """Whether a model takes an input of this size (H, W); on the meta device that costs nothing."""
    device = next(body.parameters()).device
    try:
        with torch.no_grad():
            body.forward_intermediates(  # type: ignore[operator]
                torch.empty(1, 3, *size, device=device), intermediates_only=True
            )
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True
