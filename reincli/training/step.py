"""One step of training: losses of the slices of a batch, their gradients, the optimiser.

Nothing random is carried from step to step: which points are drawn and which queries are held to their masks follow
from the seed and the number of the iteration alone, whatever the batch is divided into.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reincli.engine.device import autocast
from reincli.engine.processes import gradients_stay, mean_over_processes
from reincli.model.criterion import (
    PointSource,
    Targets,
    mask2former_loss,
    send,
    targets_of,
    uniform_points,
)
from reincli.model.plain_decoder import MaskDraws, draw_masks, mask_probabilities
from reincli.ops.parts import part
from reincli.training.run import Run

KINDS = ("cls", "mask", "dice")
LOGGED = ("loss", *(f"loss_{kind}" for kind in KINDS), *(f"all_{kind}" for kind in KINDS))
"""Losses in the log: the total, each kind of the last round, and each kind summed over all rounds."""


def train_step(run: Run, slices: list[dict[str, Any]]) -> dict[str, Tensor]:
    """One step of the optimiser on this process's part of a batch.

    Args:
        run: where it stands.
        slices: of the batch, computed one after another; their gradients add up.

    Returns:
        Means over the slices of `LOGGED`, 'grad_norm', and 'skipped', 1 where the gradient was not finite and the
        weights stayed as they were: 0-d tensors on the device.
    """
    targets = [targets_of(piece["label"], run.model.classes, run.device) for piece in slices]
    images = [partial(normalised, run, piece["image"], piece["size"]) for piece in slices]
    run.optimizer.zero_grad(set_to_none=True)
    total = add_gradients(run, images, targets)
    with part("optimiser"):
        norm, skipped = update(run)
    return {**total, "grad_norm": norm, "skipped": skipped}


def add_gradients(
    run: Run,
    images: Sequence[Callable[[], Tensor]],
    targets: Sequence[Targets],
    *,
    turn: int = 0,
    last: bool = True,
) -> dict[str, Tensor]:
    """Losses of the slices of a batch, computed one after another; their gradients are added to those there.

    Args:
        run: where it stands.
        images: gives the normalised images of each slice, (B, 3, H, W).
        targets: of each slice.
        turn: how many such batches the step had before: each draws points of its own.
        last: it has no further one, so processes exchange what has added up.

    Returns:
        Means over the slices of `LOGGED`, 0-d tensors on the device.
    """
    pairs = sum(wanted.divisor for wanted in targets) / len(targets)
    divisor = mean_over_processes([pairs])[0]
    place = run.rank.rank * len(targets)
    total: dict[str, Tensor] = {}
    for number, (image, wanted) in enumerate(zip(images, targets, strict=True)):
        points = step_points(run, turn * run.rank.world * len(targets) + place + number)
        draws = step_masks(run, place + number)
        with gradients_stay(run.network, not last or number < len(targets) - 1):
            losses = slice_losses(run, image(), wanted, points, divisor, draws)
            with part("losses"):
                run.scaler.scale(losses["loss"] / len(targets)).backward()
        for name in LOGGED:
            value = losses[name].detach() / len(targets)
            total[name] = total[name] + value if name in total else value
    return total


def normalised(run: Run, images: Tensor, sizes: Tensor) -> Tensor:
    """Images of a loader on the device as the backbone takes them, see `model.segmentor.Segmentor.normalise`."""
    pinned = (
        run.device.type == "cuda"
    )  # only there the loader pins them, so that the copy may go on by itself
    images = images.to(run.device, non_blocking=pinned)
    return run.model.normalise(images, sizes.to(run.device, non_blocking=pinned))


def slice_losses(
    run: Run,
    images: Tensor,
    targets: Targets,
    points: PointSource,
    divisor: float,
    draws: MaskDraws | None = None,
) -> dict[str, Tensor]:
    """The losses of some normalised images, three a round, their sum, 'loss', and that of each kind, 'all_cls', ...."""
    with autocast(run.precision, run.device):
        predictions = run.network(images) if draws is None else run.network(images, draws=draws)
    count = run.settings.train.points
    with part("losses"):
        losses, _ = mask2former_loss(predictions, targets, points, count=count, divisor=divisor)
        parts = {
            f"all_{kind}": torch.stack(
                [value.detach() for name, value in losses.items() if name.endswith(f"loss_{kind}")]
            ).sum()
            for kind in KINDS
        }
        return {**losses, **parts, "loss": torch.stack(list(losses.values())).sum()}


def update(run: Run) -> tuple[Tensor, Tensor]:
    """Let the optimiser step, unless the gradient is not finite: its norm, and 1 where it was skipped (0-d)."""
    run.scaler.unscale_(run.optimizer)
    gradients = [parameter.grad for parameter in run.trained if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    limit = run.settings.train.clip_grad_norm
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(run.trained, limit, norm)
    skipped = (~norm.isfinite()).float()
    if run.scaler.is_enabled():
        run.scaler.step(run.optimizer)
        run.scaler.update()
    elif run.optimizer.param_groups[0]["fused"]:
        run.optimizer.found_inf = skipped  # type: ignore[attr-defined]  # the fused step looks at it on the device
        run.optimizer.step()
    elif not bool(skipped):  # the plain step does not look: the host has to wait and see
        run.optimizer.step()
    if run.ema is not None:
        run.ema.update(run.iteration)
    return norm, skipped


def step_points(run: Run, number: int = 0) -> PointSource:
    """Random points of one slice of one step, counted over all processes: from seed and iteration alone."""
    return uniform_points(run.device, run.settings.train.seed * 1_000_003 + run.iteration + number * 2**40)


def step_masks(run: Run, number: int = 0) -> MaskDraws | None:
    """Which queries of one slice are held to their masks in this step, as `step_points`; None for other heads.

    They are drawn for the whole batch: an image's rows do not hang on how the batch is divided.
    """
    decoder, train = run.model.plain_decoder, run.settings.train
    if decoder is None:
        return None
    probabilities = mask_probabilities(len(decoder.layers), run.iteration, train.iterations)
    adapter, head = run.settings.model.adapter, run.settings.model.head
    queries = adapter.tokens if decoder.queries is None else head.queries
    opened, stretch = draw_masks(probabilities, train.batch_size, queries, (train.seed, run.iteration))
    own = opened[:, number * run.slice_size : (number + 1) * run.slice_size]
    return MaskDraws(send(np.ascontiguousarray(own), run.device), send(stretch, run.device))
