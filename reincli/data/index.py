"""Names of the files in a tree, kept between runs for large trees.

Listing 25,000 pairs on a local disk takes well below a second, but minutes on a network disk, where every entry is a
question to a server. So the names of a large tree are written to the user's cache, with the times at which each folder
of it last changed; they count as long as all of these times are the same, which is one question a folder.

Two things could hide a change. Times may be coarse (two seconds on some disks), so that a change soon after another has
the same time: a tree counts as settled only where its last change lies well before the look at it began. And times may
be set back, as unpackers do: so the time of the last change of status is asked too, which nobody can set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from reincli.errors import ReinError
from reincli.media.whole_files import write_bytes

WORTH_KEEPING = 2000
"""Files from which on a listing is kept."""
SETTLED = 60.0
"""Seconds for which a folder must not have changed: more than times are coarse by and clocks of servers differ."""

Times = list[int]
"""Last change of the entries and of the status, in nanoseconds."""


def list_files(folder: Path, suffix: str) -> list[str]:
    """Posix paths, relative to a folder and sorted, of the files below it that end with `suffix`.

    Hidden files and folders are passed over; links are followed, but not around in circles.
    """
    kept = _read(folder, suffix)
    if kept is not None:
        return kept
    folders: dict[str, Times] = {}
    began = time.time()
    names = sorted(_walk(str(folder), "", suffix, folders, frozenset()))
    if len(names) >= WORTH_KEEPING and max(map(max, folders.values())) / 1e9 < began - SETTLED:
        _keep(folder, suffix, names, folders)
    return names


def _times(facts: os.stat_result) -> Times:
    return [facts.st_mtime_ns, facts.st_ctime_ns]


def _walk(
    folder: str, prefix: str, suffix: str, folders: dict[str, Times], above: frozenset[tuple[int, int]]
) -> Iterator[str]:
    facts = os.stat(folder)
    identity = (facts.st_dev, facts.st_ino)
    if identity in above:
        return  # a link to a folder that it lies in
    folders[prefix] = _times(facts)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue  # unfinished files and system droppings
            if entry.name.endswith(suffix) and not entry.is_dir():
                yield prefix + entry.name
            elif entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", suffix, folders, above | {identity})


# --- kept listings -----------------------------------------------------------------------------------------


def kept_at(folder: Path, suffix: str) -> Path:
    """The file in the user's cache that keeps the listing of a folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(f"{folder.absolute()}\n{suffix}".encode()).hexdigest()[:24]
    return cache / "rein" / f"index-{key}.json"


def _read(folder: Path, suffix: str) -> list[str] | None:
    """The kept listing, or None where there is none or a folder has changed since."""
    try:
        kept = json.loads(kept_at(folder, suffix).read_text("utf-8"))
        fresh = all(
            _times(os.stat(os.path.join(folder, below))) == changed
            for below, changed in kept["folders"].items()
        )
        return [str(name) for name in kept["names"]] if fresh else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None  # RuntimeError: there is no home folder


def _keep(folder: Path, suffix: str, names: list[str], folders: dict[str, Times]) -> None:
    content = json.dumps({"folder": str(folder.absolute()), "folders": folders, "names": names})
    with contextlib.suppress(ReinError, RuntimeError):  # a cache that cannot be written is none
        write_bytes(kept_at(folder, suffix), content.encode())
