"""`rein adapt`: a trained checkpoint and unlabelled images in, a run folder out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reincli.commands import console
from reincli.commands.launching import run_options, started
from reincli.commands.train import carry_out
from reincli.config import DataSettings, Settings
from reincli.data.sources import classes_of, find_samples
from reincli.data.targets import find_targets
from reincli.engine.checkpoint import Checkpoint, read_checkpoint, settings_for
from reincli.errors import ReinError
from reincli.settings_files import build_settings, load_settings

VALIDATIONS = 5
"""Where the checkpoint was trained without validations, an adaptation has so many."""


def run(
    checkpoint: Path,
    *,
    target: list[str] | None = None,
    source: list[str] | None = None,
    preset: str | None = None,
    config: Path | None = None,
    sets: list[str] | None = None,
    backbone: Path | None = None,
    work_dir: Path | None = None,
    data_root: Path | None = None,
    gpus: int = 1,
    precision: str | None = None,
    device: str = "auto",
    any_backbone: bool = False,
) -> Path:
    """Adapt a checkpoint to unlabelled images; returns the run's folder. `rein train --resume` goes on with it.

    Settings are those of the preset or file, else those that the checkpoint was trained with. Of the latter, what is
    not at hand is left out and said: labelled sources (the target alone is trained on then) and scored sources.
    """
    words = {
        "--target": target, "--source": source, "--preset": preset, "--config": config, "--backbone": backbone,
        "--work-dir": work_dir, "--data-root": data_root, "--precision": precision, "--device": device, "--set": sets,
        "--any-backbone": any_backbone,
    }  # fmt: skip
    rank = started(gpus, device, ["adapt", str(checkpoint)], words)
    read = read_checkpoint(checkpoint)
    options: dict[str, Any] = {
        "train.start_from": str(checkpoint),
        "adapt.target": target or None,
        "data.train": source or None,
        **run_options(data_root, precision, backbone),
    }
    if preset or config:
        settings = build_settings(load_settings(preset, config).model_dump(mode="json"), sets or [], options)
    else:
        settings = of_checkpoint(read, backbone, sets or [], options)
    if not settings.adapt.target:
        raise ReinError(
            "No unlabelled images were named.",
            "Name them: --target FOLDER, a dataset (cityscapes:train), or a video; may be repeated.",
            usage=True,
        )
    require_same_classes(read, settings)
    tell_overlap(settings)
    folder = work_dir or Path("work_dirs") / settings.name
    carry_out(settings, folder, rank, device, any_backbone=any_backbone)
    return folder


def of_checkpoint(
    read: Checkpoint, backbone: Path | None, sets: Sequence[str], options: dict[str, Any]
) -> Settings:
    """The settings that a checkpoint was trained with, as those of an adaptation."""
    notes: list[str] = []
    trained = settings_for(read, None, backbone, notes=notes)
    for text in notes:
        console.note(text)
    raw = trained.model_dump(mode="json")
    name = (trained.name or read.path.stem).removesuffix("-adapt")
    raw |= {"name": f"{name}-adapt", "description": f"{name}, adapted to unlabelled images", "published": {}}
    raw["train"] |= {"ema_decay": None, "ema_from": None, "validate_first": True}
    raw["train"]["validate_every"] = trained.train.validate_every or max(
        1, trained.train.iterations // VALIDATIONS
    )
    settings = build_settings(raw, sets, options)
    changed = dict(options)
    if settings.adapt.source and options["data.train"] is None:
        missing = first_missing(settings.data.train, settings.data)
        if missing is not None:
            console.problem(
                f"Without labelled images ({missing}) the target alone is trained on, which is weaker. "
                "Name others with --source NAME:SPLIT."
            )
            changed["adapt.source"] = False
    there = [each for each in settings.data.val if first_missing((each,), settings.data) is None]
    if len(there) < len(settings.data.val):
        gone = ", ".join(each for each in settings.data.val if each not in there)
        console.note(f"Not scored, as it is not at hand: {gone}.")
        changed |= {"data.val": there}
        raw["data"]["mean"] = None
        raw["train"] |= {"validate_first": bool(there)}
    return build_settings(raw, sets, changed)


def first_missing(sources: Sequence[str], data: DataSettings) -> str | None:
    """Why the first of some labelled sources that is not there cannot be used; None: all are there."""
    for source in sources:
        try:
            find_samples(source, data)
        except ReinError as error:
            return error.message.rstrip(".")
    return None


def require_same_classes(read: Checkpoint, settings: Settings) -> None:
    """ReinError where a checkpoint knows other classes than the labelled sources."""
    wanted = classes_of(settings.data)
    if read.classes is not None and read.classes.names != wanted.names:
        theirs, ours = ", ".join(read.classes.names[:3]), ", ".join(wanted.names[:3])
        raise ReinError(
            f"'{read.path}' has {len(read.classes)} classes ({theirs}, …), its sources "
            f"{', '.join(settings.data.train)} have {len(wanted)} ({ours}, …).",
            "Name sources with the checkpoint's own classes: --source NAME:SPLIT.",
            usage=True,
        )


def tell_overlap(settings: Settings) -> None:
    """Say so where images that are adapted to are scored as well, or learnt with their labels; files are compared."""
    found = find_targets(settings.adapt.target, settings.data)
    targets = {os.path.realpath(sample.image) for sample in found.samples}
    told = {
        "adapted to and scored ({}): the score is not one of images that were held out.": settings.data.val,
        "adapted to and learnt with labels ({}): a target that the labels are of teaches little.":
            settings.data.train if settings.adapt.source else (),
    }  # fmt: skip
    for text, sources in told.items():
        for source in sources:
            samples = find_samples(source, settings.data)
            shared = sum(os.path.realpath(sample.image) in targets for sample in samples)
            if shared:
                console.note(f"{source} is {text.format(f'{shared} of {len(samples)} images')}")
