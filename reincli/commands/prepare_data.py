"""`rein prepare-data`: downloads are unpacked, labels become class indices, classes are counted, pairs copied."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reincli.commands import check_data
from reincli.commands.console import duration, note, problem, progress, result, table
from reincli.config import DataSettings, OwnDataset
from reincli.data.compact import copy_all
from reincli.data.downloads import Download
from reincli.data.layouts import DATASETS, NO_CONVERSION, own_folders, split_folders
from reincli.data.sources import Sample, dataset_root, label_table, some
from reincli.data.statistics import COUNTED, look_up, update_statistics
from reincli.errors import ReinError, nearest, typed
from reincli.media.outputs import at_work
from reincli.prepare import annotated, archives, mapillary, planning, prepare, waiting
from reincli.prepare.corruption import HEADLINE, Corruption, choose, require_library, settle
from reincli.prepare.jobs import Job
from reincli.settings_files import load_settings

SKIP = 500
"""Files that were there and are counted at once, so that drawing the bar does not take longer than looking at them."""


@dataclass(frozen=True)
class Wishes:
    """What is asked for beside the labels.

    Attributes:
        workers: files worked on at a time.
        force: write also what is there.
        as_json: print the result as JSON.
        corruptions: of `cityscapes-c`.
        cache: write compact copies, which load faster.
        lossless: of every pixel, not as JPEG.
        version: of `mapillary`.
    """

    workers: int
    force: bool = False
    as_json: bool = False
    corruptions: Sequence[Corruption] = HEADLINE
    cache: bool = False
    lossless: bool = False
    version: str = mapillary.VERSIONS[0]


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
    severity: list[int] | None = None,
    corruption: list[str] | None = None,
    seed: int = 0,
    cache: bool = False,
    lossless: bool = False,
    version: str | None = None,
    channels: str = "rgb",
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
        severity, corruption, seed, channels: of `cityscapes-c`; none: severity 5, all 16, 0, rgb.
        cache: also write compact copies of the training pairs.
        lossless: keep every pixel in them.
        version: of `mapillary`; None: v1.2.

    Raises:
        ReinError: unknown dataset, missing folders, damaged files, or faults that a check found.
    """
    data = load_settings(config=config).data if config is not None else DataSettings()
    if dataset not in DATASETS and dataset not in data.own:
        hint = nearest(dataset, [*DATASETS, *data.own])
        own = "" if config is not None else " An own dataset is described in TOML: --config FILE."
        raise ReinError(f"No dataset is named '{dataset}'.", hint + own, usage=True)
    _require_sense(
        dataset, bool(severity or corruption or seed or channels != "rgb"), version, lossless, cache
    )
    place = _folder(dataset, root, data)
    chosen = choose(corruption or [], severity or [], seed, channels)
    wishes = Wishes(
        workers or os.cpu_count() or 1,
        force,
        as_json,
        chosen,
        cache,
        lossless,
        version or mapillary.VERSIONS[0],
    )
    if out is not None and not check:
        _require_apart(dataset, place, out, data)
    if check:
        check_data.check(dataset, data, place, out, wishes.workers, as_json)
    elif dataset in data.own:
        if all(split.format == "png" for split in data.own[dataset].splits.values()):
            note(f"'{dataset}' is described in {config}: its labels are read as they are. Checking them.")
        _prepare_own(dataset, data, place, out, wishes)
    else:
        with at_work(out or place, "prepare-data"):
            _prepare(dataset, place, out, wishes)


