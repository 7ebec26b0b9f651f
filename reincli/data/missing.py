"""What to say where a dataset, or a part of it, is not in its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from reincli.data.downloads import names_for, unfinished
from reincli.data.layouts import DATASETS, HOMES
from reincli.errors import ReinError

DEPTH = 2
"""Levels below a folder that are searched for the dataset."""
HEIGHT = 4
"""Levels above it."""


def hint(dataset: str, root: Path, folder: str = "", *, prepare: bool = False) -> str:
    """What brings a dataset, or a folder of it, that is missing or not prepared."""
    if dataset not in DATASETS:
        return "Check the folders and suffixes of its description; they are relative to its root."
    command = f"rein prepare-data {dataset}" + ("" if root == Path("data") / dataset else f" {root}")
    if prepare and dataset not in ("bdd100k", "urbansyn"):
        return f"Prepare the labels: {command}"
    if dataset == "cityscapes-c":
        return f"Make it from the Cityscapes validation images: {command}"
    if unfinished(dataset, root):
        return f"'{unfinished(dataset, root)[0]}' is an unfinished download: let it finish, then: {command}"
    files = names_for(dataset, folder)
    what = f"{files} from {HOMES[dataset]}" if files else f"it from {HOMES[dataset]}"
    return f"Get {what}, put it into '{root}', packed or unpacked, then: {command}"


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
    prepared = folder.startswith(("cityscapes_trainIdLabel", "half"))
    return ReinError(message, hint(dataset, root, folder, prepare=prepared))


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
