"""The folder of a run: settings, log, checkpoints.

settings.toml   everything that decides the run
log.jsonl       a line a log interval ("kind": "step") and a validation ("kind": "validation")
iter_N.pth      the newest checkpoints      last.pth  the newest      best.pth  the best by mean mIoU
best.json       which iteration that is, and its mean mIoU
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reincli.config import Settings
from reincli.errors import ReinError, instead_of, typed
from reincli.media.whole_files import temporary_beside, write_bytes
from reincli.settings_files import build_settings, to_toml
from reincli.toml_files import read_toml

LAST = "last.pth"
"""The newest checkpoint of a run."""
NUMBERED = re.compile(r"iter_([0-9]{1,12})\.pth")
"""Names of checkpoints; other files of the folder are nobody's business."""

SHOWN = 4
"""Runs that are named where one is asked for."""


def refuse_existing(folder: Path) -> None:
    """A finished or stopped run is never overwritten. ReinError where there is one, or no folder can be."""
    above = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    if not above.is_dir():
        raise ReinError(
            f"'{above}' is no folder; the run would be written {'there' if above == folder else 'below it'}.",
            "Choose another folder: --work-dir DIR, or move the file away.",
            usage=True,
        )
    if (folder / "settings.toml").exists():
        begun = (folder / LAST).exists() or bool(numbered(folder))
        raise ReinError(
            f"There is a run in '{folder}' already{'' if begun else ', which has no checkpoint yet'}.",
            f"Go on with it: rein train --resume {typed(folder)}   or choose another folder: --work-dir DIR"
            if begun  # else there is nothing to go on with
            else "Choose another folder: --work-dir DIR, or remove that one if nothing trains there.",
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
    write_bytes(folder / "settings.toml", settings_text(settings))


def settings_text(settings: Settings) -> bytes:
    """What a run keeps of its settings. ReinError where a path in them is no text: TOML is UTF-8."""
    text = to_toml(settings)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = text[: error.start].count("\n")
        named = text.split("\n")[line].encode("utf-8", "backslashreplace").decode()
        raise ReinError(
            f"A run keeps its settings as text, and a name in them is not UTF-8: {named}.",
            "Rename the file or folder, or name it by a link.",
            usage=True,
        ) from None


def change_settings(folder: Path, settings: Settings, iteration: int, changed: Mapping[str, Any]) -> None:
    """Other settings from an iteration on: they are the run's from now on, and the log knows since when."""
    append_log(folder, {"kind": "settings", "iteration": iteration, "changed": dict(changed)})
    write_bytes(folder / "settings.toml", settings_text(settings))


def settings_of_run(folder: Path) -> Settings:
    """Settings of a run to resume. ReinError where there is nothing to resume."""
    if not (folder / "settings.toml").exists():
        if (folder.parent / "settings.toml").is_file():  # what was named is a checkpoint in it
            hint = f"Give the folder of the run: --resume {typed(folder.parent)}"
        elif folder.is_dir():
            within = sorted(str(each.parent) for each in folder.glob("*/settings.toml"))
            shown = ", ".join(f"'{each}'" for each in within[:SHOWN])
            hint = f"Runs in it: {shown}. Give one of them." if within else "Give the folder of a run."
        else:
            hint = instead_of(folder, folder=True)
        raise ReinError(f"There is no run in '{folder}' (no settings.toml).", hint, usage=True)
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
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        try:
            os.link(target, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(target, temporary)
        os.replace(temporary, pointer)
        temporary.unlink(missing_ok=True)  # two names of one file: renaming one to the other does nothing
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _unwritable(pointer, error) from None


def numbered(folder: Path) -> list[Path]:
    """All numbered checkpoints of a run, the newest first."""
    found = [(int(m[1]), file) for file in folder.glob("iter_*.pth") if (m := NUMBERED.fullmatch(file.name))]
    return [file for _, file in sorted(found, reverse=True)]


def drop_old_checkpoints(folder: Path, keep: int) -> None:
    """Delete all numbered checkpoints but the newest few."""
    for old in numbered(folder)[keep:]:
        with contextlib.suppress(OSError):
            old.unlink()


def keep_best(folder: Path, checkpoint: Path, iteration: int, miou: float | None) -> bool:
    """Point `best.pth` at a checkpoint if its mean mIoU is the best so far; whether it was."""
    record = folder / "best.json"
    best = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        best = float(json.loads(record.read_text("utf-8"))["mIoU"])
    if miou is None or (best is not None and best >= miou and (folder / "best.pth").exists()):
        return False
    point_at(folder / "best.pth", checkpoint)
    write_bytes(record, json.dumps({"iteration": iteration, "mIoU": miou}).encode())
    return True


# --- log ---------------------------------------------------------------------------------------------------


def append_log(folder: Path, entry: dict[str, Any]) -> None:
    """One line of JSON at the end of `log.jsonl`, whole or not at all; numbers that are not finite become null.

    Raises:
        ReinError: the folder is gone, or the disk is full.
    """
    require_there(folder)
    line = (json.dumps(_finite(entry), allow_nan=False) + "\n").encode()
    path = folder / "log.jsonl"
    try:
        with open(path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise _unwritable(path, error) from None


def is_there(folder: Path) -> bool:
    """Whether a run's folder is still there."""
    return folder.is_dir()


def require_there(folder: Path) -> None:
    """ReinError where the folder of a run that is trained has disappeared: it is not made anew, without settings."""
    if not is_there(folder):
        raise ReinError(
            f"The folder of the run, '{folder}', has disappeared: nothing can be saved there.",
            "Was it moved or deleted, or its disk taken away? Bring it back, then: rein train --resume DIR",
        )


def _unwritable(path: Path, error: OSError) -> ReinError:
    return ReinError(
        f"Cannot write '{path}': {error.strerror}.",
        "Check free space and permission; what was saved is kept.",
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All entries; a last line that was cut short is left out. ReinError where the log cannot be read."""
    path = folder / "log.jsonl"
    entries = []
    try:
        lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    except OSError as error:
        raise ReinError(
            f"The log '{path}' cannot be read: {error.strerror}.",
            "A file that this user may read was expected; where there is none, a new one is begun.",
        ) from None
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("iteration"), int) and "kind" in entry:
                entries.append(entry)
    return entries


def rewind_log(folder: Path, iteration: int) -> None:
    """Drop what was logged after an iteration: a resumed run logs it anew."""
    entries = read_log(folder)
    kept = [entry for entry in entries if entry["iteration"] <= iteration]
    path, text = folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept)
    if path.exists() and (len(kept) < len(entries) or not path.read_bytes().endswith(b"\n")):
        write_bytes(path, text.encode())  # also where the last line was cut short: what follows would join it
