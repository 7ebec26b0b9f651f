"""`rein prepare-data`: labels as downloaded become class indices; `--check` looks through what is there."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reincli.commands.console import duration, note, problem, progress, result, table
from reincli.config import DataSettings, load_settings
from reincli.data import planning, prepare
from reincli.data.check import FileReport, class_pixels, inspect_all
from reincli.data.labels import CITYSCAPES, Classes
from reincli.data.layouts import DATASETS, own_folders
from reincli.data.sources import dataset_root, label_table, some
from reincli.errors import ReinError, nearest

SHOWN = 3
"""Names shown of each kind of fault."""


@dataclass
class Findings:
    """What `--check` found in one split."""

    split: str
    images: int = 0
    pairs: int = 0
    without_label: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    undeclared: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, report: FileReport) -> None:
        """Count one pair."""
        name = report.sample.name
        if report.unreadable:
            self.unreadable.append(report.unreadable)
        elif report.undeclared:
            self.undeclared.append(f"{name} has {', '.join(map(str, report.undeclared))}")
        if report.mismatched:
            (height, width), (label_height, label_width) = report.image_size, report.label_size
            self.mismatched.append(f"{name} is {width}x{height}, its label {label_width}x{label_height}")
        self.pixels += report.stored


def run(
    dataset: str,
    root: Path | None,
    *,
    out: Path | None = None,
    workers: int | None = None,
    check: bool = False,
    force: bool = False,
    as_json: bool = False,
    config: Path | None = None,
) -> None:
    """Prepare a dataset's labels, or check what is there.

    Args:
        dataset: a built-in name, or one described in `config`.
        root: its folder; None: `data/<dataset>`, or what its description says.
        out: where to write; None: beside the originals.
        workers: processes; None: one a core.
        check: only look.
        force: write also what is there.
        as_json: print the result as JSON.
        config: TOML that describes own datasets.

    Raises:
        ReinError: unknown dataset, missing folders, damaged files, or faults that a check found.
    """
    data = load_settings(config=config).data if config is not None else DataSettings()
    if dataset not in DATASETS and dataset not in data.own:
        hint = nearest(dataset, [*DATASETS, *data.own])
        own = "" if config is not None else " An own dataset is described in TOML: --config FILE."
        raise ReinError(f"No dataset is named '{dataset}'.", hint + own, usage=True)
    place = root if root is not None else dataset_root(dataset, data)
    if not place.is_dir() and not place.parent.is_dir() and root is not None:
        raise ReinError(f"There is no folder '{place}'.", "Give the folder of the dataset.", usage=True)
    count = workers or os.cpu_count() or 1
    if check:
        _check(dataset, data, place, out, count, as_json)
    elif dataset in data.own:
        note(f"'{dataset}' is described in {config}: its labels are read as they are. Checking them.")
        _check(dataset, data, place, out, count, as_json)
    else:
        _prepare(dataset, place, out, count, force, as_json)


def _prepare(dataset: str, root: Path, out: Path | None, workers: int, force: bool, as_json: bool) -> None:
    start = time.monotonic()
    jobs = prepare.plan(dataset, root, out)
    outcomes = []
    with progress(f"Preparing {dataset}", total=len(jobs)) as advance:
        for outcome in prepare.run_jobs(jobs, workers=workers, force=force):
            outcomes.append(outcome)
            advance(1)
            if outcome.state == "failed":
                problem(outcome.reason)
    error = prepare.failure(outcomes)
    if error is not None:
        raise error
    if dataset == "cityscapes":
        prepare.write_lists(root, out)
    reports = prepare.report_pairs(dataset, prepare.splits_at(dataset, root, out), root, out)
    seconds = time.monotonic() - start
    states = Counter(outcome.state for outcome in outcomes)
    splits = {
        report.split: {
            "images": len(report.pairs.samples),
            "pairs": len(report.pairs.samples) - len(report.pairs.without_label),
        }
        for report in reports
    }
    if as_json:
        written, kept = states["written"], states["kept"]
        values = {"dataset": dataset, "root": str(root), "written": written, "kept": kept, "seconds": seconds}
        result(json.dumps({**values, "splits": splits}, indent=2))
    else:
        rows = [(split, str(n["images"]), str(n["pairs"])) for split, n in splits.items()]
        table(("split", "images", "with label"), rows, title=dataset, numbers=("images", "with label"))
        done = f"{states['written']} files written, {states['kept']} were there"
        nothing = "The labels need no conversion"
        result(f"{done if jobs else nothing}; {duration(seconds)}.")
    prepare.require_pairs(reports)


# --- checking ----------------------------------------------------------------------------------------------


def _check(
    dataset: str, data: DataSettings, root: Path, out: Path | None, workers: int, as_json: bool
) -> None:
    start = time.monotonic()
    own = data.own.get(dataset)
    if own is None:
        splits, classes = prepare.splits_at(dataset, root, out), CITYSCAPES
    else:
        names, colors = tuple(c.name for c in own.classes), tuple(c.color for c in own.classes)
        splits, classes = own_folders(own), Classes(names, colors)
    reports = prepare.report_pairs(dataset, splits, root, out)
    values = label_table(dataset, data)
    findings = []
    with progress(f"Checking {dataset}", total=sum(len(r.pairs.samples) for r in reports)) as advance:
        for report in reports:
            pairs = [sample for sample in report.pairs.samples if sample.label is not None]
            found = Findings(
                report.split,
                images=len(report.pairs.samples),
                pairs=len(pairs),
                without_label=list(report.pairs.without_label),
                without_image=list(report.pairs.without_image),
            )
            for file in inspect_all(pairs, {dataset: values}, threads=workers):
                found.add(file)
                advance(1)
            findings.append(found)
    if as_json:
        result(json.dumps(_as_json(dataset, root, findings, values, classes), indent=2))
    else:
        _show(dataset, findings, values, classes)
        result(f"Checked in {duration(time.monotonic() - start)}.")
    _fail_on_faults(dataset, findings, tolerate_sizes=own is None)


FAULTS = {
    "without_label": "without label",
    "without_image": "without image",
    "unreadable": "unreadable",
    "undeclared": "unknown values",
    "mismatched": "other size",
}
"""Field of `Findings` -> heading."""


def _show(dataset: str, findings: list[Findings], values: np.ndarray, classes: Classes) -> None:
    headings = ("split", "images", "pairs", *FAULTS.values())
    rows = [
        (f.split, str(f.images), str(f.pairs), *(str(len(getattr(f, kind))) for kind in FAULTS))
        for f in findings
    ]
    table(headings, rows, title=dataset, numbers=headings[1:])
    for f in findings:
        for kind, heading in FAULTS.items():
            faults = getattr(f, kind)
            if faults:
                more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
                result(f"{f.split}, {heading}: " + "; ".join(faults[:SHOWN]) + more)
    shares = [_shares(f, values, classes) for f in findings]
    rows = [(name, *(f"{s[i]:.3f}" for s in shares)) for i, name in enumerate([*classes.names, "(ignored)"])]
    splits = tuple(f.split for f in findings)
    table(("class", *splits), rows, title="pixels, percent", numbers=splits)


def _shares(found: Findings, values: np.ndarray, classes: Classes) -> list[float]:
    """Percent of pixels by class, the ignored ones last."""
    pixels = class_pixels(found.pixels, values, len(classes))
    total = max(int(found.pixels.sum()), 1)
    ignored = int(found.pixels[values == 255].sum())
    return [100 * int(n) / total for n in (*pixels, ignored)]


def _as_json(
    dataset: str, root: Path, findings: list[Findings], values: np.ndarray, classes: Classes
) -> dict[str, Any]:
    splits = {}
    for f in findings:
        pixels = class_pixels(f.pixels, values, len(classes))
        splits[f.split] = {
            "images": f.images,
            "pairs": f.pairs,
            **{kind: getattr(f, kind) for kind in FAULTS},
            "pixels": {name: int(n) for name, n in zip(classes.names, pixels, strict=True)},
            "ignored": int(f.pixels[values == 255].sum()),
        }
    return {"dataset": dataset, "root": str(root), "splits": splits}


def _fail_on_faults(dataset: str, findings: list[Findings], *, tolerate_sizes: bool) -> None:
    """Raise for what would stop or spoil a run; the public sets have a few pairs of unlike size, as released."""
    kinds = [kind for kind in FAULTS if not (kind == "mismatched" and tolerate_sizes)]
    parts, first = [], ""
    for kind in kinds:
        faults = [fault for f in findings for fault in getattr(f, kind)]
        if faults:
            parts.append(f"{len(faults)} {FAULTS[kind]}")
            first = first or some(faults)
    if parts:
        message = f"'{dataset}' has faults: {', '.join(parts)} ({first})."
        prepared = dataset in DATASETS and dataset not in planning.NOTHING_TO_CONVERT
        hint = f"Prepare it: rein prepare-data {dataset}" if prepared else "Mend or remove these files."
        raise ReinError(message, hint)
