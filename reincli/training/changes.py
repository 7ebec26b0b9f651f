"""What is not as it was when a run is gone on with: settings, images, machine; and which of it changes results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reincli.config import Settings
from reincli.data.sources import Sample

HARMLESS = (
    "name", "description", "published", "data.root", "data.workers", "data.val", "data.mean", "test.",
    "model.backbone.weights", "train.iterations", "train.validate_every", "train.validate_first",
    "train.checkpoint_every", "train.keep_checkpoints", "train.log_every", "train.log_to", "train.tensorboard",
    "train.stop_unsaved", "train.start_from", "train.precision", "adapt.look_",
)  # fmt: skip
"""Settings (starts of their names) that leave each step as it would have been. Of `train.iterations` the schedule of
the learning rate knows, and nothing else; the files of `data.root` and of the backbone, and the arithmetic, are
looked at apart."""
NAMES = {
    "threads": "CPU threads",
    "device": "device",
    "precision": "precision",
    "processes": "processes",
    "images": "training images",
    "classes": "classes",
}
"""What `surroundings` holds, as a sentence calls it."""


def surroundings(
    samples: Sequence[Sample], classes: Sequence[str], device: str, precision: str, processes: int
) -> dict[str, Any]:
    """What decides the bits of a step beside the settings; kept in each checkpoint."""
    names = "\n".join(f"{sample.dataset}/{sample.name}" for sample in samples)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return {
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "device": device,
        "precision": precision,
        "processes": processes,
        "images": f"{len(samples)} ({digest})",
        "classes": ", ".join(classes),
    }


def changed_settings(before: Settings, now: Settings) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, by dotted name: (before, now) as plain data."""
    first, second = (_flat(each.model_dump(mode="json")) for each in (before, now))
    names = [*first, *(name for name in second if name not in first)]
    return {
        name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)
    }


def changes_results(name: str) -> bool:
    """Whether a setting that changes on the way makes the rest of the run another one."""
    return not name.startswith(HARMLESS)


def remarks(changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """At most two lines: what changes results, and what does not."""
    lines = []
    for matters, text in (
        (True, "Not as in the run so far, and from here on with other results: "),
        (False, "Not as in the run so far: "),
    ):
        found = [
            f"{name} {_short(a)} -> {_short(b)}"
            for name, (a, b) in changed.items()
            if changes_results(name) == matters
        ]
        if found:
            lines.append(text + ", ".join(found) + ".")
    return lines


def changed_surroundings(before: object, now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The same for what a checkpoint holds of its surroundings; nothing where it holds none."""
    if not isinstance(before, Mapping):
        return {}
    return {
        NAMES[name]: (before[name], now[name])
        for name in NAMES
        if name in before and before[name] != now[name]
    }


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
