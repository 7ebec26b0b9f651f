"""`rein demo`: the whole path on generated streets, in three to four minutes on a CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reincli.commands import console, convert_weights, evaluate, run_report, train, visualize
from reincli.commands.label_maps import place
from reincli.config import Settings
from reincli.data.dataset import load_label
from reincli.data.labels import CITYSCAPES
from reincli.data.sources import Sample, label_table
from reincli.errors import ReinError
from reincli.generated.streets import write_scenes
from reincli.media.images import read_image, read_label, write_png
from reincli.media.outputs import Outputs, mark
from reincli.media.paint import colourise, legend, overlay, present, sheet, text_height
from reincli.prediction.evaluate import val_samples
from reincli.prepare.prepare import prepare
from reincli.settings_files import build_settings, read_preset
from reincli.training.run_folder import settings_of_run

TRAIN, VAL, TARGETS, SEED = 72, 8, 5, 0
"""Streets to train on, to validate on, and of each of the four target domains; the seed of all."""
CELL = 480
"""Width of a picture on the contact sheet in pixels."""


def run(*, out: Path, iterations: int | None = None) -> None:
    """Generate, prepare, convert, train, evaluate, draw. What is done already is not done again.

    Raises:
        ReinError: the folder holds a demo of another length, or cannot be written.
    """
    begun = time.perf_counter()
    folder = out / "work_dirs" / "demo"
    settings = demo_settings(out, iterations)
    refuse_another_length(folder, settings)

    step("1/5 Generating streets and preparing their labels (rein prepare-data)", out / "data")
    generate(out, TRAIN, VAL, TARGETS)
    step("2/5 Converting weights (rein convert-weights)", backbone_file(out))
    convert(out, settings)
    step("3/5 Training (rein train)", folder)
    train_or_go_on(out, folder, iterations)
    step("4/5 Evaluating (rein eval)", out / "predictions")
    checkpoint = folder / "last.pth"
    evaluate.run(checkpoint, data_root=out / "data", device="cpu", precision="fp32", out=out / "predictions",
                 json_file=out / "scores.json")  # fmt: skip
    step("5/5 Drawing (rein visualize)", out / "show")
    samples = val_samples(settings)
    chosen = run_report.first_of_each_domain(samples)
    visualize.run([str(sample.image) for sample in chosen], checkpoint=checkpoint, out=out / "show", force=True,
                  device="cpu", precision="fp32", size=settings.test.sizes["cityscapes"])  # fmt: skip
    contact_sheet(out / "contact_sheet.png", settings, chosen, {"prediction": out / "predictions"})
    closing(out, folder, time.perf_counter() - begun)


def generate(out: Path, train: int, val: int, targets: int) -> None:
    """Draw streets under the demo's folder and prepare their labels; what is there stays."""
    with console.progress("Generating", total=train + val + 4 * targets) as advance:
        write_scenes(out / "data", train=train, val=val, targets=targets, seed=SEED, on_file=lambda: advance(1),
                     workers=min(4, os.cpu_count() or 1))  # fmt: skip
    for dataset in ("cityscapes", "acdc"):
        prepare(dataset, out / "data" / dataset)


def demo_settings(out: Path, iterations: int | None) -> Settings:
    """The preset `demo` under the demo's own folder."""
    options = {
        "data.root": str(out / "data"),
        "model.backbone.weights": str(backbone_file(out)),
        "train.iterations": iterations,
    }
    return build_settings(read_preset("demo"), (), options)


def backbone_file(out: Path) -> Path:
    """Converted backbone of the demo."""
    return out / "checkpoints" / "mini_converted.pth"


def refuse_another_length(folder: Path, settings: Settings) -> None:
    """A demo of other settings is not mixed with this one."""
    if not (folder / "settings.toml").exists():
        return
    there = settings_of_run(folder)
    if there.train.iterations != settings.train.iterations:
        raise ReinError(
            f"'{folder}' holds a demo of {there.train.iterations} iterations; now {settings.train.iterations} "
            "were asked for.",
            f"Go on with it: --iters {there.train.iterations}. Or begin in another folder: --out DIR",
            usage=True,
        )


def step(text: str, where: Path) -> None:
    """Say what comes now and where it goes."""
    console.note(f"{text} -> {where}")


def convert(out: Path, settings: Settings) -> None:
    """Fit the small backbone that comes with this package to the run, as a real one is fitted."""
    target = backbone_file(out)
    if not target.exists():
        size, patch = settings.data.augment.crop, settings.model.backbone.patch_size
        convert_weights.run(
            None, target, height=size, width=size, patch=patch, kind=settings.model.backbone.name
        )


def train_or_go_on(out: Path, folder: Path, iterations: int | None, sets: list[str] | None = None) -> None:
    """Train, continue a stopped run, or leave a finished one alone."""
    if (folder / "last.pth").exists():
        train.run(resume=folder, device="cpu", precision="fp32")
        return
    if folder.exists():  # stopped before its first checkpoint: nothing to go on from
        for name in ("settings.toml", "log.jsonl"):
            (folder / name).unlink(missing_ok=True)
    sets = [*(sets or []), *([f"train.iterations={iterations}"] if iterations else [])]
    train.run(preset="demo", sets=sets, backbone=backbone_file(out), work_dir=folder, data_root=out / "data",
              device="cpu", precision="fp32")  # fmt: skip


def contact_sheet(
    file: Path, settings: Settings, samples: Sequence[Sample], predictions: Mapping[str, Path]
) -> None:
    """One picture: domains in rows; image, label and predictions in columns.

    Args:
        file: where it is written. settings: of the labels. samples: a row each.
        predictions: folder of label maps as `rein eval --out` writes them, by the name over the column.
    """
    palette = CITYSCAPES.palette()
    rows: list[list[np.ndarray]] = []
    seen: set[int] = set()
    for sample in samples:
        image = read_image(sample.image)
        label = load_label(sample, label_table(sample.dataset, settings.data))
        maps = [read_label(folder / place(sample, sample.domain)) for folder in predictions.values()]
        rows.append(
            [image, colourise(label, palette), *(overlay(image, each, palette, 0.65) for each in maps)]
        )
        seen.update(number for each in (label, *maps) for number in present(each))
    names = ["image", "label", *predictions]
    height = text_height((CELL // 2, CELL))
    footer = legend(sorted(seen), CITYSCAPES.names, palette, len(names) * CELL, height)
    picture = sheet(rows, names, [sample.domain for sample in samples], footer=footer, cell_width=CELL)
    Outputs("demo", []).claim(file)
    write_png(file, picture, mark=mark("demo"))


def closing(out: Path, folder: Path, seconds: float) -> None:
    """Where things are, what they can show, and what comes next."""
    lines: list[Any] = [
        f"Done in {console.duration(seconds)}.",
        f"  contact sheet  {out / 'contact_sheet.png'}",
        f"  overlays       {out / 'show'}",
        f"  scores         {out / 'scores.json'}",
        f"  run            {folder}",
        "",
        "The backbone is small, learnt from generated worlds alone, and stayed frozen; adapters and head saw fewer",
        "than a thousand crops of clear weather. Large surfaces are what they can find, at night and in fog too.",
        "Whether that is the adapters' doing: rein demo --ladder. With real data:",
        "  rein doctor                          what is in place, and what is missing",
        "  rein prepare-data cityscapes         labels of the datasets you have",
        "  rein train --preset gta2citys        the main setting",
        "  rein visualize YOUR_IMAGES           pictures with released weights",
    ]
    console.result("\n".join(lines))
