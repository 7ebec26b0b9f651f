"""`rein demo --ladder`: the same small backbone trained in five ways, side by side.

The rows of the method's own comparison (arXiv 2312.04265, table 2) in miniature: one recipe, one head, clear streets to
train on; scored on clear streets and on what none of the models has seen.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reincli.commands import console, demo, evaluate, run_report
from reincli.config import Settings
from reincli.data.sources import dataset_root, label_table
from reincli.data.statistics import look_up, update_statistics
from reincli.media.whole_files import write_bytes
from reincli.prediction.evaluate import val_samples
from reincli.settings_files import build_settings
from reincli.training.batches import train_samples

TUNES = ("full", "frozen", "rein", "soma", "recycle")
"""What trains: all; the head alone; adapters and head; minor directions of the backbone, in two ways, and head."""
STREETS = {"train": 600, "val": 60, "targets": 40}
"""More than the demo's, so that the spread of three seeds is not the spread of a few images."""
ITERATIONS = 3000
LONGER = (
    "model.head.kind=mask2former",  # the head of the published scores
    "data.augment.photometric=true",
    # Two-wheelers, riders, fences have three pixels in a thousand each: crops drawn by chance hardly show them.
    "data.rare_class_sampling=true",
    "data.rare_class_temperature=0.03",
    "data.rare_class_pixels=100",
    "train.points=2048",  # 512 of them are two or three on a thing of a hundred pixels
    # The middle of the sizes that training crops are cut from: 0.9 to 1.5 times 256x128.
    "test.sizes.cityscapes=320x160",
    "test.sizes.acdc=320x160",
)
"""What the demo has otherwise, or leaves out for want of time."""
CLEAR = "cityscapes"
TARGETS = ("night", "fog", "rain", "snow")


@dataclass
class Scored:
    """mIoU in percent over the classes that occur, by domain, of one model."""

    tune: str
    seed: int
    domains: dict[str, float]

    @property
    def targets(self) -> float:
        """Mean of the four targets."""
        return statistics.fmean(self.domains[name] for name in TARGETS)


def run(*, out: Path, iterations: int | None = None, seeds: int = 1, own: Path | None = None) -> list[Scored]:
    """Train a model of each kind a seed, score them, print the table, draw what they see; done work is not done again.

    Args:
        out: folder of the streets, the runs and the table. iterations: of each training.
        seeds: how often, each with its own weights of head and adapters and its own crops.
        own: TOML file of own labelled images with the Cityscapes classes, which are scored too, never trained on.

    Raises:
        ReinError: the folder holds trainings of another length, or cannot be written; own images that do not fit.
    """
    begun = time.perf_counter()
    iterations = iterations or ITERATIONS
    settings = ready(out, own, iterations, seeds)
    demo.step(f"1/2 Generating {STREETS['train']} streets to train on", out / "ladder" / "data")
    demo.generate(out / "ladder", **STREETS)
    count_classes(settings)
    demo.convert(out / "ladder", settings)
    rows: list[Scored] = []
    total = seeds * len(TUNES)
    for seed in seeds_of(settings, seeds):
        for tune in TUNES:
            demo.step(
                f"2/2 Training {len(rows) + 1} of {total}: {tune}, seed {seed}", folder_of(out, tune, seed)
            )
            rows.append(one(out, tune, seed, iterations, own))
    table(rows)
    runs = [{"tune": row.tune, "seed": row.seed, "targets": row.targets, **row.domains} for row in rows]
    write_bytes(out / "ladder.json", json.dumps({"iterations": iterations, "runs": runs}, indent=1).encode())
    draw(out, settings)
    console.note(f"Done in {console.duration(time.perf_counter() - begun)}.")
    console.result(f"  scores         {out / 'ladder.json'}\n  contact sheet  {out / 'ladder.png'}")
    return rows


def ready(out: Path, own: Path | None, iterations: int, seeds: int) -> Settings:
    """Settings of the streets, once everything that an hour of training could trip over has been looked at.

    Raises:
        ReinError: a training of another length lies there; own images that cannot be scored.
    """
    settings = demo.demo_settings(out / "ladder", iterations)
    for seed in seeds_of(settings, seeds):
        for tune in TUNES:
            demo.refuse_another_length(folder_of(out, tune, seed), settings)
    if own is not None:
        raw = settings.model_dump(mode="json")
        raw["data"] |= evaluate.described_data(own)
        described = build_settings(raw, (), {})
        evaluate.find_all(described.data.val, described, False)
    return settings


def count_classes(settings: Settings) -> None:
    """Write the statistics by which rare classes are drawn; what is counted already stays."""
    folder = dataset_root(CLEAR, settings.data)
    labels = [sample.label for sample in train_samples(settings) if sample.label is not None]
    update_statistics(folder, look_up(folder, labels), label_table(CLEAR, settings.data), {})


def seeds_of(settings: Settings, count: int) -> range:
    """The preset's seed and those after it."""
    return range(settings.train.seed, settings.train.seed + count)


def folder_of(out: Path, tune: str, seed: int) -> Path:
    """Where one of the trainings lies."""
    return out / "ladder" / "work_dirs" / f"{tune}-{seed}"


def one(out: Path, tune: str, seed: int, iterations: int, own: Path | None) -> Scored:
    """Train and score one model; a finished one is scored anew, a stopped one goes on."""
    folder = folder_of(out, tune, seed)
    sets = [f"model.tune={tune}", f"train.seed={seed}", *LONGER]
    demo.train_or_go_on(out / "ladder", folder, iterations, sets)
    domains: dict[str, float] = {}
    for described in [None, own] if own is not None else [None]:
        found = evaluate.run(folder / "last.pth", data_root=out / "ladder" / "data", device="cpu", precision="fp32",
                             own=described, out=None if described else folder / "predictions")  # fmt: skip
        domains |= {name: occurring(scores) for name, scores in found["domains"].items()}
    return Scored(tune, seed, domains)


def draw(out: Path, settings: Settings) -> None:
    """A street of each domain as the models of the first seed see it."""
    chosen = run_report.first_of_each_domain(val_samples(settings))
    seed = settings.train.seed
    columns = {tune: folder_of(out, tune, seed) / "predictions" for tune in TUNES}
    demo.contact_sheet(out / "ladder.png", settings, chosen, columns)


def occurring(scores: dict[str, Any]) -> float:
    """Mean IoU in percent over the classes that labels have: one that is only predicted has no say here."""
    found = [iou for name, iou in scores["IoU"].items() if scores["Acc"][name] is not None]
    return statistics.fmean(found)


def table(rows: list[Scored]) -> None:
    """Mean and spread (standard deviation over seeds) of each row."""
    extra = [name for name in rows[0].domains if name not in (CLEAR, *TARGETS)]
    names = [CLEAR, *TARGETS, *extra]
    lines = []
    for tune in TUNES:
        mine = [row for row in rows if row.tune == tune]
        columns = [[row.domains[name] for row in mine] for name in names]
        columns.insert(1 + len(TARGETS), [row.targets for row in mine])
        lines.append((tune, *(shown(values) for values in columns)))
    header = ("trained", "clear", *TARGETS, "mean of four", *extra)
    console.table(header, lines)


def shown(values: list[float]) -> str:
    """'31.2' or '31.2 ± 0.8'."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"
