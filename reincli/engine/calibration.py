"""The temperature of a checkpoint: what is kept of it, and how it gets into the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reincli.config import Settings
from reincli.data.labels import Classes
from reincli.engine.validation import damaged
from reincli.engine.weight_files import read_file, write_file

FIELD = "calibration"
"""Of the field `rein` of a checkpoint."""


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature.

    Attributes:
        temperature: see `ops.confidence`. sources: what it was fitted on, NAME:SPLIT.
        fitted, held_out: how many images it was fitted on, and how many it was tried on.
        before, after: expected calibration error on those that were held out, 0-1.
    """

    temperature: float
    sources: tuple[str, ...]
    fitted: int
    held_out: int
    before: float
    after: float


def read_calibration(own: Mapping[str, Any], path: Path) -> Calibration | None:
    """The calibration in the field `rein` of a checkpoint, None where there is none.

    Raises:
        ReinError: it is there and is none.
    """
    found = own.get(FIELD)
    if found is None:
        return None
    try:
        result = Calibration(
            float(found["temperature"]),
            tuple(str(each) for each in found["sources"]),
            int(found["fitted"]),
            int(found["held_out"]),
            float(found["before"]),
            float(found["after"]),
        )
    except (KeyError, TypeError, ValueError):
        raise damaged(path, f"its field 'rein.{FIELD}' is no calibration") from None
    if not (math.isfinite(result.temperature) and result.temperature > 0):
        raise damaged(path, f"its temperature is {result.temperature}, not a positive number")
    return result


def write_calibrated(
    source: Path, target: Path, calibration: Calibration, settings: Settings, classes: Classes
) -> None:
    """Write a checkpoint with its calibration; everything else in it stays as it is.

    Args:
        source: checkpoint of ours or of the original.
        target: `.pth`; may be the same file, which is replaced whole or not at all.
        calibration: to put into it. settings, classes: of the model, for a checkpoint that carries none.

    Raises:
        ReinError: it cannot be written.
    """
    content = read_file(source)
    content = dict(content) if "state_dict" in content else {"state_dict": content}
    colors = [list(color) for color in classes.colors]
    usual = {
        "settings": settings.model_dump(mode="json"),
        "classes": {"names": list(classes.names), "colors": colors},
    }
    kept = {**asdict(calibration), "sources": list(calibration.sources)}
    content["rein"] = {**content.get("rein", usual), FIELD: kept}
    write_file(target, content)
