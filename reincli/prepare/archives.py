"""Unpacking downloads: only what is needed, only below the dataset's folder, every file whole or not at all.

What an archive gave is noted in `.unpacked.json` beside it, so that a second look costs nothing; a note counts as long
as the archive is the same and every folder still holds at least as many files as came out of it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from reincli.data.downloads import NOTE, Download, plain_name, read_notes
from reincli.errors import ReinError
from reincli.media.images import is_whole_png, is_whole_png_data
from reincli.media.whole_files import clear_dead, replace_whole, version_of, write_bytes
from reincli.prepare import rar

BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    ValueError,
    NotImplementedError,
)
"""What the standard library raises for archives that are damaged or cut short."""
SHOWN = 5
"""Damaged files that are named."""
ENCRYPTED = 0x1
"""Bit of a zip member's flags."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
LARGEST = 2**30
"""Bytes of a picture or a label; they are read whole."""
BLOCK = 512
"""Bytes of a block of a tar file; two empty ones end it."""


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name there, its place below the root, its size in bytes."""

    name: str
    target: str
    size: int


class ArchiveError(ReinError):
    """An archive is damaged, cut short, or not what its name says; the others may be fine."""


def unpack(archive: Path, download: Download, into: Path) -> Iterator[tuple[int, int]]:
    """Unpack what is needed of one archive; files that are there with their full size are kept.

    Yields:
        (done, in all) every now and then: bytes of the archive for tar files, of the files for zips, files for RAR.

    Raises:
        ArchiveError: the archive is damaged or cut short, or a member leads out of the folder or is a link. Files of a
            RAR or tar archive that fail their checksum are named after all others are in place, and count as done: the
            next look goes on without them.
        ReinError: there is no space, no permission, or no program for RAR.
    """
    counts: Counter[str] = Counter()
    damaged: list[str] = []
    if _is_page(archive):
        raise ArchiveError(
            f"'{archive}' is a web page, not an archive.",
            "Sign in on the dataset's site, and fetch it again.",
        )
    try:
        if download.rar:
            damaged = yield from _unpack_rar(archive, download, into, counts)
        elif zipfile.is_zipfile(archive):
            yield from _unpack_zip(archive, download, into, counts)
        elif plain_name(archive.name).lower().endswith(".zip"):
            raise zipfile.BadZipFile("it has no list of contents at its end")
        else:
            damaged = yield from _unpack_tar(archive, download, into, counts)
    except BROKEN as error:
        size = archive.stat().st_size
        reason = str(error).strip(".") or type(error).__name__
        message = f"The archive '{archive}' ({size:,} bytes) is damaged or cut short: {reason}."
        raise ArchiveError(message, "Fetch it again; what was unpacked so far stays.") from None
    for folder in {"", *counts}:  # of a run that was killed
        clear_dead(into / folder)
    if not damaged and not any(counts.values()):
        wanted = ", ".join(f"{folder}/" for folder in download.brings)
        found = f"; it holds {_first_name(archive)}" if zipfile.is_zipfile(archive) else ""
        raise ArchiveError(
            f"The archive '{archive}' holds nothing of {wanted}{found}.",
            "Is it the right file? Fetch it again.",
        )
    _note(archive, into, state=version_of(archive), folders=dict(counts), brings=list(download.brings))
    if damaged:
        whole = sum(counts.values())
        named = ", ".join(damaged[:SHOWN]) + (", …" if len(damaged) > SHOWN else "")
        raise ArchiveError(
            f"{len(damaged)} files of '{archive}' fail their checksum: {named}. The other {whole:,} are unpacked.",
            "Fetch it again. Where they fail every time, go on without them: give the same command again.",
        )


def _first_name(archive: Path) -> str:
    """A file of a zip, by which people see what it is."""
    with zipfile.ZipFile(archive) as opened:
        names = [info.filename for info in opened.infolist() if not info.is_dir()]
    return f"'{max(names, key=lambda name: name.count('/'))}'" if names else "no file"


def _is_page(archive: Path) -> bool:
    """Whether a web page was saved in the place of an archive, as sites send to who is not signed in."""
    with open(archive, "rb") as file:
        start = file.read(64).lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<?xml"))


def _unpack_zip(
    archive: Path, download: Download, into: Path, counts: Counter[str]
) -> Iterator[tuple[int, int]]:
    with zipfile.ZipFile(archive) as opened:
        members = []
        for info in opened.infolist():
            safe_name(info.filename, archive)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _link(info.filename, archive)
            target = None if info.is_dir() else download.target(info.filename.replace("\\", "/"))
            if target is not None:
                _require_readable(info, archive)
                members.append(Member(info.filename, target, info.file_size))
        total, done = sum(member.size for member in members), 0
        asked = {member for member in members if not _is_there(member, into)}
        _require_space(archive, into, sum(member.size for member in asked))
        if asked:
            _note(archive, into)  # begun: what lies there from now on was not unpacked by hand
        for member in members:
            if member in asked:
                with _reading(), opened.open(member.name) as content:
                    data = _read(content, member)
                _write(data, member, into)
            counts[str(PurePosixPath(member.target).parent)] += 1
            done += member.size
            yield done, total


def _require_readable(info: zipfile.ZipInfo, archive: Path) -> None:
    """ReinError for a member that is encrypted, or packed in a way that Python does not know."""
    hint = "It is not the original download: fetch it from its own site, or unpack it by hand."
    if info.flag_bits & ENCRYPTED:
        raise ArchiveError(f"The archive '{archive}' holds '{info.filename}' encrypted.", hint)
    if info.compress_type not in METHODS:
        message = f"The archive '{archive}' has packed '{info.filename}' by method {info.compress_type}"
        raise ArchiveError(f"{message}, which is not known here.", hint)


def _unpack_tar(
    archive: Path, download: Download, into: Path, counts: Counter[str]
) -> Generator[tuple[int, int], None, list[str]]:
    """One after another. Tar has no checksums, PNG has.

    Returns:
        the files that fail theirs; all others are in place.
    """
    damaged = []
    total = archive.stat().st_size
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw) as opened:
        if opened.fileobj is raw:  # the headers can be read without what lies between them
            members = [member for _, member in _tar_members(opened, archive, download)]
            if raw.seek(0, 2) < opened.offset + BLOCK:  # no closing block: cut between files
                raise tarfile.ReadError("its end is missing")
            _require_space(archive, into, sum(m.size for m in members if not _is_there(m, into)))
        elif not any((into / folder).is_dir() for folder in download.brings):
            _require_space(archive, into, total)  # at least: pictures hardly shrink
        begun = False
        for info, member in _tar_members(opened, archive, download):
            content = opened.extractfile(info)
            if content is not None and not _is_there(member, into):
                if not begun:
                    _note(archive, into)
                    begun = True
                with _reading(), content:
                    data = _read(content, member)
                if _is_png(member) and not is_whole_png_data(data):
                    damaged.append(member.target)
                    continue
                _write(data, member, into)
            counts[str(PurePosixPath(member.target).parent)] += 1
            yield raw.tell(), total
        if opened.fileobj is not raw and opened.fileobj is not None:  # the checksum of all stands at its end
            while opened.fileobj.read(2**20):
                yield raw.tell(), total
    return damaged


def _tar_members(
    opened: tarfile.TarFile, archive: Path, download: Download
) -> Iterator[tuple[tarfile.TarInfo, Member]]:
    """What is needed of a tar file. ReinError for a name that leads out, a link or a device."""
    for info in opened:
        safe_name(info.name, archive)
        if not (info.isreg() or info.isdir()):
            raise _link(info.name, archive)
        target = download.target(info.name.replace("\\", "/")) if info.isreg() else None
        if target is not None:
            yield info, Member(info.name, target, info.size)


def _unpack_rar(
    archive: Path, download: Download, into: Path, counts: Counter[str]
) -> Generator[tuple[int, int], None, list[str]]:
    """Into a hidden folder first: its names are looked at before, and what lies there after.

    Returns:
        the files that failed their checksum; all others are in place.
    """
    program, names = rar.read_names(archive)
    targets = {}
    for name in names:
        safe_name(name, archive)
        target = download.target(name.replace("\\", "/"))
        if target is not None:
            targets[name] = target
    asked = [name for name, target in targets.items() if not is_whole_png(into / target)]
    _require_space(archive, into, archive.stat().st_size if asked else 0)  # at least: pictures hardly shrink
    scratch = scratch_of(archive, into)
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    damaged, missing, complaints = [], [], None
    try:
        if asked:
            _note(archive, into)  # begun: what lies there from now on was not unpacked by hand
            steps = rar.unpack(program, archive, asked, scratch)
            complaints = yield from _out_of(len(targets), steps, already=len(targets) - len(asked))
        for name in asked:
            found = rar.found_file(scratch / "files", name)
            if found.is_dir() and not found.is_symlink():
                continue
            if found.is_symlink() or not found.resolve().is_relative_to((scratch / "files").resolve()):
                raise _link(name, archive)
            if complaints is not None and complaints.names(name):
                damaged.append(targets[name])
            elif not found.is_file():
                missing.append(name)
            elif complaints is not None and not is_whole_png(found):
                damaged.append(targets[name])
            else:
                with replace_whole(_place(targets[name], into)) as temporary:
                    os.replace(found, temporary)
        for target in targets.values():
            counts[str(PurePosixPath(target).parent)] += (into / target).is_file()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if missing:  # it came to an end before them
        reason = complaints.last if complaints is not None else f"{program.name} gave no '{missing[0]}'"
        raise zipfile.BadZipFile(f"{len(missing)} of {len(targets)} files did not come out; {reason}")
    return damaged


def _out_of(
    total: int, steps: Generator[int, None, rar.Complaints | None], already: int
) -> Generator[tuple[int, int], None, rar.Complaints | None]:
    """The steps of a program as (files in place, of all); what it complained of."""
    while True:
        try:
            yield min(already + next(steps), total), total
        except StopIteration as end:
            return end.value


def scratch_of(archive: Path, into: Path) -> Path:
    """The hidden folder into which a RAR archive is unpacked first."""
    return into / f".unpacking-{archive.name}"


def safe_name(name: str, archive: Path) -> None:
    """ReinError where a member's name is absolute or leads out of the folder it is unpacked to."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        message = f"The archive '{archive}' holds '{name}', which leads out of the folder."
        raise ArchiveError(message, "It is not the original download: fetch it from its own site.")


