"""The state of training in a checkpoint, checked before any of it is used: PyTorch checks little, and the fused
optimiser writes where the shapes of its state say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reincli.engine.checkpoint import Checkpoint, read_checkpoint
from reincli.engine.validation import damaged
from reincli.errors import ReinError, typed
from reincli.training.run_folder import LAST, numbered

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter, in its shape."""


def newest_whole(folder: Path) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that a run goes on from: `last.pth`, or where that is damaged or gone the newest that is whole.

    Returns:
        It, and a remark where it is not `last.pth`.

    Raises:
        ReinError: the run has none yet, or none that can be read.
    """
    last, others = folder / LAST, numbered(folder)
    anew = (
        f"Begin anew in another folder: rein train --config {typed(folder / 'settings.toml')} --work-dir DIR"
    )
    if not last.exists() and not others:
        raise ReinError(f"'{folder}' has no checkpoint yet.", anew)
    what = "is not there"
    try:
        if last.exists():
            return read_checkpoint(last), []
    except ReinError as error:
        what = f"cannot be used ({error.message.rstrip('.')})"
    for path in others:
        try:
            read = read_checkpoint(path)
        except ReinError:
            continue
        if read.training is not None:
            return read, [f"'{last}' {what}; going on from the newest whole checkpoint, '{path}'."]
    tried = f", and none of the {len(others)} other checkpoints in '{folder}' is whole" if others else ""
    raise ReinError(f"'{last}' {what}{tried}.", f"Bring back a copy of one, as '{last}'. {anew}")


def iteration_in(training: Mapping[str, Any], path: Path | str) -> int:
    """How far the run came. ReinError where that is no whole number."""
    value = training.get("iteration")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise damaged(path, "its state of training does not say how many iterations were done")
    return value


def load_optimizer(optimizer: torch.optim.Optimizer, saved: object, path: Path | str) -> None:
    """Take over the moments; learning rate, betas and weight decay stay as the settings say now.

    Raises:
        ReinError: parameters missing or too many, shapes that differ, numbers that are none.
    """
    own = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = saved.get("state") if isinstance(saved, Mapping) else None
    groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
    if not isinstance(state, Mapping) or not isinstance(groups, list):
        raise damaged(path, "the state of its optimiser is no table")
    counts = [len(group["params"]) if _has_list(group) else -1 for group in groups]
    expected = [len(group["params"]) for group in own]
    if -1 not in counts and counts != expected and sum(counts) == sum(expected):
        raise ReinError(
            f"The optimiser's state in '{path}' has other groups than the settings ask for.",
            "Go on with the factors of the learning rate (optim.factors) that the run was started with.",
        )
    if counts != expected:
        raise damaged(path, f"the state of its optimiser is of other parameters ({counts})")
    if set(state) - set(range(len(parameters))):
        raise damaged(path, "the state of its optimiser is of parameters that are not there")
    for index, kept in state.items():
        complaint = _complaint(kept, parameters[index])
        if complaint:
            raise damaged(path, f"the state of its optimiser for parameter {index} {complaint}")
    plain = {index: {name: kept[name] for name in ("step", *MOMENTS)} for index, kept in state.items()}
    optimizer.load_state_dict({"state": plain, "param_groups": own})


def _has_list(group: object) -> bool:
    return isinstance(group, Mapping) and isinstance(group.get("params"), list)


def _complaint(kept: object, parameter: nn.Parameter) -> str:
    if not isinstance(kept, Mapping):
        return "is no table"
    for name in MOMENTS:
        moment = kept.get(name)
        if (
            not isinstance(moment, Tensor)
            or moment.shape != parameter.shape
            or not moment.is_floating_point()
        ):
            return f"has no '{name}' in the shape {list(parameter.shape)}"
        if not bool(torch.isfinite(moment).all()) or (name == "exp_avg_sq" and bool((moment < 0).any())):
            return f"has numbers in '{name}' that cannot be"
    step = kept.get("step")
    if isinstance(step, Tensor) and step.numel() == 1 and step.ndim == 0:
        step = step.item()
    if isinstance(step, bool) or not isinstance(step, int | float) or not math.isfinite(step) or step < 0:
        return "does not say how many steps were done"
    return ""


def load_scaler(scaler: torch.amp.GradScaler, saved: object, path: Path | str) -> None:
    """Take over the scale of fp16; nothing where it is not used, or the run did not use it before.

    Raises:
        ReinError: numbers that cannot be.
    """
    if not scaler.is_enabled() or saved == {}:
        return
    expected = scaler.state_dict()
    if not isinstance(saved, Mapping) or set(saved) != set(expected):
        raise damaged(path, "the state of its gradient scaler is not whole")
    for name, value in saved.items():
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value < 0 or (value == 0 and name != "_growth_tracker"):
            raise damaged(path, f"its gradient scaler has the '{name}' {value!r}")
    scaler.load_state_dict(dict(saved))


def load_weights(parameters: Mapping[str, nn.Parameter], saved: object, path: Path | str) -> None:
    """The weights that train, beside their moving average.

    Raises:
        ReinError: one is missing, of another shape, or not finite.
    """
    if not isinstance(saved, Mapping):
        raise damaged(path, "its trained weights are no table")
    for name, parameter in parameters.items():
        value = saved.get(name)
        if not isinstance(value, Tensor) or value.shape != parameter.shape or not value.is_floating_point():
            raise damaged(path, f"its trained weights have no '{name}' in the shape {list(parameter.shape)}")
        if not bool(torch.isfinite(value).all()):
            raise damaged(path, f"its trained weights are not finite in '{name}'")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
