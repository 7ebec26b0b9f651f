"""`rein train`: settings in, a run folder out."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reincli.commands import console, run_report
from reincli.commands.adapt_page import verdict
from reincli.commands.evaluate import show
from reincli.commands.launching import run_options, started
from reincli.commands.trackers import Subject, check_installed
from reincli.commands.tracking import tracking
from reincli.config import Settings, unused
from reincli.data.sources import Sample, find_samples
from reincli.data.targets import require_apart, require_targets
from reincli.engine.device import DTYPES, kernel_notes, pick_device, pick_precision
from reincli.engine.processes import joined
from reincli.engine.ranks import Rank
from reincli.errors import ReinError
from reincli.media.outputs import at_work
from reincli.media.whole_files import clear_dead_below
from reincli.model.attention import require_attention
from reincli.prediction.evaluate import val_samples
from reincli.settings_files import build_settings, load_settings
from reincli.training.adapt import Adaptation
from reincli.training.changes import changed_settings, remarks
from reincli.training.meter import StepLog
from reincli.training.run import Run, prepare_run
from reincli.training.run_folder import (
    change_settings,
    is_there,
    read_log,
    refuse_existing,
    settings_of_run,
    settings_text,
    start_folder,
)
from reincli.training.train import Due, Watch
from reincli.training.train import train as train_run


def run(
    *,
    preset: str | None = None,
    config: Path | None = None,
    resume: Path | None = None,
    sets: list[str] | None = None,
    backbone: Path | None = None,
    work_dir: Path | None = None,
    data_root: Path | None = None,
    gpus: int = 1,
    precision: str | None = None,
    device: str = "auto",
    any_backbone: bool = False,
) -> Path:
    """Train, or go on with a run; returns the run's folder.

    With several GPUs the command starts itself once for each of them, by `torchrun`; this call does not return.
    """
    words = {
        "--preset": preset, "--config": config, "--resume": resume, "--backbone": backbone, "--work-dir": work_dir,
        "--data-root": data_root, "--precision": precision, "--device": device, "--set": sets,
        "--any-backbone": any_backbone,
    }  # fmt: skip
    rank = started(gpus, device, ["train"], words)
    options = run_options(data_root, precision, backbone)
    if resume is not None:
        if preset or config or work_dir:
            raise ReinError("--resume takes its settings from the run.", "Leave --preset, --config, --work-dir out.",
                            usage=True)  # fmt: skip
        before = settings_of_run(resume)
        settings = build_settings(before.model_dump(mode="json"), sets or [], options)
        folder, changed = resume, changed_settings(before, settings)
    else:
        settings = load_settings(preset, config, sets or [], options)
        folder, changed = work_dir or Path("work_dirs") / settings.name, {}
    if resume is None and settings.adapt.target and not settings.train.start_from:
        raise ReinError(
            f"'{settings.name}' adapts to unlabelled images, which begins with a trained checkpoint.",
            f"Give it one: rein adapt CHECKPOINT {f'--preset {preset}' if preset else f'--config {config}'}",
            usage=True,
        )
    carry_out(
        settings, folder, rank, device, resume=resume is not None, changed=changed, any_backbone=any_backbone
    )
    return folder


def carry_out(
    settings: Settings,
    folder: Path,
    rank: Rank,
    device: str,
    *,
    resume: bool = False,
    changed: dict[str, tuple[Any, Any]] | None = None,
    any_backbone: bool = False,
) -> None:
    """Do what settings say in a run's folder, from its start or from where it stopped; the terminal is told.

    `changed`: settings that are not as in the run so far, see `training.changes.changed_settings`.

    Raises:
        ReinError: what is missing or does not fit, before anything is built where that can be known.
    """
    check_installed(settings)
    place = pick_device(rank.device(device))
    arithmetic = pick_precision(settings.train.precision, place)
    require_attention(settings.model.backbone.attention, place, DTYPES[arithmetic])
    labelled = settings.data.train if not settings.adapt.target or settings.adapt.source else ()
    for source in (*labelled, *settings.data.val):
        find_samples(source, settings.data)  # what is missing is said before anything is built
    if settings.adapt.target:
        for text in require_targets(settings.adapt.target, settings.data, settings.train.batch_size):
            console.note(text)
    settings_text(settings)  # what cannot be kept is said before anything is built
    for text in unused(settings):
        console.note(text)
    if not resume:
        refuse_existing(folder)
        require_apart(settings.adapt.target, folder)
    with joined(rank, place), ExitStack() as stack:
        if resume and rank.rank == 0 and is_there(folder):
            stack.enter_context(at_work(folder, "train"))
        prepared = prepare_run(
            settings, folder, device=place, precision=arithmetic, rank=rank, resume=resume,
            any_backbone=any_backbone,
            note=console.note,
        )  # fmt: skip
        if not resume and rank.rank == 0:
            start_folder(folder, settings)
            stack.enter_context(at_work(folder, "train"))
        if rank.rank == 0:
            clear_dead_below(folder)
            if changed:
                change_settings(folder, settings, prepared.iteration, changed)
        for text in remarks(changed or {}):
            console.note(text)
        introduce(prepared)
        watched_training(prepared)


def introduce(prepared: Run) -> None:
    """What is about to be trained."""
    model, settings = prepared.model, prepared.settings
    total = sum(p.numel() for p in model.parameters())
    parts = {
        name: sum(p.numel() for p in module.parameters()) for name, module in model.trained_modules().items()
    }
    head = sum(parts.get(name, 0) for name in ("pixel_decoder", "mask_decoder", "plain_decoder"))
    shown = [f"{parts[name]:,} {name}" for name in ("rein", "minor", "neck", "backbone") if name in parts]
    processes = f"{prepared.rank.world} x " if prepared.rank.world > 1 else ""
    console.note(
        f"{settings.name}: {settings.model.backbone.name}, training {' + '.join([*shown, f'{head:,} head'])} "
        f"of {total:,} parameters; {processes}{prepared.device}, {prepared.precision}"
    )
    if settings.adapt.target:
        source = ", ".join(settings.data.train) if settings.adapt.source else "no labelled images"
        console.note(
            f"Adapting to {', '.join(settings.adapt.target)} with {source}, from {settings.train.start_from}"
        )
    width = settings.model.head.sampled_width
    for text in kernel_notes(prepared.device, prepared.precision, width, len(prepared.classes)):
        console.note(text)


def watched_training(prepared: Run) -> None:
    """Train with a progress bar, a line a log interval, and a table and a report a validation."""
    settings, folder = prepared.settings, prepared.folder
    first = prepared.rank.rank == 0
    left = settings.train.iterations - prepared.iteration
    if left <= 0 and not Due(prepared).validation_missed():
        console.note(f"Nothing left to do: all {settings.train.iterations} iterations are done.")
        if first:
            run_report.write(folder, settings)  # it may have been stopped after its last validation
        return
    validates = settings.train.validate_every or settings.train.validate_first
    shown = run_report.first_of_each_domain(val_samples(settings)) if validates else []
    trackers = settings.train.trackers if first else ()

    def on_step(log: StepLog) -> None:
        console.note(step_line(log, settings))
        told.step(log)

    def on_prediction(iteration: int, sample: Sample, prediction: np.ndarray) -> None:
        if sample in shown:
            run_report.keep_sample(folder, iteration, sample, prediction, prepared.classes)

    def on_look(iteration: int, number: int, image: Path, prediction: np.ndarray) -> None:
        run_report.keep_target(folder, iteration, number, image, prediction, prepared.classes)

    def on_validation(iteration: int, result: dict[str, Any]) -> None:
        if first:
            show(result, title=f"Iteration {iteration}")
            run_report.write(folder, settings)
            told.validation(iteration, result, folder / run_report.SAMPLES / str(iteration))

    subject = Subject(folder, settings, prepared.iteration)
    with tracking(trackers, subject) as told, console.progress("Training", total=left) as advance:
        watch = Watch(note=console.note, step=on_step, tick=lambda iteration: advance(1), predicted=on_prediction,
                      validating=partial(console.progress, "Validating"), validated=on_validation,
                      looked=on_look)  # fmt: skip
        train_run(prepared, watch, Adaptation(prepared) if settings.adapt.target else None)
    if first:
        run_report.write(folder, settings)
        told_verdict = verdict(read_log(folder)) if settings.adapt.target else None
        if told_verdict is not None:
            console.note(told_verdict)
        console.result(f"Trained: {folder / 'last.pth'}")


def step_line(log: StepLog, settings: Settings) -> str:
    """One line for people."""
    losses = log.losses
    line = (
        f"{log.iteration:>6}/{settings.train.iterations}  loss {losses['loss']:.2f} (class {losses['all_cls']:.2f} "
        f"mask {losses['all_mask']:.2f} dice {losses['all_dice']:.2f}; last round: {losses['loss_cls']:.3f} "
        f"{losses['loss_mask']:.3f} {losses['loss_dice']:.3f})  lr {log.lr:.2e}"
        f"  {log.seconds:.2f} s/it  {log.images:.1f} img/s  waiting {log.waiting:.0%}"
        f"  peak {log.memory / 2**30:.1f} GiB"
    )
    if "pseudo_weight" in losses:
        line += f"  pseudo-labels: weight {losses['pseudo_weight']:.2f} confidence {losses['pseudo_confidence']:.2f}"
    return line + (f"  skipped {log.skipped}" if log.skipped else "")
