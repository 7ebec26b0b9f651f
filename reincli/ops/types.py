"""Types of numbers: under autocast, and exact."""

from __future__ import annotations

import torch
from torch import Tensor


def low(value: Tensor) -> Tensor:
    """In the type that autocast multiplies in, where it is on: what several products read is cast once, not for each.

    Autocast keeps the casts of weights, not of activations.
    """
    kind = value.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return value
    return value.to(torch.get_autocast_dtype(kind))


def exact(value: Tensor) -> Tensor:
    """In float64, for what is worked out once: on its own device, or on the CPU where the device knows no float64."""
    return value.to("cpu", torch.float64) if value.device.type == "mps" else value.double()
