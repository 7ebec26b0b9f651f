"""The folder of a run: settings, log, checkpoints.

settings.toml   everything that decides the run
log.jsonl       a line a log interval ("kind": "step") and a validation ("kind": "validation")
iter_N.pth      the newest checkpoints      last.pth  the newest      best.pth  the best by mean mIoU
best.json       which iteration that is, and its mean mIoU
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from reincli.config import Settings
from reincli.errors import ReinError
from reincli.media.images import temporary_beside, write_bytes
from reincli.settings_files import build_settings, read_toml, to_toml


def refuse_existing(folder: Path) -> None:
    """A finished or stopped run is never overwritten. ReinError where there is one."""
    if (folder / "settings.toml").exists():
        raise ReinError(
            f"There is a run in '{folder}' already.",
            f"Go on with it: rein train --resume {folder}   or choose another folder: --work-dir DIR",
            usage=True,
        )
    _refuse_other_files(folder)


def _refuse_other_files(folder: Path) -> None:
    """ReinError where a folder without a run holds files that the run would write."""
    names = ("log.jsonl", "*.pth", "best.json", "report.html", "curves.png", "samples")
    found = next((path for name in names for path in sorted(folder.glob(name))), None)
    if found is not None:
        raise ReinError(
            f"'{found}' is in the way: the run would write there, and '{folder}' holds no run.",
            "Choose another folder: --work-dir DIR, or move the file away.",
            usage=True,
        )


def start_folder(folder: Path, settings: Settings) -> None:
    """Make the run's folder and write its settings. ReinError where a run is there already."""
    refuse_existing(folder)
    write_bytes(folder / "settings.toml", to_toml(settings).encode())


def settings_of_run(folder: Path) -> Settings:
    """Settings of a run to resume. ReinError where there is nothing to resume."""
    if not (folder / "settings.toml").exists():
        raise ReinError(
            f"There is no run in '{folder}' (no settings.toml).", "Give the folder of a run.", usage=True
        )
    return build_settings(read_toml(folder / "settings.toml"))


def check_space(folder: Path, checkpoint_bytes: int, keep: int) -> None:
    """ReinError where the disk cannot hold the checkpoints to come: those kept, the best, and one being written."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    needed, free = checkpoint_bytes * (keep + 2), shutil.disk_usage(there).free
    if free < needed:
        raise ReinError(
            f"The disk of '{folder}' has {free / 2**30:.1f} GiB free; the run's checkpoints need "
            f"{needed / 2**30:.1f} GiB.",
            "Free some, choose another folder with --work-dir, or keep fewer: --set train.keep_checkpoints=1",
        )


# --- checkpoints -------------------------------------------------------------------------------------------


def point_at(pointer: Path, target: Path) -> None:
    """Make `pointer` the same file as `target`; it stays whole when the target is deleted later."""
    temporary = temporary_beside(pointer)
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(target, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(target, temporary)
    os.replace(temporary, pointer)


def drop_old_checkpoints(folder: Path, keep: int) -> None:
    """Delete all numbered checkpoints but the newest few."""
    numbered = sorted(folder.glob("iter_*.pth"), key=lambda file: int(file.stem[5:]))
    for old in numbered[:-keep]:
        old.unlink()


def keep_best(folder: Path, checkpoint: Path, iteration: int, miou: float | None) -> bool:
    """Point `best.pth` at a checkpoint if its mean mIoU is the best so far; whether it was."""
    record = folder / "best.json"
    best = json.loads(record.read_text("utf-8")) if record.exists() else None
    if miou is None or (best is not None and best["mIoU"] >= miou):
        return False
    point_at(folder / "best.pth", checkpoint)
    write_bytes(record, json.dumps({"iteration": iteration, "mIoU": miou}).encode())
    return True


# --- log ---------------------------------------------------------------------------------------------------


def append_log(folder: Path, entry: dict[str, Any]) -> None:
    """One line of JSON at the end of `log.jsonl`; numbers that are not finite are written as null."""
    with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(_finite(entry), allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All entries; a last line that was cut short is left out."""
    path = folder / "log.jsonl"
    entries = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries


def rewind_log(folder: Path, iteration: int) -> None:
    """Drop what was logged after an iteration: a resumed run logs it anew."""
    entries = read_log(folder)
    kept = [entry for entry in entries if entry["iteration"] <= iteration]
    if len(kept) < len(entries):
        write_bytes(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept).encode())
