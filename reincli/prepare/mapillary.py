"""Which files have to be made for Mapillary Vistas, of version 1.2 or 2.0, and from which version those there are.

The published scores are of version 1.2 on a copy of half the size. Both versions have the same images; their labels lie
side by side in `v1.2/` and `v2.0/`, and in older downloads without a version. Ids mean different things in the two, so
that labels of one are never read as the other's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from reincli.data.index import list_files
from reincli.data.missing import missing_folder
from reincli.data.stored import LAST_ID_1_2, largest_mapillary_id
from reincli.errors import ReinError, typed
from reincli.media.whole_files import write_bytes
from reincli.prepare.jobs import Job

VERSIONS = ("v1.2", "v2.0")
PREPARED = "cityscapes_trainIdLabel"
MADE = (f"{PREPARED}/train/label", f"{PREPARED}/val/label", "half/val_label")
"""Folders of labels that are made."""
NOTE = f"{PREPARED}/version.txt"
"""Says from which version they were made; where it is missing, from 1.2."""
LOOKED_AT = 16
"""Labels of a folder that are read to know its version: almost every street shows an id that 1.2 does not have."""


def plan(root: Path, out: Path, version: str = VERSIONS[0]) -> list[Job]:
    """The files to make; see `planning.plan`.

    Raises:
        ReinError: no labels of this version, one of `VERSIONS`, are there.
    """
    folders = _raw_folders(root, version)
    form = "mapillary" if version == VERSIONS[0] else f"mapillary {version}"
    jobs = []
    for split, tree in folders.items():
        names = list_files(tree, ".png")
        made = out / PREPARED / split / "label"
        jobs += [Job(form, f"{tree}/{name}", f"{made}/{name}") for name in names]
        if split != "val":
            continue
        jobs += [
            Job(f"{form} half label", f"{tree}/{name}", f"{out}/half/val_label/{name}") for name in names
        ]
        images = root / "validation/images"
        if not images.is_dir():
            raise missing_folder("validation/images", root, "mapillary")
        for name in list_files(images, ".jpg"):
            jobs.append(Job("mapillary half image", f"{images}/{name}", f"{out}/half/val_img/{name}"))
    return jobs


def _raw_folders(root: Path, version: str) -> dict[str, Path]:
    """The folders of raw labels by split, their ids looked at."""
    splits = {"training": "train", "validation": "val"}
    own = {split: root / folder / version / "labels" for folder, split in splits.items()}
    flat = {split: root / folder / "labels" for folder, split in splits.items()}
    for there in (own, flat):
        found = {split: tree for split, tree in there.items() if tree.is_dir()}
        if found:
            for tree in found.values():
                _require_version(tree, version)
            return found
    other = VERSIONS[1 - VERSIONS.index(version)]
    if any((root / folder / other / "labels").is_dir() for folder in splits):
        raise ReinError(
            f"'{root}' holds labels of version {other[1:]} alone; {version[1:]} was asked for.",
            f"Get mapillary-vistas-dataset_public_{version}.zip, or take what is there: "
            f"rein prepare-data mapillary {typed(root)} --version {other}",
        )
    raise missing_folder(f"training/{version}/labels", root, "mapillary")


def _require_version(tree: Path, version: str) -> None:
    """ReinError where some labels of a folder show the ids of the other version."""
    largest = [_largest_id(path) for path in _some(tree)]
    is_two = max(largest, default=0) > LAST_ID_1_2
    if version == VERSIONS[0] and is_two:
        raise ReinError(
            f"The labels in '{tree}' are of version 2.0: they have ids above {LAST_ID_1_2}, where 1.2 ends.",
            "Put those of v1.2/labels in their place, or map the 124 classes of 2.0: --version v2.0",
        )
    if version == VERSIONS[1] and largest and not is_two and tree.parent.name != version:
        raise ReinError(
            f"The labels in '{tree}' have no id above {LAST_ID_1_2}: they look like version 1.2.",
            "Leave --version out, or put the labels of 2.0 into v2.0/labels.",
        )


def _some(tree: Path) -> list[Path]:
    """Some labels of a folder, evenly over it."""
    names = list_files(tree, ".png")
    return [tree / name for name in names[:: max(len(names) // LOOKED_AT, 1)][:LOOKED_AT]]


def _largest_id(path: Path) -> int:
    try:
        return largest_mapillary_id(path)
    except ReinError:
        return 0  # it is named when it is converted


def settle(out: Path, version: str, *, force: bool = False) -> None:
    """Note from which version the labels are made, before the first is written.

    Args:
        out: where they are written.
        version: one of `VERSIONS`.
        force: labels made from the other version are removed, so that never both lie there.

    Raises:
        ReinError: there are labels made from the other version, and no `force`.
    """
    note = out / NOTE
    known = note.read_text("utf-8").strip() if note.is_file() else VERSIONS[0]
    if known == version:
        return
    there = [out / folder for folder in MADE if (out / folder).is_dir()]
    if there and not force:
        raise ReinError(
            f"The prepared labels in '{out}' were made from version {known[1:]}, not {version[1:]}.",
            f"Make them anew: --version {version} --force. Or keep them: --version {known}",
        )
    for folder in there:
        shutil.rmtree(folder)
    write_bytes(note, f"{version}\n".encode())
