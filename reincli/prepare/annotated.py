"""Objects as COCO and YOLO files tell them -> label maps of an own dataset, drawn once.

Formats by their own descriptions: COCO's instances (polygons, run lengths) and panoptic segments, YOLO's segment files
(a line an object: class and corners as shares of the image's sides). What no object covers is of the class `background`
where there is one, else ignored.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reincli.config import OwnDataset, SplitSettings
from reincli.data.index import list_files
from reincli.data.layouts import DRAWN
from reincli.data.missing import missing_folder
from reincli.data.stored import stored_values
from reincli.errors import ReinError
from reincli.media.images import is_whole_png, jpeg_turn, read_bytes, read_image, write_png
from reincli.media.outputs import keep_apart, mark, mark_of
from reincli.media.whole_files import clear_dead_below
from reincli.prepare.convert import MAKER, raw_stamp
from reincli.prepare.shapes import FARTHEST, LARGEST_SIDE, Shape, draw, runs, unpacked

BACKGROUND = "background"
"""Name of the class of what no object covers, if there is one."""
BEYOND = (-1.0, 2.0)
"""Shares of a side within which YOLO's corners lie, where objects may reach out of the image; pixels do not."""


@dataclass
class Told:
    """What became of a split: labels written and kept, objects left out by category, images that were not there.

    `others`: of those kept, how many somebody else painted. `removed`: labels of which nothing is told any more.
    """

    written: int = 0
    kept: int = 0
    others: int = 0
    removed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    not_there: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """One label to draw: what is told of an image, by what it is known whether that changed."""

    image: Path
    target: Path
    size: tuple[int, int] | None
    told: Any
    stamp: str


# --- COCO --------------------------------------------------------------------------------------------------


def coco_tasks(own: OwnDataset, split: SplitSettings, root: Path, target: Path, told: Told) -> list[Task]:
    """The labels to draw from a COCO file, instances or panoptic.

    Raises:
        ReinError: no such file, no JSON of COCO's, no category that is a class, or panoptic masks that are not there.
    """
    path = root / str(split.labels)
    try:
        raw = json.loads(read_bytes(path, "COCO file").tobytes().decode("utf-8-sig"))
        categories = {int(each["id"]): str(each["name"]) for each in raw["categories"]}
        listed = {each["id"]: each for each in raw["images"]}
        by_image: dict[Any, list[Any]] = {}
        kinds: dict[Any, Counter[Any]] = {}
        panoptic = False
        for each in raw["annotations"]:
            by_image.setdefault(each["image_id"], []).append(each)
            panoptic |= "segments_info" in each
            inside = [part.get("category_id") for part in each.get("segments_info", [each])]
            kinds.setdefault(each["image_id"], Counter()).update(inside)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _not_coco(path, error) from None
    if len(listed) < len(raw["images"]):
        raise _twice(path, f"the id {_first_twice(each['id'] for each in raw['images'])!r}")
    stray = [number for number in by_image if number not in listed]
    if stray and len(stray) == len(by_image):
        raise ReinError(
            f"No object of '{path}' is on one of its images: the first is on image {stray[0]!r}, and there is "
            + (f"{next(iter(listed))!r}, …." if listed else "none."),
            "Export it again: image_id of the annotations has to be id of the images.",
        )
    told.not_there += [f"image {number!r}" for number in stray]
    values = category_values(own, categories)
    if not values:
        names = ", ".join(sorted(set(categories.values()))[:6])
        raise ReinError(
            f"No category of '{path}' is a class of the description; its categories: {names}.",
            'Call the classes as the categories, or map their ids: map = { "ID" = CLASS }.',
        )
    masks = root / (split.masks or str(Path(str(split.labels)).with_suffix("")))
    if panoptic and not masks.is_dir():
        raise ReinError(
            f"The masks of the panoptic file '{path}' are not in '{masks}'.",
            'Say where they are: masks = "FOLDER" in the description of this split.',
        )
    there = Names(root / split.images, split.image_suffix)
    tasks: dict[str, Task] = {}
    for number, entry in listed.items():
        name = there.find(str(entry.get("file_name", "")))
        if name is None:
            told.not_there.append(str(entry.get("file_name", number)))
            continue
        if name in tasks:
            raise _twice(path, f"the image '{name}'")
        objects = by_image.get(number, [])
        for kind, count in kinds.get(number, Counter()).items():
            if kind not in values:
                told.left_out[categories.get(kind, f"id {kind}")] += count
        size = (entry.get("height"), entry.get("width"))
        drawn = [masks / str(each.get("file_name")) for each in objects] if panoptic else []
        of_masks = [raw_stamp(mask) for mask in drawn if mask.is_file()]
        stamp = _stamp([objects, of_masks, size, sorted(values.items()), own.ignore, _empty(own)])
        detail = (objects, values, masks if panoptic else None, path)
        target_size = _size(size, path)
        tasks[name] = Task(root / split.images / name, target / _png(name, split), target_size, detail, stamp)
    return list(tasks.values())


