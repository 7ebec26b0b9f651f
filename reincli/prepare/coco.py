"""COCO files (instances as polygons or run lengths, panoptic segments) -> labels to draw, and label maps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reincli.config import OwnDataset, SplitSettings
from reincli.data.stored import stored_values
from reincli.errors import ReinError
from reincli.media.images import read_bytes, read_image
from reincli.prepare.convert import raw_stamp
from reincli.prepare.label_tasks import Names, Task, Told, corners_of, empty_value, png_name, stamp_of
from reincli.prepare.shapes import LARGEST_SIDE, Shape, draw, runs, unpacked


def coco_tasks(own: OwnDataset, split: SplitSettings, root: Path, target: Path, told: Told) -> list[Task]:
    """The labels to draw from a COCO file, instances or panoptic.

    Raises:
        ReinError: no such file, no JSON of COCO's, no category that is a class, or panoptic masks that are not there.
    """
    path = root / str(split.labels)
    categories, listed, by_image, panoptic = _read(path)
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
        kinds = (part.get("category_id") for each in objects for part in each.get("segments_info", [each]))
        told.left_out.update(categories.get(kind, f"id {kind}") for kind in kinds if kind not in values)
        size = (entry.get("height"), entry.get("width"))
        drawn = [masks / str(each.get("file_name")) for each in objects] if panoptic else []
        of_masks = [raw_stamp(mask) for mask in drawn if mask.is_file()]
        stamp = stamp_of([objects, of_masks, size, sorted(values.items()), own.ignore, empty_value(own)])
        detail = (objects, values, masks if panoptic else None, path)
        target_size = _size(size, path)
        tasks[name] = Task(
            root / split.images / name, target / png_name(name, split), target_size, detail, stamp
        )
    return list(tasks.values())


def _read(path: Path) -> tuple[dict[int, str], dict[Any, Any], dict[Any, list[Any]], bool]:
    """Names of categories and images by their ids, annotations by image, and whether they are panoptic."""
    try:
        raw = json.loads(read_bytes(path, "COCO file").tobytes().decode("utf-8-sig"))
        categories = {int(each["id"]): str(each["name"]) for each in raw["categories"]}
        listed = {each["id"]: each for each in raw["images"]}
        by_image: dict[Any, list[Any]] = {}
        panoptic = False
        for each in raw["annotations"]:
            by_image.setdefault(each["image_id"], []).append(each)
            panoptic |= "segments_info" in each
            for part in each.get("segments_info", [each]):
                hash(part.get("category_id"))  # TypeError where it is a list or table
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _not_coco(path, error) from None
    if len(listed) < len(raw["images"]):
        raise _twice(path, f"the id {_first_twice(each['id'] for each in raw['images'])!r}")
    return categories, listed, by_image, panoptic


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
    return Shape(value, tuple(corners_of(each) for each in told))


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


def _size(size: tuple[Any, Any], path: Path) -> tuple[int, int]:
    height, width = size
    for side in (height, width):
        if isinstance(side, bool) or not isinstance(side, int) or not 0 < side <= LARGEST_SIDE:
            raise ReinError(
                f"'{path}' has an image of height {height} and width {width}.",
                "Export it again, with both in pixels.",
            )
    return height, width
