"""Rein on any model of timm's: adapters behind its blocks, the model itself untouched and frozen."""

from __future__ import annotations

from torch import nn

from reincli.model.anatomy import attach_hooks, find_stages
from reincli.model.rein import Adapter, adapter_for


def attach_rein(
    model: nn.Module,
    *,
    tokens: int = 100,
    rank: int | None = 16,
    query_width: int | None = None,
    patch_size: int = 16,
) -> Adapter:
    """Freeze a model of timm's, and let adapters refine what its blocks give from now on.

    >>> model = timm.create_model("vit_base_patch14_reg4_dinov2", pretrained=True, dynamic_img_size=True)
    >>> rein = attach_rein(model)
    >>> optimizer = torch.optim.AdamW(rein.parameters())
    >>> maps = model.forward_intermediates(images, intermediates_only=True)  # refined

    The model keeps its forward pass and the names of its weights; it is put into evaluation mode, and no parameter
    of it requires a gradient. Class and register tokens pass unchanged. `rein.detach()` takes the adapters off.

    Args:
        model: a plain ViT, a hierarchical transformer or a convolutional network.
        tokens, rank, query_width, patch_size: as for `ReinAdapter`.

    Returns:
        The adapter, one for a plain ViT and one a stage for others: what trains, and what is to be saved. It is
        not a part of the model.

    Raises:
        ReinError: the model has no blocks to attach to.
    """
    anatomy = find_stages(model)
    model.requires_grad_(False).eval()
    banks, widths = [len(s.blocks) for s in anatomy.stages], [s.width for s in anatomy.stages]
    rein = adapter_for(
        banks, widths, tokens=tokens, rank=rank, query_width=query_width, patch_size=patch_size
    )
    rein.to(next(model.parameters()).device)
    rein.hooks = attach_hooks(anatomy, rein)
    return rein
