"""Telling trackers of a training, without ever waiting for one or failing with one.

Each tracker lives in a thread of its own and is told by a queue: a server that does not answer delays nothing. One that
fails is told of once and left; the run's own log has everything all the same.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reincli.commands import console
from reincli.commands.trackers import Subject, Tracker, start
from reincli.config import TrackerName
from reincli.training.meter import StepLog

PATIENCE = 60.0
"""Seconds that the end of a training waits for all trackers together to write what is left."""

Job = Callable[[Tracker], None]


class _Told(threading.Thread):
    """One tracker's thread. `remarks` are for the user, to be shown by the thread that trains."""

    def __init__(self, name: TrackerName, subject: Subject) -> None:
        super().__init__(name=f"tracker {name}", daemon=True)  # a server that hangs must not keep the program
        self.tracker_name, self.subject = name, subject
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.remarks: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self) -> None:
        """Open the tracker and do what comes, to the end or to the first failure."""
        try:
            tracker = start(self.tracker_name, self.subject)
            self.remarks.put(f"{self.tracker_name}: {tracker.where}")
            while (job := self.jobs.get()) is not None:
                job(tracker)
        except BaseException as error:  # whatever a tracker's package does, also exit, ends the tracker alone
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.remarks.put(
                f"{self.tracker_name} failed and is told no more; training goes on, log.jsonl has everything: "
                f"{reason}"
            )


class Tracking:
    """All trackers of a run; with none it does nothing. Made by `tracking`."""

    def __init__(self, names: tuple[TrackerName, ...], subject: Subject) -> None:
        self.threads = [_Told(name, subject) for name in names]
        for thread in self.threads:
            thread.start()

    def step(self, log: StepLog) -> None:
        """A log line."""
        values = {f"train/{name}": value for name, value in log.losses.items()}
        values |= {"train/lr": log.lr, "train/skipped": float(log.skipped)}
        values |= {
            "speed/images": log.images,
            "speed/waiting": log.waiting,
            "speed/memory": float(log.memory),
        }
        self._scalars({**values, "train/grad_norm": log.grad_norm}, log.iteration)

    def validation(self, iteration: int, result: dict[str, Any], samples: Path) -> None:
        """Scores of a validation by domain, and the pictures `DOMAIN.jpg` in a folder."""
        values = {f"mIoU/{name}": domain["mIoU"] for name, domain in result["domains"].items()}
        self._scalars({**values, "mIoU/mean": result["mean"]["mIoU"]}, iteration)
        files = {f"samples/{file.stem}": file for file in sorted(samples.glob("*.jpg"))}
        if files:
            self._tell(lambda tracker: tracker.pictures(files, iteration))

    def _scalars(self, values: dict[str, float | None], iteration: int) -> None:
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        self._tell(lambda tracker: tracker.scalars(finite, iteration))

    def _tell(self, job: Job) -> None:
        for thread in self.threads:
            if thread.is_alive():
                thread.jobs.put(job)
        self.show_remarks()

    def show_remarks(self) -> None:
        """What trackers have to say, from the thread that owns the terminal."""
        for thread in self.threads:
            while not thread.remarks.empty():
                console.note(thread.remarks.get())

    def close(self, status: str) -> None:
        """Let them write what is left, for a minute at most."""
        for thread in self.threads:
            thread.jobs.put(lambda tracker: tracker.close(status))
            thread.jobs.put(None)
        until = time.monotonic() + PATIENCE
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))
        self.show_remarks()
        for thread in self.threads:
            if thread.is_alive():
                console.note(
                    f"{thread.tracker_name} has not taken everything within {PATIENCE:.0f} s and is left; "
                    "log.jsonl has everything."
                )


@contextmanager
def tracking(names: tuple[TrackerName, ...], subject: Subject) -> Iterator[Tracking]:
    """Trackers while a training runs; they are told how it ended."""
    told = Tracking(names, subject)
    status = "failed"
    try:
        yield told
        status = "finished"
    except KeyboardInterrupt:
        status = "stopped"
        raise
    finally:
        told.close(status)
