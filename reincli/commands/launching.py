"""How a training command begins: one process a GPU, and the settings that its own options stand for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reincli.commands import console
from reincli.engine.ranks import Rank, launched, this_rank
from reincli.errors import ReinError


def started(gpus: int, device: str, command: Sequence[str], options: Mapping[str, Any]) -> Rank:
    """This process among those that work together; only the first one tells.

    With several GPUs the command starts itself once for each of them, and this call does not return.

    Args:
        gpus, device: as asked for. command: its name and what it is given without an option's name.
        options: what it is given besides, see `as_typed`.
    """
    if gpus > 1 and not launched():
        launch(gpus, device, [*command, *as_typed(options)])
    rank = this_rank()
    if rank.rank > 0:
        console.configure(quiet=True)
    return rank


def run_options(data_root: Path | None, precision: str | None, backbone: Path | None) -> dict[str, Any]:
    """Settings that a training command has options of its own for; None: as they are."""
    return {
        "data.root": str(data_root) if data_root else None,
        "train.precision": precision,
        "model.backbone.weights": str(backbone) if backbone else None,
    }


def as_typed(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed: those that have a value, each of a list, a switch by its name alone."""
    words: list[str] = []
    for name, value in options.items():
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            each = value if isinstance(value, list | tuple) else [value]
            words += [text for one in each for text in (name, str(one))]
    return words


def launch(gpus: int, device: str, words: Sequence[str]) -> None:
    """Become `torchrun` with this command, `rein` and these words, in every process.

    On Windows, where no program becomes another, it is started and waited for.

    Raises:
        ReinError: there are fewer GPUs, or all processes would be on one.
    """
    if device.startswith("cuda:"):
        raise ReinError(
            f"--gpus {gpus} is a process on each of {gpus} GPUs, and --device {device} is one of them.",
            "Leave one out. CUDA_VISIBLE_DEVICES=0,1 chooses which GPUs are seen.",
            usage=True,
        )
    if device != "cpu":
        import torch

        there = torch.cuda.device_count()
        if gpus > there:
            raise ReinError(
                f"--gpus {gpus} was asked for, but PyTorch sees {there}.",
                "Give a smaller number; with --device cpu that many processes share the CPU.",
                usage=True,
            )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}",
               "-m", "reincli", *words]  # fmt: skip
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // gpus)))
    sys.stdout.flush()
    if os.name == "nt":
        raise SystemExit(subprocess.call(command))
    os.execv(sys.executable, command)
