"""Which files have to be made for a dataset, from which of its raw files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from reincli.data.downloads import names_for
from reincli.data.index import list_files
from reincli.data.layouts import CONDITIONS, HOMES, NO_CONVERSION
from reincli.data.missing import command_for, missing_folder
from reincli.errors import ReinError
from reincli.prepare import mapillary
from reincli.prepare.corruption import HEADLINE, Corruption
from reincli.prepare.jobs import Job

CITYSCAPES_LABELS = {"gtFine": ("train", "val"), "gtCoarse": ("train", "train_extra")}
"""Splits whose labels are made, by kind; the coarse ones of `val` are read by nobody."""


def plan(
    dataset: str,
    root: Path,
    out: Path | None = None,
    corruptions: Sequence[Corruption] = HEADLINE,
    version: str = mapillary.VERSIONS[0],
) -> list[Job]:
    """The files to make for a dataset, sorted; empty where its labels come as they are read.

    Args:
        dataset: a built-in name.
        root: its folder, as unpacked.
        out: where labels go, in the same folders as beside the originals; None: `root`.
        corruptions: of `cityscapes-c`; by default all 16 at severity 5.
        version: of `mapillary`.

    Raises:
        ReinError: the raw labels are missing, or the dataset cannot be prepared.
    """
    target = out or root
    if dataset in NO_CONVERSION:
        return []
    if dataset == "cityscapes-c":
        return _plan_corruptions(root, target, corruptions)
    planners: dict[str, Callable[[Path, Path], list[Job]]] = {
        "cityscapes": _plan_cityscapes,
        "gta": _plan_gta,
        "synthia": _plan_synthia,
        "mapillary": partial(mapillary.plan, version=version),
        "acdc": _plan_acdc,
    }
    if dataset not in planners:
        known = ", ".join([*planners, *NO_CONVERSION, "cityscapes-c"])
        raise ReinError(f"'{dataset}' cannot be prepared.", f"Known: {known}.", usage=True)
    jobs = planners[dataset](root, target)
    return sorted(jobs, key=lambda job: job.writes)


def _present(root: Path, folders: Sequence[str], dataset: str) -> list[str]:
    """Those of the folders that are there; at least one must be."""
    found = [folder for folder in folders if (root / folder).is_dir()]
    if not found:
        raise missing_folder(folders[0], root, dataset)
    return found


def _plan_cityscapes(root: Path, out: Path) -> list[Job]:
    jobs = []
    folders = [f"{kind}/{split}" for kind, splits in CITYSCAPES_LABELS.items() for split in splits]
    for folder in _present(root, folders, "cityscapes"):
        tree, start = root / folder, f"_{folder.partition('/')[0]}_"
        ids, drawn, made = f"{start}labelIds.png", f"{start}polygons.json", f"{start}labelTrainIds.png"
        forms = {name.removesuffix(ids): ("label ids", name) for name in list_files(tree, ids)}
        polygons = {name.removesuffix(drawn): ("polygons", name) for name in list_files(tree, drawn)}
        for stem, (form, name) in {**forms, **polygons}.items():
            jobs.append(Job(form, f"{tree}/{name}", f"{out}/{folder}/{stem}{made}"))
    return jobs


def _plan_suffixed(form: str, tree: Path, out: Path, raw: str, made: str) -> list[Job]:
    """Jobs for labels that are written beside the raw ones under another suffix."""
    names = [name for name in list_files(tree, raw) if not name.endswith(made)]
    source, target = f"{tree}/", f"{out}/"  # joined as text: 25,000 times, it shows
    return [Job(form, source + name, target + name.removesuffix(raw) + made) for name in names]


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


def _plan_corruptions(root: Path, out: Path, corruptions: Sequence[Corruption]) -> list[Job]:
    """Jobs in the order of the corruptions, so that an interrupted run has some of them complete."""
    source = root.parent / "cityscapes" / "leftImg8bit" / "val"
    names = list_files(source, "_leftImg8bit.png") if source.is_dir() else []
    if not names:
        message = f"'cityscapes-c' is made from the images of 'cityscapes:val', which are not in '{source}'."
        hint = f"Get {names_for('cityscapes', 'leftImg8bit')} from {HOMES['cityscapes']}, then: "
        hint += command_for("cityscapes", root.parent / "cityscapes")
        raise ReinError(message, hint)
    _require_labels(out, names)
    return [
        Job("corruption", f"{source}/{name}", f"{out}/{each.name}/{each.severity}/{name}", each)
        for each in corruptions
        for name in names
    ]


def _require_labels(out: Path, names: Sequence[str]) -> None:
    """ReinError where what is made could not be scored: said before hours of drawing, not after."""
    labels = out.parent / "cityscapes" / "gtFine" / "val"
    there = set(list_files(labels, "_gtFine_labelTrainIds.png")) if labels.is_dir() else set()
    missing = [
        name
        for name in names
        if name.removesuffix("_leftImg8bit.png") + "_gtFine_labelTrainIds.png" not in there
    ]
    if missing:
        raise ReinError(
            f"{len(missing)} of {len(names)} images of 'cityscapes:val' have no prepared label in '{labels}': "
            f"{missing[0]}.",
            f"'cityscapes-c' is scored with these: {names_for('cityscapes', 'gtFine')}, then: "
            + command_for("cityscapes", labels.parents[1]),
        )
