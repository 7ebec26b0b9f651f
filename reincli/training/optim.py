"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import torch

from reincli.config import OptimSettings
from reincli.model.segmentor import Segmentor

FUSED = ("cpu", "cuda")
"""Types of devices on which all parameters are updated in one step."""


def build_optimizer(model: Segmentor, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over what the model declares as trained, in two groups: with and without weight decay.

    One fused step on the CPU and on CUDA; a plain one elsewhere, where not every PyTorch of the range has the other.
    """
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for _, parameter, decays in model.decays():
        groups[decays].append(parameter)
    fused = all(p.device.type in FUSED for group in groups.values() for p in group)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": settings.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=fused,
    )


def learning_rate(settings: OptimSettings, iteration: int, iterations: int) -> float:
    """Learning rate in force during an iteration (from 0).

    Linear from `warmup_factor` to 1 over the warm-up, then (1 - t/(T-1))^power down to exactly 0 at the last one.
    """
    warmup = settings.warmup_iterations
    if iteration < warmup:
        share = iteration / max(warmup - 1, 1)
        return settings.lr * (settings.warmup_factor + (1 - settings.warmup_factor) * share)
    left = 1 - (iteration - warmup) / max(iterations - warmup - 1, 1)
    return settings.lr * max(left, 0.0) ** settings.power


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give all groups one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value
