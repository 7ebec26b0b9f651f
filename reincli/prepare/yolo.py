"""YOLO's segment files (a line an object: class, then corners as shares of the image's sides) -> label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reincli.config import OwnDataset, SplitSettings
from reincli.data.index import list_files
from reincli.data.stored import stored_values
from reincli.errors import ReinError
from reincli.media.images import jpeg_turn, read_bytes
from reincli.prepare.label_tasks import (
    BACKGROUND,
    Task,
    Told,
    background_value,
    corners_of,
    empty_value,
    png_name,
    stamp_of,
)
from reincli.prepare.shapes import Shape, draw

BEYOND = (-1.0, 2.0)
"""Shares of a side within which corners lie, where objects may reach out of the image; pixels do not."""


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
        if file not in files and background_value(own) is None:
            continue
        text = (
            read_bytes(folder / file, "YOLO file").tobytes().decode("utf-8-sig", "replace")
            if file in files
            else ""
        )
        size = image_size(root / split.images / name)
        stamp = stamp_of([text, size, yolo_values(own), own.ignore, empty_value(own)])
        detail = (text, yolo_values(own), folder / file)
        tasks.append(Task(root / split.images / name, target / png_name(name, split), size, detail, stamp))
    return tasks


def yolo_values(own: OwnDataset) -> list[int | None]:
    """Stored value by YOLO's class number: by the description's `map`, else in the order of the classes.

    A class `background` has no number there.
    """
    if own.map:
        numbers = [int(stored) for stored in own.map if stored.isdecimal()]
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
            polygon = corners_of(corners)
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
