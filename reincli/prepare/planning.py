"""Which files have to be made for a dataset, from which of its raw files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reincli.data.downloads import names_for
from reincli.data.index import list_files
from reincli.data.layouts import CONDITIONS, HOMES, NO_CONVERSION
from reincli.data.missing import missing_folder
from reincli.errors import ReinError
from reincli.prepare.corruption import HEADLINE, Corruption

POLYGONS, LABEL_IDS, TRAIN_IDS = "_gtFine_polygons.json", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


@dataclass(frozen=True)
class Job:
    """One file to make: `form` says how (`convert.convert`); a corruption is drawn onto the image instead.

    Names are text: where 25,000 files are there already, making paths of them takes longer than looking at them.
    """

    form: str
    reads: str
    writes: str
    corruption: Corruption | None = None

    @property
    def source(self) -> Path:
        """The raw file."""
        return Path(self.reads)

    @property
    def target(self) -> Path:
        """The file to make."""
        return Path(self.writes)


def plan(
    dataset: str, root: Path, out: Path | None = None, corruptions: Sequence[Corruption] = HEADLINE
) -> list[Job]:
    """The files to make for a dataset, sorted; empty where its labels come as they are read.

    Args:
        dataset: a built-in name.
        root: its folder, as unpacked.
        out: where labels go, in the same folders as beside the originals; None: `root`.
        corruptions: of `cityscapes-c`; by default all 16 at severity 5.

    Raises:
        ReinError: the raw labels are missing, or the dataset cannot be prepared.
    """
    target = out or root
    if dataset in NO_CONVERSION:
        return []
    if dataset == "cityscapes-c":
        return _plan_corruptions(root, target, corruptions)
    planners = {
        "cityscapes": _plan_cityscapes,
        "gta": _plan_gta,
        "synthia": _plan_synthia,
        "mapillary": _plan_mapillary,
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
    for folder in _present(root, ("gtFine/train", "gtFine/val"), "cityscapes"):
        tree = root / folder
        forms = {name.removesuffix(LABEL_IDS): ("label ids", name) for name in list_files(tree, LABEL_IDS)}
        polygons = {name.removesuffix(POLYGONS): ("polygons", name) for name in list_files(tree, POLYGONS)}
        for stem, (form, name) in {**forms, **polygons}.items():
            jobs.append(Job(form, f"{tree}/{name}", f"{out}/{folder}/{stem}{TRAIN_IDS}"))
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


def _plan_mapillary(root: Path, out: Path) -> list[Job]:
    raw = {"training/v1.2/labels": "train", "validation/v1.2/labels": "val"}
    if not any(
        (root / folder).is_dir() for folder in raw
    ):  # the first download of 1.2 has them without a version
        flat = {folder.replace("/v1.2", ""): split for folder, split in raw.items()}
        raw = flat if any((root / folder).is_dir() for folder in flat) else raw
    jobs = []
    for folder in _present(root, tuple(raw), "mapillary"):
        split, tree = raw[folder], root / folder
        made = out / "cityscapes_trainIdLabel" / split / "label"
        names = list_files(tree, ".png")
        jobs += [Job("mapillary", f"{tree}/{name}", f"{made}/{name}") for name in names]
        if split == "val":
            jobs += [
                Job("mapillary half label", f"{tree}/{name}", f"{out}/half/val_label/{name}")
                for name in names
            ]
            images = root / "validation/images"
            if not images.is_dir():
                raise missing_folder("validation/images", root, "mapillary")
            for name in list_files(images, ".jpg"):
                jobs.append(Job("mapillary half image", f"{images}/{name}", f"{out}/half/val_img/{name}"))
    return jobs


def _plan_corruptions(root: Path, out: Path, corruptions: Sequence[Corruption]) -> list[Job]:
    """Jobs in the order of the corruptions, so that an interrupted run has some of them complete."""
    source = root.parent / "cityscapes" / "leftImg8bit" / "val"
    names = list_files(source, "_leftImg8bit.png") if source.is_dir() else []
    if not names:
        message = f"'cityscapes-c' is made from the images of 'cityscapes:val', which are not in '{source}'."
        hint = f"Get {names_for('cityscapes', 'leftImg8bit')} from {HOMES['cityscapes']}: rein prepare-data cityscapes"
        raise ReinError(message, hint)
    return [
        Job("corruption", f"{source}/{name}", f"{out}/{each.name}/{each.severity}/{name}", each)
        for each in corruptions
        for name in names
    ]
