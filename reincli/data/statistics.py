"""Pixels of each class in each training label, in the three files that DAFormer and the original write.

All lie in the dataset's folder; classes are trainIds as text, and a class without a pixel is left out:

- `sample_class_stats.json`: `[{"0": 812345, "13": 2044, "file": "data/gta/labels/00001_labelTrainIds.png"}, …]`
- `sample_class_stats_dict.json`: `{"data/gta/labels/00001_labelTrainIds.png": {"0": 812345, "13": 2044}, …}`
- `samples_with_class.json`: `{"13": [["data/gta/labels/00001_labelTrainIds.png", 2044], …], …}`

Everything is sorted by file. Paths are written as the dataset's folder was given; when they are read, only the
file's name counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from reincli.data.check import class_pixels
from reincli.data.labels import CITYSCAPES, count_values
from reincli.media import workers
from reincli.media.images import read_label
from reincli.media.whole_files import clear_dead, write_bytes

COUNTED = ("gta", "synthia", "cityscapes", "urbansyn")
"""Datasets whose training labels are counted (the original does not count UrbanSyn's)."""
BY_FILE, BY_NAME, BY_CLASS = (
    "sample_class_stats.json",
    "sample_class_stats_dict.json",
    "samples_with_class.json",
)


def read_statistics(folder: Path) -> dict[str, dict[int, int]]:
    """Pixels by class index, by name of the label file; empty where the folder has no statistics that can be read."""
    return {PurePosixPath(path).name: pixels for path, pixels in _read(folder).items()}


def _read(folder: Path) -> dict[str, dict[int, int]]:
    try:
        return {
            file: {int(c): int(n) for c, n in entry.items() if c != "file"}
            for file, entry in _entries(folder).items()
        }
    except (ValueError, TypeError):
        return {}


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries as they are stored, by path of the label."""
    try:
        entries = json.loads((folder / BY_FILE).read_text("utf-8"))
        return {str(each["file"]): each for each in entries if isinstance(each, dict)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@dataclass(frozen=True)
class Known:
    """What the statistics in a folder know of some labels.

    Attributes:
        pixels: by class index, by path of the label; empty where nothing is missing and there are no others.
        missing: labels that are new or newer than the statistics.
        others: whether they know of labels that are not there any more.
    """

    pixels: dict[str, dict[int, int]]
    missing: list[Path]
    others: bool


def look_up(folder: Path, labels: Sequence[Path]) -> Known:
    """Read the statistics of a folder for these labels."""
    try:
        counted_at = min((folder / name).stat().st_mtime_ns for name in (BY_FILE, BY_NAME, BY_CLASS))
    except OSError:
        return Known({}, list(labels), False)
    entries = _entries(folder)
    names = [label.as_posix() for label in labels]
    fresh = {name for name in names if name in entries and os.stat(name).st_mtime_ns <= counted_at}
    if len(fresh) == len(names) == len(entries):
        return Known({}, [], False)  # 25,000 entries are not made into numbers for nothing
    known = _read(folder)
    kept = {name: known[name] for name in names if name in fresh and name in known}
    missing = [label for name, label in zip(names, labels, strict=True) if name not in kept]
    return Known(kept, missing, len(kept) != len(known))


def update_statistics(
    folder: Path,
    known: Known,
    table: np.ndarray,
    counted: Mapping[Path, Sequence[int]],
    *,
    on_file: Callable[[], None] | None = None,
    threads: int = 4,
) -> bool:
    """Bring the three files up to date; False where they were.

    Args:
        folder: where they lie.
        known: of `look_up`, for the prepared training labels.
        table: (256,) int16 of `sources.label_table`, for labels that have to be read.
        counted: pixels by class index of labels that were written just now.
        on_file: called after every label that was read.
        threads: labels read at a time.

    Raises:
        ReinError: a label cannot be read, or a file cannot be written.
    """
    if not known.missing and not known.others:
        return False
    kept, missing = dict(known.pixels), known.missing
    unread = [label for label in missing if label not in counted]

    def count(label: Path) -> Sequence[int]:
        return class_pixels(count_values(read_label(label)), table, len(CITYSCAPES)).tolist()

    found = dict(counted)
    with workers.threads(threads) as pool:
        for label, pixels in zip(unread, workers.in_order(pool, count, unread), strict=True):
            found[label] = pixels
            if on_file is not None:
                on_file()
    for label in missing:
        kept[label.as_posix()] = {c: int(n) for c, n in enumerate(found[label]) if n}
    write_statistics(folder, kept)
    return True


def write_statistics(folder: Path, pixels: Mapping[str, Mapping[int, int]]) -> None:
    """Write the three files from pixels by class index, by path of the label."""
    clear_dead(folder)
    files = sorted(pixels)
    by_class: dict[str, list[tuple[str, int]]] = {}
    for file in files:
        for index, count in sorted(pixels[file].items()):
            by_class.setdefault(str(index), []).append((file, count))
    by_class = {index: by_class[index] for index in sorted(by_class, key=int)}
    contents: dict[str, Any] = {
        BY_CLASS: by_class,
        BY_NAME: {file: dict(sorted(pixels[file].items())) for file in files},
        BY_FILE: [{**dict(sorted(pixels[file].items())), "file": file} for file in files],
    }
    for name, content in contents.items():
        write_bytes(folder / name, json.dumps(content, indent=1).encode())
