"""Objects as COCO and YOLO files tell them -> label maps of an own dataset, drawn once.

What no object covers is of the class `background` where there is one, else ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reincli.config import OwnDataset
from reincli.data.index import list_files
from reincli.data.layouts import DRAWN
from reincli.data.missing import missing_folder
from reincli.data.stored import stored_values
from reincli.errors import ReinError
from reincli.media.images import is_whole_png, write_png
from reincli.media.outputs import keep_apart, mark, mark_of
from reincli.media.whole_files import clear_dead_below
from reincli.media.workers import in_order, threads
from reincli.prepare.coco import coco_tasks, draw_coco
from reincli.prepare.convert import MAKER
from reincli.prepare.label_tasks import BACKGROUND, Task, Told, empty_value
from reincli.prepare.yolo import draw_yolo, yolo_tasks


def prepare_split(
    dataset: str,
    own: OwnDataset,
    name: str,
    root: Path,
    out: Path | None = None,
    *,
    workers: int = 1,
    force: bool = False,
) -> Iterator[tuple[int, Told]]:
    """Draw the labels of a split that are not there or were drawn from something else.

    Args:
        dataset: its name. own: the description. name: of the split, whose `format` is coco or yolo.
        root: of the dataset.
        out: where labels go, in the folder `DRAWN`; None: `root`. workers: labels drawn at a time.
        force: draw also what is there.

    Yields:
        How many labels there are in all, and what was done so far, after each.

    Raises:
        ReinError: what is told cannot be read, or does not fit the description.
    """
    split, told = own.splits[name], Told()
    if name in ("", ".", "..") or set(name) & set("/\\"):
        raise ReinError(
            f"The split '{name}' of '{dataset}' cannot have a folder of its own.", "Name it without '/'."
        )
    _require_values(own)
    folders = [split.images, *([str(split.labels)] if split.format == "yolo" else [])]
    for folder in folders:
        if not (root / folder).is_dir():
            raise missing_folder(folder, root, dataset)
    make, paint = (coco_tasks, draw_coco) if split.format == "coco" else (yolo_tasks, draw_yolo)
    place = _place(out or root, name, root / split.images, split.image_suffix)
    tasks = make(own, split, root, place, told)
    if not tasks:
        told_of = f": {told.not_there[0]}" if told.not_there else ""
        raise ReinError(
            f"'{root / str(split.labels)}' tells of no image '*{split.image_suffix}' in '{root / split.images}'"
            f"{told_of}.",
            "Say in the description of this split where the images are that it tells of: images, image_suffix.",
        )
    reads = [str(task.image) for task in tasks]
    keep_apart([*reads, str(root / str(split.labels))], (str(task.target) for task in tasks))
    clear_dead_below(place)
    told.removed = _remove_others(place, {task.target for task in tasks})
    yield len(tasks), told

    def work(task: Task) -> bool | None:
        """Whether a label was drawn; None where one stays that is not ours."""
        if not force and is_whole_png(task.target):
            made = mark_of(task.target) or ""
            if made == f"{MAKER} {task.stamp}" or not made.startswith(f"{MAKER} "):
                return False if made.startswith(f"{MAKER} ") else None
        write_png(task.target, paint(task, empty_value(own)), mark=mark(MAKER, task.stamp))
        return True

    with threads(workers) as pool:
        for wrote in in_order(pool, work, tasks):
            told.written += wrote is True
            told.kept += not wrote
            told.others += wrote is None
            yield len(tasks), told


def _place(out: Path, name: str, images: Path, suffix: str) -> Path:
    """Where the labels of a split go. ReinError where they would be taken for its images."""
    place = out / DRAWN / name
    if place.resolve().is_relative_to(images.resolve()) and ".png".endswith(suffix):
        raise ReinError(
            f"The labels would be drawn into '{place}', among the images of '{images}'.",
            "Put the images into a folder of their own, or choose another place: --out DIR",
        )
    return place


def _remove_others(place: Path, targets: set[Path]) -> int:
    """Remove labels that were drawn of what is not told any more; how many."""
    there = [place / name for name in list_files(place, ".png")] if place.is_dir() else []
    old = [path for path in there if path not in targets and (mark_of(path) or "").startswith(f"{MAKER} ")]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _require_values(own: OwnDataset) -> None:
    """ReinError where a class that is drawn, or what no object covers, would be read as something else."""
    stored = stored_values(own)
    for each, value in zip(own.classes, stored, strict=True):
        if value is None and each.name.casefold() == BACKGROUND:
            free = next(n for n in range(254, -1, -1) if str(n) not in own.map and n != own.ignore)
            raise ReinError(
                f"What no object covers is of the class '{each.name}', and `map` has no number for it.",
                f'Give it one that no object has: map = {{ ..., "{free}" = {own.classes.index(each)} }}',
            )
        if not own.map and value == own.ignore:
            raise ReinError(
                f"The class '{each.name}' would be drawn as {value}, which is ignored.",
                "Its objects could not be told from what is ignored: leave `ignore` out of the description.",
            )