def _link(name: str, archive: Path) -> ArchiveError:
    message = f"The archive '{archive}' holds '{name}', which is a link or device and no file."
    return ArchiveError(message, "It is not the original download: fetch it from its own site.")


def _is_there(member: Member, into: Path) -> bool:
    """Whether a file lies there with its full size, and whole where that can be seen: damage keeps a size."""
    path = into / member.target
    try:
        return os.stat(path).st_size == member.size and (not _is_png(member) or is_whole_png(path))
    except OSError:
        return False


def _is_png(member: Member) -> bool:
    return member.target.endswith(".png")


def _place(target: str, into: Path) -> Path:
    """Where a file goes; ReinError where a link leads out that lay there before."""
    path = into / target
    if not path.parent.resolve().is_relative_to(into.resolve()):
        message = f"'{path.parent}' is a link that leads out of '{into}': nothing is unpacked through it."
        raise ReinError(message, "Unpack there by hand, or give the folder itself.")
    return path


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """What the system says where a damaged archive points behind its end, or cannot be decompressed, is its damage."""
    try:
        yield
    except OSError as error:
        raise zipfile.BadZipFile(error.strerror or str(error)) from None


def _read(content: IO[bytes], member: Member) -> bytes:
    if not 0 <= member.size <= LARGEST:
        raise zipfile.BadZipFile(f"'{member.name}' claims {member.size:,} bytes, more than any picture has")
    data = content.read(member.size + 1)
    if len(data) != member.size:
        raise zipfile.BadZipFile(f"'{member.name}' has {len(data)} of {member.size} bytes")
    return data


def _write(data: bytes, member: Member, into: Path) -> None:
    write_bytes(_place(member.target, into), data)


def _require_space(archive: Path, into: Path, needed: int) -> None:
    into.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(into).free
    if needed > free:
        message = f"Unpacking '{archive}' needs {needed / 1e9:.1f} GB; '{into}' has {free / 1e9:.1f} GB left."
        raise ReinError(message, "Free some space, or choose another folder: --out DIR")


def _note(archive: Path, into: Path, **facts: object) -> None:
    """Write down what is known of an archive; nothing: that it was begun."""
    notes = read_notes(into)
    notes[archive.name] = facts
    write_bytes(into / NOTE, json.dumps(notes, indent=1).encode())