def _require_sense(dataset: str, corrupts: bool, version: str | None, lossless: bool, cache: bool) -> None:
    """ReinError for options that do not belong to the dataset or to each other."""
    if corrupts and dataset != "cityscapes-c":
        options = "--severity, --corruption, --seed and --channels"
        raise ReinError(f"{options} are for cityscapes-c alone.", "Leave them out.", usage=True)
    if version is not None and dataset != "mapillary":
        raise ReinError("--version is for mapillary alone.", "Leave it out.", usage=True)
    if version is not None and version not in mapillary.VERSIONS:
        known = " or ".join(mapillary.VERSIONS)
        raise ReinError(f"Mapillary has no version '{version}'.", f"Give {known}.", usage=True)
    if lossless and not cache:
        raise ReinError("--lossless is about the compact copies.", "Give --cache too.", usage=True)


def _prepare_own(dataset: str, data: DataSettings, root: Path, out: Path | None, wishes: Wishes) -> None:
    """Draw what a described dataset tells in COCO or YOLO files, check it, and write compact copies if wished."""
    own = data.own[dataset]
    drawn = [name for name, split in own.splits.items() if split.format != "png"]
    if drawn:
        label_table(dataset, data)  # a map that cannot be is said before anything is drawn
        with at_work(out or root, "prepare-data"):
            for name in drawn:
                _draw(dataset, own, name, root, out, wishes)
    check_data.check(dataset, data, root, out, wishes.workers, wishes.as_json)
    if wishes.cache:
        reports = prepare.report_pairs(dataset, own_folders(own), root, out)
        copied = _copy(dataset, [s for r in reports for s in r.pairs.samples], wishes)
        note(f"{copied} compact copies written.")


def _draw(dataset: str, own: OwnDataset, name: str, root: Path, out: Path | None, wishes: Wishes) -> None:
    """Draw the labels of a split from its COCO or YOLO file; what was left out is told."""
    steps = annotated.prepare_split(dataset, own, name, root, out, workers=wishes.workers, force=wishes.force)
    total, told = next(steps)
    with progress(f"Drawing {name}", total=total) as advance:
        for _ in steps:
            advance(1)
    note(f"{name}: {told.written} labels drawn, {told.kept} were there.")
    if told.others:
        note(
            f"{name}: {told.others} of them were not drawn by this command. They stay: --force draws them anew."
        )
    if told.removed:
        note(f"{name}: {told.removed} labels are removed, of which nothing is told any more.")
    if told.left_out:
        kinds = ", ".join(f"{kind} {count}" for kind, count in told.left_out.most_common(6))
        more = f" and {len(told.left_out) - 6} more" if len(told.left_out) > 6 else ""
        note(f"{name}: {told.left_out.total()} objects are of no class of the description: {kinds}{more}.")
    if told.not_there:
        note(f"{name}: {len(told.not_there)} that are told of have no image: {some(told.not_there)}.")


def _folder(dataset: str, root: Path | None, data: DataSettings) -> Path:
    """The dataset's folder, as given or its usual one. ReinError where it cannot be a folder."""
    place = root if root is not None else dataset_root(dataset, data)
    if not place.is_dir() and not place.parent.is_dir() and root is not None:
        raise ReinError(f"There is no folder '{place}'.", "Give the folder of the dataset.", usage=True)
    if place.is_file():
        hint = f"Put it into a folder of its own and give that: rein prepare-data {dataset} {typed(place.parent)}"
        raise ReinError(f"'{place}' is a file, not the folder of the dataset.", hint, usage=True)
    return place


def _require_apart(dataset: str, root: Path, out: Path, data: DataSettings) -> None:
    """ReinError where what is written would lie among the files that are read, and be taken for some of them."""
    own = data.own.get(dataset)
    splits = split_folders(dataset, root) if own is None else own_folders(own)
    read = {folder for each in splits.values() for pair in each for folder in (pair.images, pair.labels)}
    for folder in sorted(folder for folder in read if folder):
        if out.resolve().is_relative_to((root / folder).resolve()) and (root / folder).is_dir():
            raise ReinError(
                f"--out '{out}' lies in '{root / folder}', whose files are read: the next look would take what is "
                "written for some of them.",
                "Nothing was written. Name another place.",
                usage=True,
            )


