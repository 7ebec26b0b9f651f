"""Training: the loop; one step of it is `training.step`.

Nothing random is carried from step to step: which image, which crop, which points follow from the seed and the
number of the iteration alone. So a run that was stopped goes on to the same bits on a CPU (a GPU adds gradients
up in no fixed order), and a batch that is divided among processes or slices is the same batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from reincli.config import Settings
from reincli.data.sources import Sample
from reincli.engine.device import full_fp32, is_out_of_memory, release_cache
from reincli.engine.processes import mean_over_processes
from reincli.engine.weight_files import write_file
from reincli.errors import ReinError, Terminated, typed
from reincli.prediction.evaluate import Scored, evaluate, val_samples
from reincli.prediction.predict import Predictor
from reincli.prediction.results import report
from reincli.training import run_folder
from reincli.training.batches import load_batches, require_scorable, train_samples
from reincli.training.changes import changed_surroundings, remarks, surroundings
from reincli.training.meter import Guard, MemoryWatch, Meter, StepLog
from reincli.training.optim import set_schedules
from reincli.training.run import Run, save, state_of_run, write_checkpoint
from reincli.training.signals import StopRequest, stop_requests
from reincli.training.step import train_step

Batch = list[dict[str, Any]]
"""One batch, as slices."""
MEMORY_AFTER = 20
"""Steps after which the peak of memory is told."""
STARVED, STARVED_LINES = 0.2, 3
"""Share of time spent waiting for data, in so many log lines in a row, that is worth a remark."""
FAILURE = "failure.pth"
"""State and batch of a training that gave up, in the run's folder."""


@dataclass(frozen=True)
class Watch:
    """What the caller wants to hear of; training itself prints nothing.

    Attributes:
        note: a remark. step: a log line. tick: the number of steps done, after each.
        predicted: (iteration, sample, (H, W) label map) of every validation image.
        validating: opened for a validation of so many images, gives what is called after each.
        validated: (iteration, result) of a validation.
        looked: (iteration, number, image file, (H, W) label map) of every target image that was looked at.
    """

    note: Callable[[str], None] = lambda text: None
    step: Callable[[StepLog], None] = lambda log: None
    tick: Callable[[int], None] = lambda iteration: None
    predicted: Callable[[int, Sample, np.ndarray], None] = lambda iteration, sample, prediction: None
    validating: Callable[[int], AbstractContextManager[Callable[[], object]]] = lambda total: nullcontext(
        lambda: None
    )
    validated: Callable[[int, dict[str, Any]], None] = lambda iteration, result: None
    looked: Callable[[int, int, Path, np.ndarray], None] = lambda iteration, number, image, prediction: None


