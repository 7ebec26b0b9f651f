"""A label to draw of what is told about an image, and what both formats of telling (COCO, YOLO) share."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reincli.config import OwnDataset, SplitSettings
from reincli.data.index import list_files
from reincli.data.stored import stored_values
from reincli.prepare.shapes import FARTHEST

BACKGROUND = "background"
"""Name of the class of what no object covers, if there is one."""


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


def background_value(own: OwnDataset) -> int | None:
    """The stored value of the class `background`, None where there is none."""
    names = [each.name.casefold() for each in own.classes]
    return stored_values(own)[names.index(BACKGROUND)] if BACKGROUND in names else None


def empty_value(own: OwnDataset) -> int:
    """The stored value of what no object covers."""
    background = background_value(own)
    return own.ignore if background is None else background


def png_name(name: str, split: SplitSettings) -> str:
    """An image's name -> its label's."""
    return name.removesuffix(split.image_suffix) + ".png"


def stamp_of(told: Any) -> str:
    """By what it is known later whether what was told has changed."""
    text = json.dumps(told, sort_keys=True, default=str).encode()
    return f"{len(text)}-{zlib.crc32(text):08x}"


def corners_of(numbers: Sequence[float] | np.ndarray) -> np.ndarray:
    """x, y, x, y, … -> (N, 2) float64, at least three corners. ValueError where they are none."""
    corners = np.asarray(numbers, np.float64)
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
        raise ValueError(f"a polygon of {corners.size} numbers")
    if np.abs(corners).max() > FARTHEST:
        raise ValueError(f"a corner at {corners[np.abs(corners).argmax()]:g}")
    return corners.reshape(-1, 2)