def _prepare(dataset: str, root: Path, out: Path | None, wishes: Wishes) -> None:
    start = time.monotonic()
    _unpack(dataset, root, out or root, wishes)
    raw = waiting.labels_at(dataset, root, out)
    if dataset == "cityscapes-c":
        require_library()
    jobs = planning.plan(dataset, raw, out, wishes.corruptions, wishes.version)
    if dataset == "cityscapes-c":
        settle(out or root, wishes.corruptions, force=wishes.force)
    if dataset == "mapillary":
        mapillary.settle(out or root, wishes.version, force=wishes.force)
    outcomes = _do(dataset, jobs, wishes)
    lists = prepare.write_lists(root, out) if dataset == "cityscapes" else []
    reports = prepare.report_pairs(dataset, prepare.splits_at(dataset, root, out), root, out)
    if dataset in NO_CONVERSION:
        prepare.require_indices(dataset, reports)
    counted = _count(dataset, out or root, reports, outcomes, wishes)
    training = [s for r in reports if r.split == "train" for s in r.pairs.samples if s.label is not None]
    copied = _copy(dataset, training, wishes) if wishes.cache else 0
    states = Counter(outcome.state for outcome in outcomes)
    seconds = time.monotonic() - start
    for report in reports:
        if report.pairs.lone:
            names = some(report.pairs.lone)
            note(f"{report.split}: {len(report.pairs.lone)} files were released without a partner: {names}.")
    unlabelled = prepare.images_without_labels(dataset, root, out)
    remarks = prepare.remarks(dataset, reports, unlabelled)
    for text in remarks:
        note(text)
    splits = {
        report.split: {
            "images": len(report.pairs.samples),
            "pairs": len(report.pairs.samples) - len(report.pairs.without_label),
        }
        for report in reports
    }
    if wishes.as_json:
        values = {
            "dataset": dataset,
            "root": str(root),
            "written": states["written"],
            "kept": states["kept"] + states["old"],
            "copied": copied,
            "counted": counted,
            "seconds": seconds,
            "splits": splits,
            "without_labels": {split: len(samples) for split, samples in unlabelled.items()},
            "remarks": remarks,
        }
        result(json.dumps(values, indent=2))
    else:
        rows = [(split, str(n["images"]), str(n["pairs"])) for split, n in splits.items()]
        rows += [(split, str(len(samples)), "-") for split, samples in unlabelled.items()]
        table(("split", "images", "with label"), rows, title=dataset, numbers=("images", "with label"))
        idle = bool(jobs) and not (states["written"] or lists or counted or copied)
        result(_closing(jobs, states, idle, copied, seconds))
    prepare.require_pairs(reports)


def _do(dataset: str, jobs: Sequence[Job], wishes: Wishes) -> list[prepare.Outcome]:
    """Make the files that are missing.

    Raises:
        ReinError: some could not be made, after all others were.
        KeyboardInterrupt: stopped by the user; says how far it came.
    """
    outcomes: list[prepare.Outcome] = []
    fresh = 0
    try:
        with progress(f"Preparing {dataset}", total=len(jobs)) as advance:
            for outcome in prepare.run_jobs(jobs, workers=wishes.workers, force=wishes.force):
                outcomes.append(outcome)
                fresh += 1
                if outcome.state not in ("kept", "old") or fresh == SKIP or len(outcomes) == len(jobs):
                    advance(fresh)
                    fresh = 0
                if outcome.state == "failed":
                    problem(outcome.reason)
    except KeyboardInterrupt:
        # outcomes come in order, files of several workers do not
        done = len(outcomes) if wishes.force else sum(prepare.is_whole(job.writes) for job in jobs)
        raise KeyboardInterrupt(
            f"{done} of {len(jobs)} files are done. The same command goes on from there."
        ) from None
    error = prepare.failure(outcomes)
    if error is not None:
        raise error
    old = sum(outcome.state == "old" for outcome in outcomes)
    if old:
        note(
            f"{old} files are older than the raw ones that they should come of. They stay: --force makes them anew."
        )
    return outcomes


