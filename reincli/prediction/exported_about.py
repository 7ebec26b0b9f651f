"""What an exported file says of itself, and that it is so: sizes, classes, colours, settings, shapes of its answer.

Shapes: B images, K classes, Q queries, (H, W) the file's size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reincli.config import Settings
from reincli.data.labels import IGNORE, Classes
from reincli.errors import ReinError
from reincli.model.exportable import ANSWERS, LAYOUTS
from reincli.settings_files import build_settings

FORMAT = 1
"""Of what a file says of itself; a later rein may say more."""


@dataclass(frozen=True)
class About:
    """What a file says of itself.

    Attributes:
        size: (width, height) of its images. batch: images at a time; None: any number.
        answer, layout, precision: as exported. settings: of the model. classes: names and colours.
        temperature: of its probabilities, see `ops.confidence`.
        raw: all of it, as JSON holds it.
    """

    size: tuple[int, int]
    batch: int | None
    answer: str
    layout: str
    precision: str
    settings: Settings
    classes: Classes
    temperature: float
    raw: dict[str, Any]


@dataclass(frozen=True)
class Port:
    """An input or output of a file: whether it is of uint8, and its shape, None where any length goes."""

    bytes: bool
    shape: tuple[int | None, ...]


class Session(Protocol):
    """A file that was opened by a runtime."""

    runtime: str

    def ports(self) -> tuple[Port, list[Port]]:
        """What goes in, and all that comes out."""

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """All answers to (B, 3, H, W) or (B, H, W, 3) uint8."""


def read_about(path: Path, text: str | None) -> About:
    """What a file says of itself.

    Raises:
        ReinError: it says nothing, or nothing that this version reads.
    """
    if text is None:
        raise ReinError(
            f"'{path}' was not written by `rein export`: it does not say what its classes and sizes are.",
            "Export a checkpoint: rein export CHECKPOINT",
        )
    try:
        raw = json.loads(text)
        require_sound(raw)
        width, height = raw["size"]
        classes = Classes(tuple(raw["classes"]), tuple(tuple(each) for each in raw["colors"]))
        settings = build_settings(raw["settings"], (), {})
        return About((width, height), raw["batch"], raw["answer"], raw["layout"], raw["precision"], settings, classes,
                     float(raw.get("temperature", 1)), raw)  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ReinError(
            f"What '{path}' says of itself cannot be read ({type(error).__name__}: {error}).",
            "It is of another version of rein, or damaged: export it again.",
        ) from None


def require_sound(raw: Any) -> None:
    """ValueError where something that a file says of itself cannot be; KeyError, TypeError where it is missing."""

    def number(value: Any, least: int, most: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    temperature = raw.get("temperature", 1) if isinstance(raw, dict) else None
    checks = {
        "format": number(raw["format"], 1, FORMAT),
        "size": len(raw["size"]) == 2 and all(number(side, 1, 2**16) for side in raw["size"]),
        "batch": raw["batch"] is None or number(raw["batch"], 1, 1024),
        "answer": raw["answer"] in ANSWERS,
        "layout": raw["layout"] in LAYOUTS,
        "precision": isinstance(raw["precision"], str),
        "classes": 0 < len({*raw["classes"]}) == len(raw["classes"]) < IGNORE
        and all(isinstance(name, str) for name in raw["classes"]),
        "colors": all(len(rgb) == 3 and all(number(each, 0, 255) for each in rgb) for rgb in raw["colors"]),
        "temperature": isinstance(temperature, int | float) and 0 < temperature < math.inf,
        "settings": isinstance(raw["settings"], dict),
    }
    wrong = [name for name, good in checks.items() if not good]
    if wrong:
        raise ValueError(f"{wrong[0]} is {str(raw[wrong[0]])[:60]}")


def require_agreement(path: Path, session: Session, about: About) -> None:
    """ReinError where a file takes or answers something else than it says of itself."""
    (width, height), batch, classes = about.size, about.batch, len(about.classes)
    given = (batch, 3, height, width) if about.layout == "nchw" else (batch, height, width, 3)
    answers: dict[str, list[tuple[int | None, ...]]] = {
        "labels": [(batch, height, width)],
        "scores": [(batch, classes, height, width)],
        "queries": [(batch, None, classes + 1), (batch, None, None, None)],
    }
    source, found = session.ports()
    wanted = answers[about.answer]
    told = None
    if not (source.bytes and _fit(source.shape, given)):
        told = f"images of {_shape(given)} bytes, and takes {_shape(source.shape)}{'' if source.bytes else ' others'}"
    elif len(found) != len(wanted) or not all(_fit(a.shape, b) for a, b in zip(found, wanted, strict=True)):
        told = f"answers of {', '.join(map(_shape, wanted))}, and gives {', '.join(_shape(a.shape) for a in found)}"
    if told is not None:
        raise ReinError(
            f"'{path}' speaks of {told}.",
            "What it says of itself belongs to another model: export it again.",
        )


def _fit(shape: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    """Whether two shapes may be one: any length goes where one of them has None."""
    return len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True)
    )


def _shape(shape: Sequence[int | None]) -> str:
    return "x".join("?" if side is None else str(side) for side in shape) or "one number"