def _first_twice(numbers: Iterable[Any]) -> Any:
    return Counter(numbers).most_common(1)[0][0]


def _twice(path: Path, what: str) -> ReinError:
    return ReinError(
        f"'{path}' tells of {what} more than once.",
        "Put all that is told of an image under one entry of its own, or export it again: files were joined.",
    )


def category_values(own: OwnDataset, categories: Mapping[int, str]) -> dict[int, int]:
    """Category id -> stored value of its class: by the description's `map` where there is one, else by its name."""
    stored = stored_values(own)
    if own.map:
        return {number: number for number in categories if str(number) in own.map}
    by_name = {each.name.casefold(): value for each, value in zip(own.classes, stored, strict=True)}
    found = {number: by_name.get(name.casefold()) for number, name in categories.items()}
    return {number: value for number, value in found.items() if value is not None}


def draw_coco(task: Task, empty: int) -> np.ndarray:
    """(H, W) uint8 stored values of one image. ReinError where what is told of it is no shape."""
    objects, values, masks, path = task.told
    assert task.size is not None
    try:
        if masks is not None:
            return _panoptic(objects, values, masks, task.size, empty)
        shapes = (
            _coco_shape(each, values[each["category_id"]], task.size)
            for each in objects
            if each["category_id"] in values
        )
        return draw(shapes, task.size, empty)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ReinError(
            f"'{path}' has an object on '{task.image.name}' that is no polygon and no run lengths ({error}).",
            "Export it again, with segments: boxes alone are no labels.",
        ) from None


def _coco_shape(entry: Mapping[str, Any], value: int, size: tuple[int, int]) -> Shape:
    told = entry["segmentation"]
    if isinstance(told, Mapping):
        counts = unpacked(told["counts"]) if isinstance(told["counts"], str) else told["counts"]
        if tuple(told["size"]) != size:
            raise ValueError(f"run lengths for {told['size']}")
        return Shape(value, mask=runs(counts, *size))
    if not told:
        raise ValueError("no segmentation")
    return Shape(value, tuple(_corners(each) for each in told))


def _corners(numbers: Sequence[float] | np.ndarray) -> np.ndarray:
    corners = np.asarray(numbers, np.float64)
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
        raise ValueError(f"a polygon of {corners.size} numbers")
    if np.abs(corners).max() > FARTHEST:
        raise ValueError(f"a corner at {corners[np.abs(corners).argmax()]:g}")
    return corners.reshape(-1, 2)


def _panoptic(
    objects: Sequence[Any], values: Mapping[int, int], masks: Path, size: tuple[int, int], empty: int
) -> np.ndarray:
    """A panoptic mask: a segment's number is R + 256 G + 65536 B, 0 for none."""
    label: np.ndarray = np.full(size, empty, np.uint8)
    for entry in objects:
        rgb = read_image(masks / entry["file_name"], turn=False).astype(np.int64)
        numbers = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        if numbers.shape != size:
            raise ValueError(f"a mask of {numbers.shape[1]}x{numbers.shape[0]}")
        known = {int(each["id"]): values.get(each["category_id"]) for each in entry["segments_info"]}
        found, where = np.unique(numbers, return_inverse=True)
        stray = [int(number) for number in found if number and int(number) not in known]
        if stray:
            raise ValueError(f"segment {stray[0]} of its mask is not described")
        drawn = [known.get(int(number)) for number in found]
        table = np.array([empty if value is None else value for value in drawn], np.uint8)
        label = table[where].reshape(size)
    return label


def _not_coco(path: Path, error: Exception) -> ReinError:
    what = f"it has no {error}" if isinstance(error, KeyError) else "it cannot be read as JSON"
    if isinstance(error, TypeError | AttributeError):
        what = "its images, annotations or categories are no lists of tables"
    return ReinError(
        f"'{path}' is no COCO file: {what}.",
        "Expected is the JSON of instances or of panoptic segments, with images, annotations and categories.",
    )


# --- YOLO --------------------------------------------------------------------------------------------------


def yolo_tasks(own: OwnDataset, split: SplitSettings, root: Path, target: Path, told: Told) -> list[Task]:
    """The labels to draw from YOLO's text files, one an image; images without one have no object.

    Without a class `background`, an image without a file is left without a label.
    """
    folder = root / str(split.labels)
    names = list_files(root / split.images, split.image_suffix)
    files = set(list_files(folder, ".txt"))
    known = {f"{name.removesuffix(split.image_suffix)}.txt": name for name in names}
    told.not_there += sorted(files - set(known) - {"classes.txt"})
    tasks = []
    for file, name in known.items():
        if file not in files and _background(own) is None:
            continue
        text = (
            read_bytes(folder / file, "YOLO file").tobytes().decode("utf-8-sig", "replace")
            if file in files
            else ""
        )
        size = image_size(root / split.images / name)
        stamp = _stamp([text, size, yolo_values(own), own.ignore, _empty(own)])
        detail = (text, yolo_values(own), folder / file)
        tasks.append(Task(root / split.images / name, target / _png(name, split), size, detail, stamp))
    return tasks


