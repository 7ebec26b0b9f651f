"""`rein train`: settings in, a run folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reincli.commands import console
from reincli.commands.evaluate import show
from reincli.config import Settings, build_settings, load_settings
from reincli.data.sources import find_samples
from reincli.engine.device import pick_device, pick_precision
from reincli.engine.train import Run, StepLog, Watch, prepare_run, settings_of_run, start_folder
from reincli.engine.train import train as train_run
from reincli.errors import ReinError


def run(
    *,
    preset: str | None = None,
    config: Path | None = None,
    resume: Path | None = None,
    sets: list[str] | None = None,
    backbone: Path | None = None,
    work_dir: Path | None = None,
    data_root: Path | None = None,
    precision: str | None = None,
    device: str = "auto",
) -> Path:
    """Train, or go on with a run; returns the run's folder."""
    options: dict[str, Any] = {
        "data.root": str(data_root) if data_root else None,
        "train.precision": precision,
        "model.backbone.weights": str(backbone) if backbone else None,
    }
    if resume is not None:
        if preset or config or work_dir:
            raise ReinError("--resume takes its settings from the run.", "Leave --preset, --config, --work-dir out.",
                            usage=True)  # fmt: skip
        settings = build_settings(settings_of_run(resume).model_dump(mode="json"), sets or [], options)
        folder = resume
    else:
        settings = load_settings(preset, config, sets or [], options)
        folder = work_dir or Path("work_dirs") / settings.name
    place = pick_device(device)
    arithmetic = pick_precision(settings.train.precision, place)
    for source in (
        *settings.data.train,
        *settings.data.val,
    ):  # what is missing is said before anything is built
        find_samples(source, settings.data)
    if resume is None:
        refuse_existing(folder)
    prepared = prepare_run(
        settings,
        folder,
        device=place,
        precision=arithmetic,
        resume=resume is not None,
        watch=Watch(note=console.note),
    )
    if resume is None:
        start_folder(folder, settings)
    introduce(prepared)
    watched_training(prepared)
    return folder


def refuse_existing(folder: Path) -> None:
    """A finished or stopped run is never overwritten."""
    if (folder / "settings.toml").exists():
        raise ReinError(
            f"There is a run in '{folder}' already.",
            f"Go on with it: rein train --resume {folder}   or choose another folder: --work-dir DIR",
            usage=True,
        )


def introduce(prepared: Run) -> None:
    """What is about to be trained."""
    model, settings = prepared.model, prepared.settings
    total = sum(p.numel() for p in model.parameters())
    parts = {
        name: sum(p.numel() for p in module.parameters()) for name, module in model.trained_modules().items()
    }
    head = parts["pixel_decoder"] + parts["mask_decoder"]
    shown = [f"{parts[name]:,} {name}" for name in ("rein", "neck", "backbone") if name in parts]
    console.note(
        f"{settings.name}: {settings.model.backbone.name}, training {' + '.join([*shown, f'{head:,} head'])} "
        f"of {total:,} parameters; {prepared.device}, {prepared.precision}"
    )


def watched_training(prepared: Run) -> None:
    """Train with a progress bar, a line a log interval, and a table a validation."""
    settings: Settings = prepared.settings
    left = settings.train.iterations - prepared.iteration
    if left <= 0:
        console.note(f"Nothing left to do: all {settings.train.iterations} iterations are done.")
        return

    def on_step(log: StepLog) -> None:
        losses = log.losses
        console.note(
            f"{log.iteration:>6}/{settings.train.iterations}  loss {losses['loss']:.2f} (last round: class "
            f"{losses['loss_cls']:.3f} mask {losses['loss_mask']:.3f} dice {losses['loss_dice']:.3f})  lr {log.lr:.2e}"
            f"  {log.seconds:.2f} s/it  waiting {log.waiting:.0%}  peak {log.memory / 2**30:.1f} GiB"
        )

    def on_validation(iteration: int, result: dict[str, Any]) -> None:
        show(result, title=f"Iteration {iteration}")

    with console.progress("Training", total=left) as advance:
        train_run(
            prepared,
            Watch(
                note=console.note, step=on_step, tick=lambda iteration: advance(1), validated=on_validation
            ),
        )
    console.result(f"Trained: {prepared.folder / 'last.pth'}")