def _closing(jobs: Sequence[Job], states: Counter[str], idle: bool, copied: int, seconds: float) -> str:
    """The last line: what was done, or that nothing had to be."""
    if not jobs:
        done = "The labels need no conversion"
    else:
        done = f"{states['written']} files written, {states['kept'] + states['old']} were there"
        if states["written"] and seconds > 1:
            done += f", {states['written'] / seconds:.0f} a second"
    copies = f"; {copied} compact copies written" if copied else ""
    return f"{'Nothing to do: ' if idle else ''}{done}{copies}; {duration(seconds)}."


def _unpack(dataset: str, root: Path, into: Path, wishes: Wishes) -> None:
    """Unpack the downloads that lie in the dataset's folder.

    Raises:
        ReinError: one that is needed is unfinished (nothing is unpacked then), or damaged (the others are).
    """
    place = waiting.Place(dataset, root, into, wishes.version if dataset == "mapillary" else "")
    for text in waiting.unfinished_remarks(place):
        note(text)
    found = waiting.pending(place, force=wishes.force)
    spare = {path for path, what in found if what.extra or waiting.is_there(path, what, place)}
    failed: dict[Path, archives.ArchiveError] = {}
    for archive, download in found:
        try:
            _unpack_one(archive, download, into)
        except archives.ArchiveError as error:
            failed[archive] = error
    whole = [(path, what) for path, what in place.archives() if path not in failed]
    errors = []
    for path, what in found:
        if path in failed and (path in spare or waiting.is_covered(path, what, whole)):
            problem(f"{failed[path].message} What is prepared now does without it.")
        elif path in failed:
            errors.append(failed[path])
    if errors:
        others = "".join(f" {error.message}" for error in errors[1:])
        raise ReinError(errors[0].message + others, errors[0].hint)


def _unpack_one(archive: Path, download: Download, into: Path) -> None:
    size = archive.stat().st_size
    with progress(f"Unpacking {archive.name}, MB", total=max(size // 10**6, 1)) as advance:
        shown = 0
        try:
            for done, total in archives.unpack(archive, download, into):
                now = int(size / 1e6 * done / max(total, 1))
                advance(now - shown)
                shown = now
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Of {archive.name} a part is unpacked and stays. The same command goes on from there."
            ) from None


def _count(
    dataset: str,
    folder: Path,
    reports: Sequence[prepare.SplitReport],
    outcomes: Sequence[prepare.Outcome],
    wishes: Wishes,
) -> bool:
    """Bring the class statistics up to date; whether they were not."""
    if dataset not in COUNTED:
        return False
    labels = [s.label for r in reports if r.split == "train" for s in r.pairs.samples if s.label is not None]
    if not labels:
        return False
    counted = {outcome.job.target: outcome.pixels for outcome in outcomes if outcome.pixels}
    known = look_up(folder, labels)
    unread = sum(label not in counted for label in known.missing)
    with progress("Counting classes", total=unread) as advance:
        return update_statistics(
            folder,
            known,
            label_table(dataset, DataSettings()),
            counted,
            on_file=lambda: advance(1),
            threads=wishes.workers,
        )


def _copy(dataset: str, samples: Sequence[Sample], wishes: Wishes) -> int:
    """Write the compact copies that are missing or old; how many."""
    copied, failed = 0, []
    with progress(f"Copying {dataset}", total=len(samples)) as advance:
        for sample, wrote, reason in copy_all(
            samples, lossless=wishes.lossless, force=wishes.force, threads=wishes.workers
        ):
            copied += wrote
            advance(1)
            if reason:
                failed.append(sample.name)
                problem(reason)
    if failed:
        note(f"{len(failed)} pairs are not copied and are read from their own files.")
    return copied
