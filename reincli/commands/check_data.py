"""`rein prepare-data --check`: every pair of a dataset is looked at, what is missing or wrong is named and counted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reincli.commands.console import duration, note, progress, result, table
from reincli.config import DataSettings
from reincli.data.check import FileReport, absent_classes, class_pixels, inspect_all, require_pixels
from reincli.data.completeness import KNOWN_BAD, ONE_COLOUR, OTHER_SIZE, label_archives
from reincli.data.labels import CITYSCAPES, Classes
from reincli.data.layouts import DATASETS, NO_CONVERSION, Folders, own_folders
from reincli.data.loading import ranges, value_hint
from reincli.data.missing import bring_images, bring_labels, command_for
from reincli.data.sources import label_table, some
from reincli.errors import ReinError
from reincli.media.images import sliver_remark
from reincli.prepare import prepare

SHOWN = 3
"""Names shown of each kind of fault."""
FAULTS = {
    "without_label": "without label",
    "without_image": "without image",
    "unreadable": "unreadable",
    "undeclared": "unknown values",
    "mismatched": "other size",
    "turned": "sides exchanged",
    "lone": "known to be alone",
    "known": "known to be bad",
}
"""Field of `Findings` -> heading."""


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
    turned: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    lone: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    slivers: list[str] = field(default_factory=list)
    bring: dict[str, str] = field(default_factory=dict)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, report: FileReport) -> None:
        """Count one pair."""
        name = report.sample.name
        if report.unreadable:
            self.unreadable.append(report.unreadable)
            self.hints.append(report.hint)
        elif report.undeclared:
            self.undeclared.append(f"{name} has {ranges(report.undeclared)}")
            self.hints.append(value_hint(report.sample))
        bad = KNOWN_BAD.get(report.sample.dataset, {}).get(name)
        if (bad == OTHER_SIZE and report.mismatched) or (bad == ONE_COLOUR and report.plain):
            self.known.append(f"{name}, {bad}")
        elif report.mismatched or report.turned:
            (height, width), (label_height, label_width) = report.image_size, report.label_size
            kind = self.turned if report.turned else self.mismatched
            kind.append(f"{name} is {width}x{height}, its label {label_width}x{label_height}")
        if report.sliver:
            self.slivers.append(sliver_remark(report.sample.image, report.sliver))
        self.pixels += report.stored


def check(
    dataset: str, data: DataSettings, root: Path, out: Path | None, workers: int, as_json: bool
) -> None:
    """Look through a dataset and show what is there, changing nothing.

    Args:
        dataset: a built-in name, or one that `data` describes.
        root, out: its folder, and where its labels were written (None: beside the originals).
        workers: files looked at a time. as_json: print JSON instead of tables.

    Raises:
        ReinError: missing folders, or faults that would stop or spoil a run.
    """
    start = time.monotonic()
    own = data.own.get(dataset)
    if own is None:
        splits, classes = prepare.splits_at(dataset, root, out), CITYSCAPES
    else:
        names, colors = tuple(c.name for c in own.classes), tuple(c.color for c in own.classes)
        splits, classes = own_folders(own), Classes(names, colors)
    reports = prepare.report_pairs(dataset, splits, root, out)
    values = label_table(dataset, data)
    findings = _inspected(dataset, reports, values, workers)
    unlabelled = prepare.images_without_labels(dataset, root, out) if own is None else {}
    remarks = prepare.remarks(dataset, reports, unlabelled)
    if as_json:
        told = {
            **_as_json(dataset, root, findings, values, classes),
            "without_labels": {split: len(samples) for split, samples in unlabelled.items()},
            "remarks": remarks,
        }
        result(json.dumps(told, indent=2))
    else:
        _show(dataset, findings, values, classes)
        result(f"Checked in {duration(time.monotonic() - start)}.")
        for split, samples in unlabelled.items():
            result(f"{split}: {len(samples):,} images, without labels as released.")
        for text in remarks:
            result(text)
    for text in _notes(dataset, findings, values, classes, own=own is not None, as_json=as_json):
        note(text)
    if own is not None:
        for found in findings:
            found.bring = _partners(found, splits[found.split][0], root, dataset)
    _fail_on_faults(dataset, root, findings, tolerate_sizes=own is None)
    for found in findings:
        require_pixels(found.pixels, values, f"the {found.pairs} labels of '{dataset}:{found.split}'")


def _inspected(
    dataset: str, reports: Sequence[prepare.SplitReport], values: np.ndarray, workers: int
) -> list[Findings]:
    """What every pair of every split holds, looked at with a progress line."""
    findings = []
    total = sum(sample.label is not None for report in reports for sample in report.pairs.samples)
    with progress(f"Checking {dataset}", total=total) as advance:
        for report in reports:
            pairs = [sample for sample in report.pairs.samples if sample.label is not None]
            found = Findings(
                report.split,
                images=len(report.pairs.samples),
                pairs=len(pairs),
                without_label=list(report.pairs.without_label),
                without_image=list(report.pairs.without_image),
                lone=list(report.pairs.lone),
            )
            for file in inspect_all(pairs, {dataset: values}, threads=workers):
                found.add(file)
                advance(1)
            findings.append(found)
    return findings


def _notes(
    dataset: str, findings: list[Findings], values: np.ndarray, classes: Classes, *, own: bool, as_json: bool
) -> Iterator[str]:
    """What is no fault and worth a line: known pairs, classes of own data that no label has, slivers."""
    if not as_json and any(found.known for found in findings):
        yield f"Pairs known to be bad are left out with --set 'data.leave_out=[\"{dataset}\"]'."
    for found in findings if own and not as_json else []:
        absent = absent_classes(found.pixels, values, classes)
        if absent:
            yield f"{found.split}: {absent}"
    for found in findings:
        if found.slivers:
            others = f" So {len(found.slivers)} images of '{found.split}'." if len(found.slivers) > 1 else ""
            yield found.slivers[0] + others


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


def _partners(found: Findings, folders: Folders, root: Path, dataset: str) -> dict[str, str]:
    """Hints for files of an own dataset that lack their partner, by kind of fault."""
    hints = {}
    if found.without_label:
        hints["without_label"] = bring_labels(folders, root, dataset, found.without_label)
    if found.without_image:
        hints["without_image"] = bring_images(folders, root, found.without_image)
    return hints


def _fail_on_faults(dataset: str, root: Path, findings: list[Findings], *, tolerate_sizes: bool) -> None:
    """Raise for what would stop or spoil a run, with the hint of the first kind of fault.

    The public sets have a few pairs of unlike size, as released.
    """
    tolerated = {"lone", "known", *(("mismatched", "turned") if tolerate_sizes else ())}
    kinds = [kind for kind in FAULTS if kind not in tolerated]
    parts, first, hint = [], "", ""
    for kind in kinds:
        faults = [fault for f in findings for fault in getattr(f, kind)]
        if faults:
            parts.append(f"{len(faults)} {FAULTS[kind]}")
            first = first or some(faults)
            own = next((each for f in findings for each in f.hints), "")
            lone = [name for f in findings for name in f.without_label]
            bring = next((f.bring[kind] for f in findings if kind in f.bring), "")
            hint = hint or bring or _hint(kind, own, dataset, root, label_archives(dataset, lone))
    if parts:
        message = f"'{dataset}' has faults: {', '.join(parts)} ({first})."
        raise ReinError(message, hint)


def _hint(kind: str, own: str, dataset: str, root: Path, archives: str) -> str:
    """What to do about a kind of fault.

    `own` is what the reader of the first file at fault says, `archives` what brings labels that are missing.
    """
    if kind in ("unreadable", "undeclared"):
        return own
    if kind == "without_image":
        return "Bring their images: a part of the download, or their folder, is missing. Else take the labels out."
    if kind == "without_label":
        prepared = dataset in DATASETS and dataset not in NO_CONVERSION
        command = command_for(dataset, root)
        if prepared:
            return f"Prepare them: {command}" + (f"; their originals are in {archives}." if archives else "")
        where = f" ({archives})" if archives else ""
        return f"Bring their labels{where}, or take these images out."
    return "Bring the label that belongs to the image, in its size, or take the pair out of both folders."
