"""From a dataset as downloaded to what training and evaluation read: doing what `planning` found to be done.

A file that is there and whole is not written again, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from reincli.config import DataSettings
from reincli.data.completeness import IMAGES, label_archives, remark
from reincli.data.index import list_files
from reincli.data.labels import CITYSCAPES, count_values
from reincli.data.layouts import DATASETS, Folders, split_folders
from reincli.data.loading import load_label
from reincli.data.missing import hint, missing_folder, no_image
from reincli.data.sources import Pairs, Sample, find_pairs, label_table, some, without_labels
from reincli.errors import ReinError
from reincli.media.outputs import keep_apart, mark_of
from reincli.media.whole_files import clear_dead, write_bytes
from reincli.media.workers import in_order, processes, threads
from reincli.prepare import mapillary
from reincli.prepare.convert import MAKER, convert, raw_stamp
from reincli.prepare.corruption import write_corrupted
from reincli.prepare.jobs import Job
from reincli.prepare.planning import plan

LOOKED_AT = 8
"""Labels of a split that are read where none has to be converted."""
WORTH_PROCESSES = 200
"""Polygon files from which on new processes are worth their start of a second or two."""
_PNG_END, _JPEG_END = b"IEND\xae\x42\x60\x82", b"\xff\xd9"


@dataclass(frozen=True)
class Outcome:
    """What became of a job: 'written', 'kept' or 'old' (it was there), or 'failed' with the reason and what to do.

    'old': the raw file is newer, and what was there does not say what it was made of: somebody else's, so it stays.

    `pixels`: of each class index in a label that was written; empty otherwise.
    """

    job: Job
    state: str
    reason: str = ""
    pixels: tuple[int, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class SplitReport:
    """The pairs of one split."""

    split: str
    pairs: Pairs


# --- doing -------------------------------------------------------------------------------------------------


def is_whole(path: Path | str) -> bool:
    """Whether a PNG or JPEG is there and ends as such a file must; a copy cut short does not."""
    try:  # without file objects and their buffers: a second run asks this of every file
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            os.lseek(handle, max(os.lseek(handle, 0, os.SEEK_END) - 8, 0), os.SEEK_SET)
            end = os.read(handle, 8)
        finally:
            os.close(handle)
    except OSError:
        return False
    return end == _PNG_END or end.endswith(_JPEG_END)


def found(job: Job) -> str:
    """What is there of a job: 'kept', 'old' (see `Outcome`), or '' where it is to be made."""
    if not is_whole(job.writes):
        return ""
    try:
        raw, made = os.stat(job.reads), os.stat(job.writes)
    except OSError:
        return "kept"  # the raw file is gone: its label still holds
    of = (mark_of(job.target) or "").removeprefix(f"{MAKER} ")
    newer = raw.st_mtime_ns > made.st_mtime_ns
    if not of:
        return "old" if newer else "kept"
    if not of.startswith(f"{raw.st_size}-") or (newer and of != raw_stamp(job.source)):
        return ""
    return "kept"


def run_jobs(jobs: Sequence[Job], *, workers: int = 1, force: bool = False) -> Iterator[Outcome]:
    """Do the jobs, yielding what became of each in their order; a damaged raw file does not stop the rest.

    Args:
        jobs: of `plan`.
        workers: files worked on at a time.
        force: write also what is there.

    Raises:
        ReinError: a file cannot be written (no space, no permission).
    """
    keep_apart((job.reads for job in jobs), (job.writes for job in jobs))
    for folder in {os.path.dirname(job.writes) for job in jobs}:
        clear_dead(Path(folder))
    todo = []
    for job in jobs:
        if not force and (state := found(job)):
            yield Outcome(job, state)
        else:
            todo.append(job)
    if workers <= 1:
        yield from map(_do, todo)
        return
    with _pool(todo, workers) as pool:
        slow = bool(todo) and todo[0].corruption is not None
        yield from in_order(pool, _do, todo, group=1 if slow else 8)


def _pool(jobs: Sequence[Job], workers: int) -> AbstractContextManager[Executor]:
    """Threads, as OpenCV decodes and encodes outside of the interpreter's lock; processes for many polygons."""
    corrupting = any(job.corruption is not None for job in jobs)  # its random source is one a process
    if corrupting or sum(job.form == "polygons" for job in jobs) >= WORTH_PROCESSES:
        return processes(workers)
    return threads(workers)


