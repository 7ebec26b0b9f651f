"""Which archives wait to be unpacked, and which of them a dataset could do without.

An archive that is unfinished or damaged stops nothing where what it brings is there, comes out of another one, or is
read by no setting that was not asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reincli.data.completeness import GTA_PART, IMAGES, LABELS
from reincli.data.downloads import Download, known_archives, plain_name, read_notes, unfinished, whole_name
from reincli.errors import ReinError
from reincli.media.whole_files import version_of
from reincli.prepare.archives import scratch_of

Found = tuple[Path, Download]


@dataclass(frozen=True)
class Place:
    """A dataset's folder: its name, where the archives lie, where they are unpacked to, and Mapillary's version."""

    dataset: str
    root: Path
    into: Path
    version: str = ""

    def archives(self) -> list[Found]:
        """All that are known by their names."""
        return known_archives(self.dataset, self.root, self.version)


def pending(place: Place, *, force: bool = False) -> list[Found]:
    """Known archives that have not been unpacked yet; `force`: also those that were."""
    notes = read_notes(place.into)
    return [
        (path, what)
        for path, what in place.archives()
        if (force or not _is_done(path, what, notes.get(path.name), place.into))
        and not (what.rar and path.name not in notes and _by_hand(path, what, place.into))
    ]


def unfinished_remarks(place: Place) -> list[str]:
    """A sentence on each download that is unfinished and can be done without.

    Raises:
        ReinError: one cannot.
    """
    remarks = []
    others = [(path, what) for path, what in place.archives() if path.stat().st_size]
    for path, what in unfinished(place.dataset, place.root, place.version):
        message = f"The download '{path}' is not finished"
        if not (what.extra or is_there(path, what, place) or is_covered(path, what, others)):
            hint = "Let it finish. Where nothing fetches it any more, fetch it again under its name."
            raise ReinError(f"{message}.", hint)
        remarks.append(f"{message}; what is prepared now does without it.")
    return remarks


def is_there(archive: Path, what: Download, place: Place) -> bool:
    """Whether what an archive brings was unpacked before, from it or by hand; a part of it does not count."""
    name = _plain(archive)
    for noted, facts in read_notes(place.into).items():
        if _plain(Path(noted)) == name:
            return "state" in facts and _has_folders(facts.get("folders"), place.into)
    if name in what.series:
        return all((place.into / path).is_file() for path in _ends_of_part(what.series.index(name), what))
    return all((place.into / folder).is_dir() or (place.root / folder).is_dir() for folder in what.brings)


def is_covered(archive: Path, what: Download, others: Sequence[Found]) -> bool:
    """Whether other archives bring the same: one of the same name, or for each folder another one."""
    name = _plain(archive)
    others = [(path, other) for path, other in others if path != archive]
    if any(_plain(path) == name for path, _ in others):
        return True
    brought = {
        folder for path, other in others if _plain(path) not in other.series for folder in other.brings
    }
    return all(
        any(folder == each or folder.startswith(f"{each}/") for each in brought) for folder in what.brings
    )


def labels_at(dataset: str, root: Path, out: Path | None) -> Path:
    """Where a dataset's raw labels lie: in `out`, where they were unpacked to it, else in `root`."""
    if out is None:
        return root
    above = LABELS.get(dataset, "labels").split("/")[0]
    noted = (facts.get("folders") for facts in read_notes(out).values())
    folders = [folder for each in noted if isinstance(each, dict) for folder in each]
    return out if any(folder.split("/")[0] == above for folder in folders) else root


def _plain(archive: Path) -> str:
    return plain_name(whole_name(archive.name)).lower()


def _ends_of_part(index: int, what: Download) -> Iterator[str]:
    """The first and the last file of one of the ten parts of GTA."""
    for number in (index * GTA_PART + 1, min((index + 1) * GTA_PART, IMAGES["gta"]["train"])):
        yield f"{what.brings[0]}/{number:05}.png"


def _by_hand(archive: Path, download: Download, into: Path) -> bool:
    """Whether all that an archive brings lies there, and not because unpacking it was cut short.

    In a folder below it is in the wrong place, which is said later: there is no use in unpacking it once more.
    """
    below = sorted(path for path in into.iterdir() if path.is_dir()) if into.is_dir() else []
    there = any(all((around / folder).is_dir() for folder in download.brings) for around in (into, *below))
    return there and not scratch_of(archive, into).exists()


def _is_done(archive: Path, download: Download, note: object, into: Path) -> bool:
    if not isinstance(note, dict) or note.get("state") != version_of(archive):
        return False
    if not set(download.brings) <= set(note.get("brings", download.brings)):
        return False  # of another version
    return _has_folders(note.get("folders"), into)


def _has_folders(folders: object, into: Path) -> bool:
    """Whether folders still hold at least as many files as came out of an archive."""
    if not isinstance(folders, dict):
        return False
    return all(
        (into / folder).is_dir() and len(os.listdir(into / folder)) >= n for folder, n in folders.items()
    )
