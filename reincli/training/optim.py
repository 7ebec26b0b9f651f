"""Optimiser, and what its groups follow over time: learning rates and weight decay."""

from __future__ import annotations

import math
from typing import Any

import torch

from reincli.config import OptimSettings
from reincli.model.segmentor import Segmentor

FUSED = ("cpu", "cuda")
"""Types of devices on which all parameters are updated in one step."""


def parameter_groups(model: Segmentor, settings: OptimSettings) -> list[dict[str, Any]]:
    """What the model declares as trained, in the groups of an optimiser.

    Two groups, with and without weight decay; further ones for what has another factor of the learning rate, or no
    weight decay whatever the schedule. Each says its `factor`, and `start`: the weight decay it begins with, None
    where that never changes.
    """
    groups: dict[tuple[float, bool, bool], list[torch.nn.Parameter]] = {
        (1.0, True, False): [],
        (1.0, False, False): [],
    }
    for each in model.trained():
        factor = getattr(settings.factors, each.part)
        groups.setdefault((factor, each.decays, each.pinned), []).append(each.parameter)
    return [
        {
            "params": parameters,
            "lr": settings.lr * factor,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "factor": factor,
            "start": None if pinned else settings.weight_decay if decays else 0.0,
        }
        for (factor, decays, pinned), parameters in groups.items()
    ]


def build_optimizer(model: Segmentor, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over what the model declares as trained, see `parameter_groups`.

    One fused step on the CPU and on CUDA; a plain one elsewhere, where not every PyTorch of the range has the other.
    """
    groups = parameter_groups(model, settings)
    fused = all(p.device.type in FUSED for group in groups for p in group["params"])
    return torch.optim.AdamW(
        groups,
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


def weight_decay(start: float, end: float, iteration: int, iterations: int) -> float:
    """Weight decay in force during an iteration (from 0) of what begins with `start`.

    Half a cosine, end + (start - end) (1 + cos(pi t / T)) / 2, T all iterations. What begins with 0 rises, as in
    SoMA's published training.
    """
    return end + (start - end) * (1 + math.cos(math.pi * iteration / iterations)) / 2


def set_schedules(
    optimizer: torch.optim.Optimizer, settings: OptimSettings, iteration: int, iterations: int
) -> float:
    """Give all groups what is in force during an iteration; returns the learning rate whose factor is 1."""
    rate = learning_rate(settings, iteration, iterations)
    set_learning_rate(optimizer, rate)
    if settings.weight_decay_end is not None:
        for group in optimizer.param_groups:
            if group["start"] is not None:
                group["weight_decay"] = weight_decay(
                    group["start"], settings.weight_decay_end, iteration, iterations
                )
    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give all groups one learning rate, times their factor where they have one."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("factor", 1.0)