def yolo_values(own: OwnDataset) -> list[int | None]:
    """Stored value by YOLO's class number: by the description's `map`, else in the order of the classes.

    A class `background` has no number there.
    """
    if own.map:
        numbers = [int(stored) for stored in own.map if stored.isdigit()]
        return [number if str(number) in own.map else None for number in range(max(numbers, default=-1) + 1)]
    return [
        value
        for each, value in zip(own.classes, stored_values(own), strict=True)
        if each.name.casefold() != BACKGROUND
    ]


def draw_yolo(task: Task, empty: int) -> np.ndarray:
    """(H, W) uint8 stored values of one image.

    Raises:
        ReinError: a line that is no polygon, or of a class that is not described.
    """
    text, values, path = task.told
    assert task.size is not None
    height, width = task.size
    shapes = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            first, *rest = line.split()
            corners = np.asarray([float(each) for each in rest])
            index = int(first)
            if len(rest) == 4:
                raise ReinError(
                    f"Line {number} of '{path}' is a box, not the outline of an object.",
                    "Boxes are no labels: export the segments.",
                )
            polygon = _corners(corners)
            if not BEYOND[0] <= polygon.min() <= polygon.max() <= BEYOND[1]:
                raise ValueError(
                    f"from {polygon.min():g} to {polygon.max():g}, not shares of the image's sides"
                )
        except ValueError as error:
            raise ReinError(
                f"Line {number} of '{path}' is not CLASS X1 Y1 X2 Y2 X3 Y3 … ({error}).",
                "Mend the line, or export the segments again.",
            ) from None
        value = values[index] if 0 <= index < len(values) else None
        if value is None:
            raise ReinError(
                f"Line {number} of '{path}' is of class {index}; the description has {len(values)}, from 0.",
                "Describe all classes in the order of their numbers, or say which is which: "
                'map = { "NUMBER" = CLASS }.',
            )
        shapes.append(Shape(value, (polygon * (width, height),)))
    return draw(shapes, task.size, empty)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image as it is shown, from its head. ReinError where it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            width, height = opened.size
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ReinError(f"Cannot decode the image '{path}'.", "Bring a whole copy of it.") from None
    return (width, height) if jpeg_turn(path) > 4 else (height, width)


# --- both --------------------------------------------------------------------------------------------------


class Names:
    """The images of a folder, found by their path there, or where folders before it are told or left out."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.paths = set(list_files(folder, suffix)) if folder.is_dir() else set()
        count = Counter(path.rpartition("/")[2] for path in self.paths)
        self.by_name = {p.rpartition("/")[2]: p for p in self.paths if count[p.rpartition("/")[2]] == 1}

    def find(self, told: str) -> str | None:
        """The path below the folder, or None."""
        told = told.replace("\\", "/").removeprefix("./")
        path = told if told in self.paths else self.by_name.get(told.rpartition("/")[2])
        one, other = f"/{told}", f"/{path}"
        return path if one.endswith(other) or other.endswith(one) else None  # 'b/1.png' is not 'a/1.png'


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
    place = (out or root) / DRAWN / name
    if place.resolve().is_relative_to((root / split.images).resolve()) and ".png".endswith(
        split.image_suffix
    ):
        raise ReinError(
            f"The labels would be drawn into '{place}', among the images of '{root / split.images}'.",
            "Put the images into a folder of their own, or choose another place: --out DIR",
        )
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
        write_png(task.target, paint(task, _empty(own)), mark=mark(MAKER, task.stamp))
        return True

    with ThreadPoolExecutor(workers) as pool:
        try:
            for wrote in pool.map(work, tasks):
                told.written += wrote is True
                told.kept += not wrote
                told.others += wrote is None
                yield len(tasks), told
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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


def _background(own: OwnDataset) -> int | None:
    names = [each.name.casefold() for each in own.classes]
    return stored_values(own)[names.index(BACKGROUND)] if BACKGROUND in names else None


def _empty(own: OwnDataset) -> int:
    """The stored value of what no object covers."""
    background = _background(own)
    return own.ignore if background is None else background


def _png(name: str, split: SplitSettings) -> str:
    return name.removesuffix(split.image_suffix) + ".png"


def _size(size: tuple[Any, Any], path: Path) -> tuple[int, int]:
    height, width = size
    for side in (height, width):
        if isinstance(side, bool) or not isinstance(side, int) or not 0 < side <= LARGEST_SIDE:
            raise ReinError(
                f"'{path}' has an image of height {height} and width {width}.",
                "Export it again, with both in pixels.",
            )
    return height, width


def _stamp(told: Any) -> str:
    text = json.dumps(told, sort_keys=True, default=str).encode()
    return f"{len(text)}-{zlib.crc32(text):08x}"
