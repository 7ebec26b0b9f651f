"""Trading time for memory: what a part of the model keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def checkpointed(function: Callable[..., T], *inputs: Any, when: bool) -> T:
    """Call a function; with `when` only its inputs are kept and it is called again in the backward pass.

    The function must give the same result both times: no part of the models here draws random numbers, so the
    states of the generators (on a GPU a wait for the device each) are not kept either.
    """
    if not (when and torch.is_grad_enabled()):
        return function(*inputs)
    result: T = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result
