"""Which kernels the blocks of a plain transformer attend with (`model.backbone.attention`)."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from reincli.config import BackboneSettings
from reincli.errors import ReinError
from reincli.ops.attention import ByXformers, reason

KNOWN = (
    "timm.layers.attention.Attention",
    "timm.layers.attention.AttentionRope",
    "timm.models.vision_transformer.Attention",
    "timm.models.eva.EvaAttention",
)
"""timm's modules that attend by `scaled_dot_product_attention` without adding anything to the scores."""
FLAT = ("timm.models.vision_transformer_sam.Attention",)
"""Those that give it (B * heads, T, D), three dimensions."""


def choose_attention(body: nn.Module, settings: BackboneSettings) -> None:
    """Let the blocks of timm's model attend as the settings say; 'auto' leaves them as timm made them.

    Raises:
        ReinError: xformers is asked for, and these blocks attend in another way.
    """
    if settings.attention == "auto":
        return
    if settings.attention == "xformers":
        for attention in _known(body, settings.name):
            # a partial, not a closure: it is copied with its module
            attention.forward = functools.partial(_by_xformers, attention)
    for module in body.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True  # type: ignore[assignment]  # also where TIMM_FUSED_ATTN=0 says otherwise


def write_out_flat_attention(body: nn.Module) -> None:
    """Products instead of one fused call where timm joins heads and batch: PyTorch's ONNX exporter writes fused
    attention of four dimensions alone."""
    for module in body.modules():
        if f"{type(module).__module__}.{type(module).__name__}" in FLAT:
            module.fused_attn = False  # type: ignore[assignment]


def require_attention(attention: str, device: torch.device, dtype: torch.dtype, width: int = 64) -> None:
    """See that what `model.backbone.attention` asks for runs on a device.

    Args:
        attention: the setting. device, dtype: as picked. width: channels of a head.

    Raises:
        ReinError: xformers is asked for and cannot run.
    """
    why = reason(device, width, dtype) if attention == "xformers" else None
    if why is not None:
        first = "Install it: pip install 'reincli[xformers]', or go" if "not installed" in why else "Go"
        raise ReinError(
            f"model.backbone.attention is 'xformers', but {why}.",
            f"{first} on with PyTorch's own: --set model.backbone.attention=auto",
        )


def head_width(body: Any) -> int:
    """Channels of an attention head of a plain transformer; of anything else 64."""
    return int(getattr(getattr(next(iter(getattr(body, "blocks", [])), None), "attn", None), "head_dim", 64))


def _known(body: Any, name: str) -> list[nn.Module]:
    """The attention of each block."""
    found = [getattr(block, "attn", None) for block in getattr(body, "blocks", [])]
    if not found or any(f"{type(a).__module__}.{type(a).__name__}" not in KNOWN for a in found):
        raise ReinError(
            f"model.backbone.attention = 'xformers' is for plain transformers; '{name}' attends in a way of its own, "
            "or not at all.",
            "Use --set model.backbone.attention=auto",
            usage=True,
        )
    return [each for each in found if each is not None]


def _by_xformers(attention: nn.Module, *given: Any, **options: Any) -> Any:
    with ByXformers():
        return type(attention).forward(attention, *given, **options)
