"""From a dataset as downloaded to what training and evaluation read: what is to be done, and doing it.

A file that is there and whole is not written again, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2

from reincli.data.convert import convert
from reincli.data.images import write_bytes
from reincli.data.layouts import CONDITIONS, Folders, split_folders
from reincli.data.sources import Pairs, find_pairs, list_files, missing_folder, some
from reincli.errors import ReinError

NOTHING_TO_CONVERT = ("urbansyn", "bdd100k")
"""Datasets whose labels are class indices as they come."""
WORTH_PROCESSES = 200
"""Polygon files from which on new processes are worth their start of a second or two."""
POLYGONS, LABEL_IDS, TRAIN_IDS = "_gtFine_polygons.json", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
_PNG_END, _JPEG_END = b"IEND\xae\x42\x60\x82", b"\xff\xd9"


@dataclass(frozen=True)
class Job:
    """One file to make: `form` says how (`convert.convert`)."""

    form: str
    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job: 'written', 'kept' (it was there), or 'failed' with the reason."""

    job: Job
    state: str
    reason: str = ""


@dataclass(frozen=True)
class SplitReport:
    """The pairs of one split."""

    split: str
    pairs: Pairs


# --- planning ----------------------------------------------------------------------------------------------


def plan(dataset: str, root: Path, out: Path | None = None) -> list[Job]:
    """The files to make for a dataset, sorted; empty where its labels come as they are read.

    Args:
        dataset: a built-in name.
        root: its folder, as unpacked.
        out: where labels go, in the same folders as beside the originals; None: `root`.

    Raises:
        ReinError: the raw labels are missing, or the dataset cannot be prepared.
    """
    target = out or root
    if dataset in NOTHING_TO_CONVERT:
        return []
    planners = {
        "cityscapes": _plan_cityscapes,
        "gta": _plan_gta,
        "synthia": _plan_synthia,
        "mapillary": _plan_mapillary,
        "acdc": _plan_acdc,
    }
    if dataset not in planners:
        known = ", ".join([*planners, *NOTHING_TO_CONVERT])
        raise ReinError(f"'{dataset}' cannot be prepared.", f"Known: {known}.", usage=True)
    jobs = planners[dataset](root, target)
    return sorted(jobs, key=lambda job: str(job.target))


def _present(root: Path, folders: Sequence[str], dataset: str) -> list[str]:
    """Those of the folders that are there; at least one must be."""
    found = [folder for folder in folders if (root / folder).is_dir()]
    if not found:
        raise missing_folder(folders[0], root, dataset)
    return found


def _plan_cityscapes(root: Path, out: Path) -> list[Job]:
    jobs = []
    for folder in _present(root, ("gtFine/train", "gtFine/val"), "cityscapes"):
        tree = root / folder
        forms = {name.removesuffix(LABEL_IDS): ("label ids", name) for name in list_files(tree, LABEL_IDS)}
        polygons = {name.removesuffix(POLYGONS): ("polygons", name) for name in list_files(tree, POLYGONS)}
        for stem, (form, name) in {**forms, **polygons}.items():
            jobs.append(Job(form, tree / name, out / folder / (stem + TRAIN_IDS)))
    return jobs


def _plan_suffixed(form: str, tree: Path, out: Path, raw: str, made: str) -> list[Job]:
    """Jobs for labels that are written beside the raw ones under another suffix."""
    names = [name for name in list_files(tree, raw) if not name.endswith(made)]
    return [Job(form, tree / name, out / (name.removesuffix(raw) + made)) for name in names]


def _plan_gta(root: Path, out: Path) -> list[Job]:
    (folder,) = _present(root, ("labels",), "gta")
    return _plan_suffixed("label ids", root / folder, out / folder, ".png", "_labelTrainIds.png")


def _plan_synthia(root: Path, out: Path) -> list[Job]:
    (folder,) = _present(root, ("GT/LABELS",), "synthia")
    return _plan_suffixed("synthia", root / folder, out / folder, ".png", "_labelTrainIds.png")


def _plan_acdc(root: Path, out: Path) -> list[Job]:
    folders = [f"gt/{condition}/{split}" for condition in CONDITIONS for split in ("train", "val")]
    jobs = []
    for folder in _present(root, folders, "acdc"):
        raw, made = "_gt_labelIds.png", "_gt_labelTrainIds.png"
        jobs += _plan_suffixed("label ids", root / folder, out / folder, raw, made)
    return jobs


def _plan_mapillary(root: Path, out: Path) -> list[Job]:
    raw = {"training/v1.2/labels": "train", "validation/v1.2/labels": "val"}
    jobs = []
    for folder in _present(root, tuple(raw), "mapillary"):
        split, tree = raw[folder], root / folder
        made = out / "cityscapes_trainIdLabel" / split / "label"
        names = list_files(tree, ".png")
        jobs += [Job("mapillary", tree / name, made / name) for name in names]
        if split == "val":
            jobs += [
                Job("mapillary half label", tree / name, out / "half/val_label" / name) for name in names
            ]
            images = root / "validation/images"
            if not images.is_dir():
                raise missing_folder("validation/images", root, "mapillary")
            for name in list_files(images, ".jpg"):
                jobs.append(Job("mapillary half image", images / name, out / "half/val_img" / name))
    return jobs


