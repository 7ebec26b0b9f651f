"""What to say where a dataset, or a part of it, is not in its place."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from reincli.data.downloads import (
    brings,
    downloads_of,
    is_open,
    names_for,
    not_unpacked,
    plain_name,
    unfinished,
    whole_name,
)
from reincli.data.index import list_files
from reincli.data.layouts import DATASETS, DRAWN, HOMES, Folders
from reincli.errors import ReinError, typed
from reincli.media.inputs import IMAGE_SUFFIXES

DEPTH = 2
"""Levels below a folder that are searched for the dataset."""
EXACT = (".gif", *(suffix for suffix in IMAGE_SUFFIXES if suffix not in (".jpg", ".jpeg", ".jp2")))
"""Suffixes of pictures that may keep the values of labels as they were written."""
HEIGHT = 4
"""Levels above it."""


def hint(dataset: str, root: Path, folder: str = "", *, prepare: bool = False) -> str:
    """What brings a dataset, or a folder of it, that is missing or not prepared."""
    if dataset not in DATASETS and folder.startswith(DRAWN):
        return f"Draw the labels from their file first: {command_for(dataset, root)}"
    if dataset not in DATASETS:
        beside = _nearest_folder(root, folder)
        near = f" Did you mean '{beside}'?" if beside else ""
        return f"Mend the folder or its root in the description; it is relative to '{root}'.{near}"
    command = command_for(dataset, root)
    if prepare and dataset not in ("bdd100k", "urbansyn"):
        return f"Prepare the labels: {command}"
    if dataset == "cityscapes-c":
        return f"Make it from the Cityscapes validation images: {command}"
    waiting = [path for path, what in not_unpacked(dataset, root) if brings(what, folder)]
    there = {plain_name(path.name) for path in waiting}
    arriving = [
        path
        for path, what in unfinished(dataset, root)
        if brings(what, folder) and plain_name(whole_name(path.name)) not in there
    ]
    if arriving:
        return f"'{arriving[0]}' is an unfinished download: let it finish, then: {command}"
    if waiting:
        them = (
            f" and {len(waiting) - 1} more lie there; unpack" if len(waiting) > 1 else " lies there; unpack"
        )
        return f"'{waiting[0]}'{them} and prepare: {command}"
    nothing = not any((root / each).is_dir() for d in downloads_of(dataset) for each in d.brings)
    files = names_for(dataset, "" if nothing else folder)
    what = f"{files} from {HOMES[dataset]}" if files else f"it from {HOMES[dataset]}"
    fetch = f"rein download {dataset}" + command.removeprefix(f"rein prepare-data {dataset}").replace(
        " ", " --to ", 1
    )
    start = f"{fetch}. Or get" if is_open(dataset) else "Get"
    return f"{start} {what}, put it into '{root}', packed or unpacked, then: {command}"


def command_for(dataset: str, root: Path | None) -> str:
    """How a dataset is prepared, with its folder where that is not the usual one (or not known, None)."""
    if dataset not in DATASETS:
        return f"rein prepare-data {dataset} --config FILE"
    usual = root is None or root == Path("data") / dataset
    return f"rein prepare-data {dataset}" + ("" if usual or root is None else f" {typed(root)}")


def no_image(folder: Path, suffix: str, dataset: str, otherwise: str) -> ReinError:
    """The error for a folder without images of the expected suffix: says which others are there, how many of each.

    Args:
        folder: searched. suffix: expected. otherwise: the hint where nothing else is there either.
    """
    there: Counter[str] = Counter()
    for _, _, names in os.walk(folder, followlinks=True):
        there.update(Path(name).suffix for name in names if not name.startswith("."))
    counted = ", ".join(f"{count} {end or 'without suffix'}" for end, count in there.most_common(4))
    message = f"No image '*{suffix}' is in '{folder}'" + (
        f"; there are {counted}." if counted else ": it is empty."
    )
    pictures = [end for end, _ in there.most_common() if end.lower() in IMAGE_SUFFIXES]
    if not pictures:
        return ReinError(message, otherwise)
    if dataset in DATASETS:
        return ReinError(
            message, f"'{dataset}' is read with the names of its download: give the images as '*{suffix}'."
        )
    return ReinError(message, f'Write image_suffix = "{pictures[0]}" in the description of this split.')


def bring_labels(folders: Folders, root: Path, dataset: str, names: Sequence[str]) -> str:
    """What to do about images without label: `names`, of images, relative to their folder."""
    if dataset in DATASETS or str(folders.labels).startswith(DRAWN):
        return hint(dataset, root, prepare=True)
    place = root / str(folders.labels)
    ending = _ending_of(place, [name.removesuffix(folders.image_suffix) for name in names])
    if ending.endswith(".txt"):
        return f"Files of these names end with '{ending}' there: if they are YOLO's outlines, write format = \"yolo\"."
    if ending and not ending.lower().endswith(EXACT):
        return f"Files of these names end with '{ending}' there: give the labels as PNGs of class indices."
    if ending:
        return f"Labels of these names end with '{ending}' there: write label_suffix = \"{ending}\" in the description."
    return "Bring their labels, or take these images out."


def bring_images(folders: Folders, root: Path, names: Sequence[str]) -> str:
    """What to do about labels without image: `names`, of labels, relative to their folder."""
    stems = [name.removesuffix(folders.label_suffixes[-1]) for name in names]
    ending = _ending_of(root / folders.images, stems)
    if ending:
        return (
            f"Images of these names end with '{ending}' there, and a split has one image_suffix, here "
            f"'{folders.image_suffix}': convert them."
        )
    return (
        "Bring their images: a part of the download, or their folder, is missing. Else take the labels out."
    )


def _ending_of(folder: Path, stems: Sequence[str]) -> str:
    """The ending ('.tif', '_mask.png') with which a folder has files for most of these names; '' for none."""
    there = set(list_files(folder, "")) if folder.is_dir() else set()
    found: Counter[str] = Counter()
    first = set(stems)
    for name in there:
        for at, letter in enumerate(name):
            if at and not letter.isalnum() and letter != "/" and name[:at] in first:
                found[name[at:]] += 1
    ending, count = found.most_common(1)[0] if found else ("", 0)
    return ending if 2 * count >= len(first) and PurePosixPath(ending).name == ending else ""


def missing_folder(folder: str, root: Path, dataset: str) -> ReinError:
    """The error for a folder that is not there; a root some levels too high or too low is recognised."""
    message = f"'{dataset}' is not in place: there is no folder '{root / folder}'."
    deeper = next((place for place in _below(root, DEPTH) if (place / folder).is_dir()), None)
    if deeper is not None:
        level = "one level deeper" if deeper.parent == root else "deeper"
        return ReinError(message, f"It lies {level}, in '{deeper}': give that folder, or move it up.")
    for step, above in enumerate(root.absolute().parents[:HEIGHT]):
        if (above / folder).is_dir():
            shown = root.parent if step == 0 else above
            level = "one level higher" if step == 0 else "higher"
            return ReinError(message, f"It lies {level}, in '{shown}': that is the dataset's folder.")
    panoptic = _panoptic(root) if dataset == "bdd100k" and "labels" in folder else None
    if panoptic is not None:
        message += f" '{panoptic}' holds panoptic masks: their ids, up to 40, are other classes."
    prepared = folder.startswith(("cityscapes_trainIdLabel", "half"))
    return ReinError(message, hint(dataset, root, folder, prepare=prepared))


def _panoptic(root: Path) -> Path | None:
    """BDD100K's panoptic masks in its folder, packed or unpacked."""
    return next(
        (path for around in ("", "*/", "*/*/") for path in sorted(root.glob(f"{around}*pan_seg*"))), None
    )


def _nearest_folder(root: Path, folder: str) -> str:
    """A folder below the root that a mistyped one may stand for; '' where none is near."""
    there = [place.relative_to(root).as_posix() for place in _below(root, 3)] if root.is_dir() else []
    close = difflib.get_close_matches(folder.replace("\\", "/"), there, n=1, cutoff=0.7) if folder else []
    return close[0] if close else ""


def _below(root: Path, depth: int) -> Iterator[Path]:
    """Folders below, the nearer ones first."""
    level = [root]
    for _ in range(depth):
        found = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    found += sorted(Path(entry.path) for entry in entries if entry.is_dir())
            except OSError:
                continue
        yield from found
        level = found
