"""What is measured while training: losses, time, waiting, memory. Nothing here makes the host wait for the device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from reincli.engine.device import available_memory, memory_in_use, peak_memory
from reincli.engine.processes import mean_over_processes


@dataclass(frozen=True)
class StepLog:
    """Means since the last log line, over all processes.

    Attributes:
        iteration: number of steps done. losses: by name; 'loss' is the total.
        grad_norm: Euclidean norm of the gradient; None where a step was skipped.
        skipped: steps whose gradient was not finite. lr: learning rate. seconds: a step. images: a second.
        waiting: share of the time spent waiting for data, 0 to 1. memory: peak in bytes.
    """

    iteration: int
    losses: dict[str, float]
    grad_norm: float | None
    skipped: int
    lr: float
    seconds: float
    images: float
    waiting: float
    memory: int


class Meter:
    """Means between log lines. Losses are added up on the device and copied once a line.

    Args:
        device: where the losses are. batch_size: images of a step, over all processes.
    """

    def __init__(self, device: torch.device, batch_size: int) -> None:
        self.device, self.batch_size = device, batch_size
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch: time that passed before does not count."""
        self.total: dict[str, Tensor] = {}
        self.steps = 0
        self.waited = 0.0
        self.begun = self.ready = time.perf_counter()

    def data_here(self) -> None:
        """The next batch has come."""
        self.waited += time.perf_counter() - self.ready

    def add(self, values: dict[str, Tensor]) -> None:
        """A step is done."""
        for name, value in values.items():
            self.total[name] = self.total[name] + value if name in self.total else value
        self.steps += 1
        self.ready = time.perf_counter()

    def flush(self, iteration: int, lr: float) -> StepLog:
        """The stretch's means; a new one begins."""
        values = (torch.stack(list(self.total.values())) / self.steps).tolist()
        passed = time.perf_counter() - self.begun
        *values, waiting = mean_over_processes([*values, self.waited / passed])
        losses = dict(zip(self.total, values, strict=True))
        skipped, norm = round(losses.pop("skipped", 0.0) * self.steps), losses.pop("grad_norm", None)
        seconds = passed / self.steps
        entry = StepLog(iteration, losses, None if skipped else norm, skipped, lr, seconds, self.batch_size / seconds,
                        waiting, peak_memory(self.device))  # fmt: skip
        self.restart()
        return entry


class MemoryWatch:
    """Tells, after the first steps, how many images at a time would fit.

    Args:
        device: of the model. trained: bytes of the parameters that train. images: computed at a time.
    """

    def __init__(self, device: torch.device, trained: int, images: int) -> None:
        self.device, self.images = device, images
        self.state = 3 * trained  # gradients and the optimiser's two moments come with the first step
        self.base, self.free = memory_in_use(device), available_memory(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def estimate(self) -> str:
        """One sentence: the peak so far, and the largest number of images at a time."""
        peak = peak_memory(self.device)
        said = (
            f"Peak memory {peak / 2**30:.1f} GiB with {self.images} image{'s'[: self.images > 1]} at a time"
        )
        if self.free is None:
            return said + "."
        each = max(peak - self.base - self.state, 1) / self.images
        largest = int((0.95 * self.free - self.state) / each)
        return said + f"; about {max(largest, self.images)} would fit."


class Guard:
    """Notices steps whose gradient was not finite, one step later, so that the host need not wait for the device.

    Args:
        limit: how many in a row are too many.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_a_row = 0
        self._pending: tuple[Tensor, torch.cuda.Event | None] | None = None

    def too_many(self, skipped: Tensor) -> bool:
        """Take note of a step's flag (0-d, 1 where it was skipped); true once `limit` before it were skipped."""
        if self._pending is not None:
            flag, event = self._pending
            if event is not None:
                event.synchronize()  # recorded before this step's matching, which has been waited for
            self.in_a_row = self.in_a_row + 1 if bool(flag) else 0
        if skipped.device.type == "cuda":
            host = torch.empty((), dtype=skipped.dtype, pin_memory=True)
            host.copy_(skipped, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending = (host, event)
        else:
            self._pending = (skipped, None)
        return self.in_a_row >= self.limit