def _do(job: Job) -> Outcome:
    label = None
    try:
        if job.corruption is not None:
            write_corrupted(job.source, job.target, job.corruption)
        else:
            label = convert(job.form, job.source, job.target)
    except ReinError as error:
        if error.message.startswith("Cannot write"):
            raise  # the next file would fail as well
        return Outcome(job, "failed", error.message, hint=error.hint)
    if label is None:
        return Outcome(job, "written")
    return Outcome(job, "written", pixels=tuple(count_values(label)[: len(CITYSCAPES)].tolist()))


def failure(outcomes: Sequence[Outcome]) -> ReinError | None:
    """One error for the jobs that failed, or None."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if not failed:
        return None
    reasons = " ".join(outcome.reason for outcome in failed[:3])
    more = " …" if len(failed) > 3 else ""
    message = f"{len(failed)} of {len(outcomes)} labels could not be prepared: {reasons}{more}"
    hint = failed[0].hint or "Fetch these files again."
    return ReinError(message, f"{hint} Then run the same command: what is done stays.")


def write_lists(root: Path, out: Path | None = None) -> list[Path]:
    """Write `train.txt`, `val.txt`, `test.txt` of Cityscapes where they differ: images of a split, without suffix."""
    written = []
    for split in ("train", "val", "test"):
        images = _place(f"leftImg8bit/{split}", root, out) / "leftImg8bit" / split
        if images.is_dir():
            names = [name.removesuffix("_leftImg8bit.png") for name in list_files(images, "_leftImg8bit.png")]
            path = (out or root) / f"{split}.txt"
            text = "".join(f"{name}\n" for name in names)
            if not path.is_file() or path.read_text("utf-8") != text:
                write_bytes(path, text.encode())
                written.append(path)
    return written


def prepare(
    dataset: str, root: Path, *, out: Path | None = None, workers: int = 1, force: bool = False
) -> list[Outcome]:
    """Plan and do everything for a dataset, the lists of Cityscapes included.

    Raises:
        ReinError: raw labels missing, damaged files (after all others are done), or no space to write.
    """
    jobs = plan(dataset, root, out)
    if dataset == "mapillary":
        mapillary.settle(out or root, mapillary.VERSIONS[0], force=force)
    outcomes = list(run_jobs(jobs, workers=workers, force=force))
    error = failure(outcomes)
    if error is not None:
        raise error
    if dataset == "cityscapes":
        write_lists(root, out)
    return outcomes


# --- what there is afterwards ------------------------------------------------------------------------------


def report_pairs(
    dataset: str, splits: dict[str, tuple[Folders, ...]], root: Path, out: Path | None = None
) -> list[SplitReport]:
    """Pairs of every labelled split whose images are there.

    Args:
        dataset: its name.
        splits: of `split_folders` or `own_folders`.
        root: the dataset's folder.
        out: where prepared files were written and archives unpacked, if not in `root`.

    Raises:
        ReinError: there is no split at all, one has no image, or a folder of one is missing.
    """
    reports: list[SplitReport] = []
    seen: set[tuple[Folders, ...]] = set()
    for split, all_folders in splits.items():
        if all_folders in seen:  # another name for the same
            continue
        seen.add(all_folders)
        labelled = [
            f
            for f in all_folders
            if f.labels is not None
            and f.listed is None
            and not (f.extra and not (_place(f.labels, root, out) / f.labels).is_dir())
        ]
        found = []
        for folders in labelled:
            images = _place(folders.images, root, out)
            labels = _place(str(folders.labels), root, out)
            if (images / folders.images).is_dir():
                found.append(find_pairs(folders, images, dataset, labels_root=labels))
            elif dataset not in DATASETS:  # somebody described it; of a built-in set a part may do
                raise missing_folder(folders.images, root, dataset)
        if found and not any(pairs.samples for pairs in found):
            where, suffix = root / labelled[0].images, labelled[0].image_suffix
            raise no_image(where, suffix, dataset, hint(dataset, root, labelled[0].images))
        if found:
            reports.append(SplitReport(split, _joined(found)))
    if not reports:
        first = next(iter(splits.values()))[0]
        raise missing_folder(first.images, root, dataset)
    return reports


def _place(folder: str, root: Path, out: Path | None) -> Path:
    """Of two places the one that has a folder; `out` comes first."""
    return out if out is not None and (out / folder).is_dir() else root


def _joined(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(
        tuple(sample for pairs in parts for sample in pairs.samples),
        tuple(name for pairs in parts for name in pairs.without_label),
        tuple(name for pairs in parts for name in pairs.without_image),
        tuple(name for pairs in parts for name in pairs.lone),
    )


def images_without_labels(dataset: str, root: Path, out: Path | None) -> dict[str, list[Sample]]:
    """Images of the splits that are handed out without labels, unpacked to `out` or to `root`; see `sources`."""
    found = without_labels(dataset, root)
    return found if found or out is None else without_labels(dataset, out)


def remarks(
    dataset: str, reports: Sequence[SplitReport], unlabelled: Mapping[str, Sequence[Sample]]
) -> list[str]:
    """What a built-in dataset lacks of what was released, one sentence a split.

    Args:
        dataset: its name.
        reports: of `report_pairs`: the labelled splits.
        unlabelled: images of the others, of those that are there.
    """
    there: dict[str, Sequence[Sample]] = {report.split: report.pairs.samples for report in reports}
    there.update(unlabelled)
    for split in ("train", "val"):
        if split in IMAGES.get(dataset, {}):
            there.setdefault(split, ())
    found = [
        remark(dataset, split, [sample.name for sample in samples], [sample.domain for sample in samples])
        for split, samples in there.items()
    ]
    return [each for each in found if each]


def splits_at(dataset: str, root: Path, out: Path | None) -> dict[str, tuple[Folders, ...]]:
    """Folders of a built-in dataset, its half-size copy looked for where it was written."""
    return split_folders(dataset, out if out is not None and dataset == "mapillary" else root)


def require_indices(dataset: str, reports: Sequence[SplitReport]) -> None:
    """Look into some labels of a dataset that needs no conversion: nothing else would before training does.

    Raises:
        ReinError: one is unreadable, or has values that the dataset does not declare.
    """
    table = label_table(dataset, DataSettings())
    for report in reports:
        labelled = [sample for sample in report.pairs.samples if sample.label is not None]
        for sample in labelled[:: max(len(labelled) // LOOKED_AT, 1)][:LOOKED_AT]:
            load_label(sample, table)


def require_pairs(reports: Sequence[SplitReport]) -> None:
    """ReinError where images of a prepared split have no label, or labels no image."""
    for report in reports:
        lone = report.pairs.without_label
        if lone:
            message = (
                f"Split '{report.split}': {len(lone)} of {len(report.pairs.samples)} images have no label"
            )
            name = report.pairs.samples[0].dataset
            archives = label_archives(name, lone)
            what = (
                f"Put what brings them beside the images: {archives}"
                if archives
                else "Fetch the missing labels"
            )
            hint = f"{what}. Without them: --set 'data.leave_out=[\"{name}/{lone[0]}\", …]'"
            raise ReinError(f"{message}: {some(lone)}.", hint)
        alone = report.pairs.without_image
        if alone:
            raise ReinError(
                f"Split '{report.split}': {len(alone)} labels have no image: {some(alone)}.",
                "Bring their images: a part of the download is missing. Without them, take these labels out.",
            )