class Task:
    """What a run does with its batches: training on labelled images. `adapt.Adaptation` does something else."""

    def batches(self, run: Run, watch: Watch) -> Iterator[list[dict[str, Any]]]:
        """This process's part of each batch to come, as slices; what is missing is said at once.

        `Run.surroundings` become those of the images that are read.
        """
        samples = train_samples(run.settings, watch.note)
        note_surroundings(run, samples)
        return load_batches(samples, run)

    def begin(self, run: Run, watch: Watch) -> None:
        """Before the first of the iterations to come."""

    def step(self, run: Run, slices: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One step of the optimiser; what it gives is averaged for the log."""
        return train_step(run, slices)

    def logged(self, run: Run, watch: Watch) -> None:
        """After a log line."""

    def passed(self, run: Run, watch: Watch) -> bool:
        """After an iteration and what was due with it; whether it took time that is not the training's."""
        return False


def train(run: Run, watch: Watch | None = None, task: Task | None = None) -> None:
    """Train to the last iteration: log, checkpoint and validate on the way.

    Args:
        run: where it stands. watch: what the caller wants to hear of. task: other than training on labelled images.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, with how to go on; the step was finished and a checkpoint saved.
        ReinError: too many steps in a row without a finite gradient; data that cannot be used, a loader that is gone or
            memory that ran out (the steps before are saved first); a checkpoint that cannot be written, where it is the
            last one or `train.stop_unsaved` is set.
    """
    watch, settings, train = watch or Watch(), run.settings, run.settings.train
    task = task or Task()
    batches = task.batches(run, watch)
    for text in remarks(changed_surroundings(run.before, run.surroundings)):
        watch.note(text)
    validation = val_samples(settings) if train.validate_every or train.validate_first else []
    require_scorable(validation, settings)
    begun, due = run.iteration, Due(run)
    memory = MemoryWatch(run.device, run.trained_bytes, run.slice_size)
    meter, guard = Meter(run.device, train.batch_size), Guard(train.stop_after_skipped)
    starved = 0
    run.model.train()
    with stop_requests(insist=run.rank.world == 1) as stop:
        task.begin(run, watch)
        if due.validation_missed():
            validate(run, validation, watch, stop)
        for slices in saved_first(run, batches):
            meter.data_here()
            lr = set_schedules(run.optimizer, settings.optim, run.iteration, train.iterations)
            values = attempted(run, task, slices)
            run.iteration += 1
            meter.add(values)
            watch.tick(run.iteration)
            if guard.too_many(values["skipped"]):
                give_up(run, slices)
            if run.iteration == begun + MEMORY_AFTER:
                watch.note(memory.estimate())
            if due.log():
                entry = meter.flush(run.iteration, lr)
                log_step(run, entry, watch)
                task.logged(run, watch)
                starved = starved + 1 if entry.waiting > STARVED else 0
                if starved == STARVED_LINES:
                    watch.note(starvation(settings, entry.waiting))
            leaving = any(mean_over_processes([float(stop.asked)]))
            if due.checkpoint() or leaving:
                last = leaving or run.iteration == train.iterations
                with tolerated(run, watch, not (last or train.stop_unsaved)):
                    save(run)
            if leaving and run.iteration < train.iterations:
                raise stopped(run, stop)
            if due.validation():
                validate(run, validation, watch, stop)
                meter.restart()
            if task.passed(run, watch):
                meter.restart()


def note_surroundings(run: Run, samples: Sequence[Sample]) -> None:
    """Keep with the run what decides the bits of a step beside its settings."""
    run.surroundings = surroundings(
        samples, run.classes.names, run.device.type, run.precision, run.rank.world
    )


def stopped(run: Run, stop: StopRequest) -> KeyboardInterrupt:
    """How far it came, and how to go on."""
    return (Terminated if stop.terminated else KeyboardInterrupt)(
        f"Saved at iteration {run.iteration}; go on with: rein train --resume {typed(run.folder)}"
    )


@dataclass
class Due:
    """What is to be done after the iteration at which a run stands."""

    run: Run

    def _every(self, interval: int) -> bool:
        done, last = self.run.iteration, self.run.settings.train.iterations
        return done == last or (interval > 0 and done > 0 and done % interval == 0)

    def log(self) -> bool:
        """A log line."""
        return self._every(self.run.settings.train.log_every)

    def validation(self) -> bool:
        """A validation."""
        settings = self.run.settings
        return bool(settings.train.validate_every and settings.data.val) and self._every(
            settings.train.validate_every
        )

    def checkpoint(self) -> bool:
        """Also before each validation: what was validated can be kept as the best."""
        return self.validation() or self._every(self.run.settings.train.checkpoint_every)

    def validation_missed(self) -> bool:
        """Asked for before the first iteration, or cut off by what the run is resumed from."""
        if self.run.iteration == 0:
            return bool(self.run.settings.data.val) and self.run.settings.train.validate_first
        done = [e for e in run_folder.read_log(self.run.folder) if e["kind"] == "validation"]
        return self.validation() and self.run.iteration not in [entry["iteration"] for entry in done]


# --- on the way --------------------------------------------------------------------------------------------


def saved_first(run: Run, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; where the next one cannot be had, a checkpoint is saved before that is said."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except ReinError as error:
            raise saved_before(run, error) from None
        yield batch


def saved_before(run: Run, error: ReinError) -> ReinError:
    """The error once the steps before it are saved, with how to go on; as it is where there is nothing to save."""
    if not run.iteration or (run.folder / f"iter_{run.iteration}.pth").exists():
        return error
    if run.rank.rank == 0:
        write_checkpoint(run)
    hint = f"{error.hint} Saved at iteration {run.iteration}; then: rein train --resume {typed(run.folder)}"
    return ReinError(error.message, hint.strip())


def attempted(run: Run, task: Task, slices: Batch) -> dict[str, Tensor]:
    """A step of a task. ReinError where memory does not suffice, with what takes less."""
    try:
        with full_fp32(run.device):
            return task.step(run, slices)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_cache(run.device)  # what the step had is gone, now that its error is
    # the fused optimiser takes no memory of its own; an adaptation's teacher may stand in its student's place
    whole = bool(run.optimizer.param_groups[0]["fused"]) and not run.settings.adapt.target
    raise saved_before(run, out_of_memory(run)) if whole else out_of_memory(run)


def out_of_memory(run: Run) -> ReinError:
    """What took too much, and what takes less."""
    train, side, images = run.settings.train, run.settings.data.augment.crop, run.slice_size
    less = []
    if images > 1:
        slices = next(n for n in range(2, images + 1) if images % n == 0) * train.accumulate
        less.append(f"--set train.accumulate={slices} (the same training in slices)")
    if not train.checkpoint_activations:
        less.append("--set train.checkpoint_activations=true (a third more time)")
    if run.precision == "fp32" and run.device.type == "cuda":
        less.append("--precision bf16")
    less.append("a smaller backbone or data.augment.crop")
    return ReinError(
        f"Memory ran out in step {run.iteration + 1}, with {images} image{'s'[: images > 1]} of {side}x{side} at a "
        f"time on '{run.device}'.",
        f"Less takes {', or '.join(less)}.",
    )


@contextmanager
def tolerated(run: Run, watch: Watch, tolerant: bool) -> Iterator[None]:
    """What cannot be written (a full disk) is told and training goes on, if so wished; a folder that is gone never."""
    try:
        yield
    except ReinError as error:
        if not tolerant or not run_folder.is_there(run.folder):
            raise
        watch.note(f"{error} Training goes on and tries again at the next chance.")


def log_step(run: Run, entry: StepLog, watch: Watch) -> None:
    """Write a log line and tell of it."""
    if run.rank.rank == 0:
        with tolerated(run, watch, not run.settings.train.stop_unsaved):
            run_folder.append_log(run.folder, {"kind": "step", **vars(entry)})
    watch.step(entry)


def validate(run: Run, samples: list[Sample], watch: Watch, stop: StopRequest) -> dict[str, Any]:
    """Scores of the model as it stands (of its moving average where it has one), logged; the best is kept.

    Raises:
        KeyboardInterrupt: a stop was asked for; a resumed run validates anew.
    """

    run.model.eval()
    average = run.ema.applied() if run.ema is not None else nullcontext()
    with watch.validating(len(run.rank.share(samples))) as advance, average:

        def on_image(scored: Scored) -> None:
            if stop.asked:
                raise stopped(run, stop)
            watch.predicted(run.iteration, scored.sample, scored.prediction)
            advance()

        predictor = Predictor(
            run.model, run.classes, run.settings, run.device, run.precision, in_training=True
        )
        predictor.tell = watch.note
        evaluation = evaluate(predictor, samples, rank=run.rank, on_image=on_image)
    result = report(predictor, evaluation, str(run.folder / f"iter_{run.iteration}.pth"))
    run.model.train()
    if run.rank.rank == 0:
        path = run.folder / f"iter_{run.iteration}.pth"
        with tolerated(run, watch, not run.settings.train.stop_unsaved):
            if path.exists():
                run_folder.keep_best(run.folder, path, run.iteration, result["mean"]["mIoU"])
            # last: a validation that is not in the log is done again, and the best is kept then
            run_folder.append_log(run.folder, {"kind": "validation", "iteration": run.iteration, **result})
    watch.validated(run.iteration, result)
    return result


def starvation(settings: Settings, waiting: float) -> str:
    """What to do about a loader that cannot keep up."""
    return (
        f"{waiting:.0%} of the time goes into waiting for data (data.workers = {settings.data.workers}, "
        f"{os.cpu_count()} cores): give it more workers, or write compact copies: rein prepare-data NAME --cache"
    )


def give_up(run: Run, slices: list[dict[str, Any]]) -> None:
    """Save the state and the batch for looking, and raise ReinError."""
    names = [name for piece in slices for name in piece["name"]]
    path = run.folder / FAILURE
    if run.rank.rank == 0:
        write_file(path, {**state_of_run(run), "batch": slices})
    raise ReinError(
        f"The gradient was not finite in {run.settings.train.stop_after_skipped} steps in a row, up to iteration "
        f"{run.iteration}; no weight was changed by them. The last images were {', '.join(names[:8])}.",
        f"State and batch are in '{path}'. Try a lower optim.lr, train.clip_grad_norm, or --precision "
        f"{'bf16' if run.precision == 'fp16' else 'fp32'}.",
    )
