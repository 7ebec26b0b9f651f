"""Attention by xformers in place of PyTorch's own: the same numbers up to rounding, other kernels.

Shapes: B images, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reincli.ops.types import low


def reason(device: torch.device, width: int, dtype: torch.dtype) -> str | None:
    """Why xformers' attention cannot run, in a few words; None where it does: a tiny call is tried.

    Args:
        device, dtype: of what is multiplied. width: D.
    """
    try:
        from xformers.ops import memory_efficient_attention
    except ImportError:
        return "xformers is not installed"
    if device.type != "cuda":
        return f"the device is '{device.type}', and it is for CUDA"
    trial = torch.zeros(1, 16, 1, width, device=device, dtype=dtype)
    try:
        memory_efficient_attention(trial, trial, trial)
    except Exception as error:  # whatever a foreign package or its kernels say
        lines = str(error).strip().splitlines()
        return f"it does not run here ({lines[0].rstrip(':. ') if lines else type(error).__name__})"
    return None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """As `scaled_dot_product_attention`, (B, H, N, D) three times -> (B, H, N, D); with a mask it is PyTorch's own."""
    if attn_mask is not None or is_causal or options:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **options
        )
    from xformers.ops import memory_efficient_attention

    # xformers wants heads behind tokens; autocast knows PyTorch's attention and casts for it, but not for this one
    rows = (low(each).transpose(1, 2) for each in (query, key, value))
    mixed: Tensor = memory_efficient_attention(*rows, p=dropout_p)
    return mixed.transpose(1, 2)


class ByXformers(TorchFunctionMode):
    """While it lasts, who asks PyTorch for attention gets `attend`."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Everything else goes on as it was called."""
        chosen = attend if function is F.scaled_dot_product_attention else function
        return chosen(*args, **(kwargs or {}))