# --- doing -------------------------------------------------------------------------------------------------


def is_whole(path: Path) -> bool:
    """Whether a PNG or JPEG is there and ends as such a file must; a copy cut short does not."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - 8, 0))
            end = file.read()
    except OSError:
        return False
    return end == _PNG_END or end.endswith(_JPEG_END)


def run_jobs(jobs: Sequence[Job], *, workers: int = 1, force: bool = False) -> Iterator[Outcome]:
    """Do the jobs, yielding what became of each in their order; a damaged raw file does not stop the rest.

    Args:
        jobs: of `plan`.
        workers: files worked on at a time.
        force: write also what is there.

    Raises:
        ReinError: a file cannot be written (no space, no permission).
    """
    todo = []
    for job in jobs:
        if not force and is_whole(job.target):
            yield Outcome(job, "kept")
        else:
            todo.append(job)
    if workers <= 1:
        yield from map(_do, todo)
        return
    with _pool(todo, workers) as pool:
        try:
            yield from pool.map(_do, todo, chunksize=8)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool(jobs: Sequence[Job], workers: int) -> Executor:
    """Threads, as OpenCV decodes and encodes outside of the interpreter's lock; processes for many polygons."""
    if sum(job.form == "polygons" for job in jobs) < WORTH_PROCESSES:
        return ThreadPoolExecutor(workers)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_one_thread)


def _one_thread() -> None:
    cv2.setNumThreads(0)


def _do(job: Job) -> Outcome:
    try:
        convert(job.form, job.source, job.target)
    except ReinError as error:
        if error.message.startswith("Cannot write"):
            raise  # the next file would fail as well
        return Outcome(job, "failed", error.message)
    return Outcome(job, "written")


def failure(outcomes: Sequence[Outcome]) -> ReinError | None:
    """One error for the jobs that failed, or None."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if not failed:
        return None
    reasons = " ".join(outcome.reason for outcome in failed[:3])
    more = " …" if len(failed) > 3 else ""
    message = f"{len(failed)} of {len(outcomes)} labels could not be prepared: {reasons}{more}"
    return ReinError(message, "Fetch these files again, then run the same command: what is done stays.")


def write_lists(root: Path, out: Path | None = None) -> list[Path]:
    """Write `train.txt`, `val.txt` and `test.txt` of Cityscapes: the images of a split, without suffix."""
    written = []
    for split in ("train", "val", "test"):
        images = root / "leftImg8bit" / split
        if images.is_dir():
            names = [name.removesuffix("_leftImg8bit.png") for name in list_files(images, "_leftImg8bit.png")]
            path = (out or root) / f"{split}.txt"
            write_bytes(path, "".join(f"{name}\n" for name in names).encode())
            written.append(path)
    return written


def prepare(
    dataset: str, root: Path, *, out: Path | None = None, workers: int = 1, force: bool = False
) -> list[Outcome]:
    """Plan and do everything for a dataset, the lists of Cityscapes included.

    Raises:
        ReinError: raw labels missing, damaged files (after all others are done), or no space to write.
    """
    outcomes = list(run_jobs(plan(dataset, root, out), workers=workers, force=force))
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
        root: where the images are.
        out: where prepared files were written, if not in `root`.

    Raises:
        ReinError: there is no split at all, or the label folder of one is missing.
    """
    reports = []
    for split, all_folders in splits.items():
        labelled = [f for f in all_folders if f.labels is not None and f.listed is None]
        found = []
        for folders in labelled:
            images = out if out is not None and (out / folders.images).is_dir() else root
            if (images / folders.images).is_dir():
                found.append(find_pairs(folders, images, dataset, labels_root=out))
        if found:
            reports.append(SplitReport(split, _joined(found)))
    if not reports:
        first = next(iter(splits.values()))[0]
        raise missing_folder(first.images, root, dataset)
    return reports


def _joined(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(
        tuple(sample for pairs in parts for sample in pairs.samples),
        tuple(name for pairs in parts for name in pairs.without_label),
        tuple(name for pairs in parts for name in pairs.without_image),
    )


def splits_at(dataset: str, root: Path, out: Path | None) -> dict[str, tuple[Folders, ...]]:
    """Folders of a built-in dataset, its half-size copy looked for where it was written."""
    return split_folders(out or root)[dataset]


def require_pairs(reports: Sequence[SplitReport]) -> None:
    """ReinError where images of a prepared split have no label."""
    for report in reports:
        lone = report.pairs.without_label
        if lone:
            message = (
                f"Split '{report.split}': {len(lone)} of {len(report.pairs.samples)} images have no label"
            )
            raise ReinError(f"{message}: {some(lone)}.", "Fetch the missing labels, or remove these images.")
