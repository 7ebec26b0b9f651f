"""What a command writes is kept apart from what it reads, and from what somebody else wrote.

Two rules for all commands. No output is a file that the same command reads: not by another name, not through a
symbolic link, not as a hard link. And a file that lies where an output goes is replaced only where it carries the
mark of the same command; anything else is in the way, and is said to be. Devices, pipes and standard output are
written to and never replaced.

The mark is `Made by rein NAME`, and behind it what decides the content, where somebody wants to know whether it still
holds. It stands in the comment chunk of a PNG, the first key of a JSON file, the head of a page, the end of a video or
zip: within the first or last bytes of the file, so that looking for it costs one short read.
"""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from reincli.errors import ReinError
from reincli.media.whole_files import clear_dead

AT_WORK = ".at-work"
"""Lies in a folder while a process writes there, and says which."""
ENDS = 512
"""Bytes at the beginning and at the end of a file in which its mark is looked for."""
_SIGN = "Made by rein "
_END = ";"


class Outputs:
    """The files that a command is about to write, against those that it reads.

    Args:
        maker: name of the command, as the mark has it.
        reads: every file that it reads; those that are not there are left out.
    """

    def __init__(self, maker: str, reads: Iterable[Path | str | None]) -> None:
        self.maker = maker
        self._read: dict[tuple[int, int], Path] = {}
        self._claimed: dict[str, str] = {}  # resolved path -> how it was named
        self._folders: set[Path] = set()
        for path in reads:
            if path is not None:
                self.protect(Path(path))

    def protect(self, path: Path) -> None:
        """One more file that is read."""
        with contextlib.suppress(OSError, ValueError):
            found = path.stat()
            if stat.S_ISREG(found.st_mode):
                self._read.setdefault((found.st_dev, found.st_ino), path)

    def claim(self, path: Path, option: str = "", *, replace: bool = False) -> Path:
        """Say that a file will be written; nothing is written yet.

        Args:
            path: of the output. option: which option named it, for messages.
            replace: the user has said that what is there may go (`--force`), or the file is known to be an old one.

        Raises:
            ReinError: it is a folder, a file that is read, an output already, or a file of somebody else's.
        """
        named = f"{option} '{path}'".strip()
        real = os.path.realpath(path)
        found = _state(str(path))
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise ReinError(f"{named} is a folder; a file was expected.", "Name a file.", usage=True)
        if found is not None and (found.st_dev, found.st_ino) in self._read:
            read = self._read[found.st_dev, found.st_ino]
            same = "" if os.path.abspath(read) == os.path.abspath(path) else f" (the same file as '{read}')"
            raise ReinError(
                f"{named} would be written over a file that this command reads{same}.",
                "Nothing was written. Name another place.",
                usage=True,
            )
        if found is not None and not stat.S_ISREG(found.st_mode):
            return path  # a device or a pipe: several outputs may go there
        if os.path.islink(real):
            raise ReinError(
                f"{named} is a link that leads to itself.",
                "Nothing was written. Remove the link, or name another place.",
                usage=True,
            )
        if real in self._claimed:
            raise ReinError(
                f"Two outputs would be one file: {self._claimed[real]} and {named}.",
                "Nothing was written. Name two places.",
                usage=True,
            )
        self._claimed[real] = named
        above = next(parent for parent in Path(real).parents if os.path.lexists(parent))
        if not above.is_dir():
            raise ReinError(
                f"{named} cannot be written: '{above}' is a file, and a folder was expected.",
                "Nothing was written. Name another place.",
                usage=True,
            )
        if found is not None and found.st_size and not replace and not self.is_ours(path):
            raise ReinError(
                f"{named} is there already, and rein {self.maker} did not write it.",
                "Nothing was written. Move it away, or name another place.",
                usage=True,
            )
        folder = Path(real).parent
        if folder not in self._folders:
            self._folders.add(folder)
            clear_dead(folder)
        return path

    def is_ours(self, path: Path) -> bool:
        """Whether a file carries the mark of this command."""
        found = mark_of(path)
        return found is not None and found.split(" ")[0] == self.maker


def keep_apart(reads: Iterable[str], writes: Iterable[str]) -> None:
    """The first rule alone, for tens of thousands of files that a command has names of its own for.

    Raises:
        ReinError: a file to be written is one that is read.
    """
    inputs = {(found.st_dev, found.st_ino): path for path in reads if (found := _state(path)) is not None}
    for path in writes:
        found = _state(path)
        if found is not None and (found.st_dev, found.st_ino) in inputs:
            raise ReinError(
                f"'{path}' would be written over '{inputs[found.st_dev, found.st_ino]}', which is read: they are the "
                "same file.",
                "Nothing was written. Remove the link.",
            )


def _state(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def at_work(place: Path, command: str, *, file: bool = False) -> Iterator[None]:
    """Be the only process that writes into a folder while the body runs; ends with the process, however that ends.

    Where nothing can be written there is nobody to be kept out.

    Args:
        place: the folder. command: of `rein`, for the sentence.
        file: it is a file to be written, and others beside it are nobody's business.

    Raises:
        ReinError: another process is at work there; says which.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = place / AT_WORK
    if file:
        real = Path(os.path.realpath(place))
        path = real.with_name(f".{zlib.crc32(os.fsencode(real.name)):08x}{AT_WORK}")
        there = _state(str(real))
        if there is not None and not stat.S_ISREG(there.st_mode):  # a device takes what several write
            yield
            return
    made = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _held(path, place, fcntl)
    except OSError:
        yield
        return
    try:
        held.truncate(0)
        held.write(
            f"rein {command}, process {os.getpid()} on {platform.node()}, since {time.strftime('%H:%M:%S')}"
        )
        held.flush()
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
            if made:
                path.parent.rmdir()  # of work that wrote nothing; any other folder stays
        held.close()


@contextlib.contextmanager
def at_work_on(command: str, *files: Path | None) -> Iterator[None]:
    """`at_work` on each of some files; None where one is not wanted."""
    with contextlib.ExitStack() as stack:
        for path in files:
            if path is not None:
                stack.enter_context(at_work(path, command, file=True))
        yield


def _held(path: Path, place: Path, locks: Any) -> IO[str]:
    """The open file of whoever is at work, locked. ReinError where another process has it."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # it is held for as long as its process works
        try:
            # of this process alone: loader processes that outlive it for a moment do not hold it
            locks.lockf(file, locks.LOCK_EX | locks.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            who = file.read(200).strip() or "another process"
            file.close()
            raise ReinError(
                f"Somebody is at work in '{place}': {who}.",
                "Wait until it is done, or choose another place.",
            ) from None
        except OSError:  # a file system without locks
            return file
        found = _state(str(path))
        if found is not None and found.st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()  # whoever had it has removed it since


# --- marks -------------------------------------------------------------------------------------------------


def mark(maker: str, content: str = "") -> str:
    """The mark of a command; `content` stands for what decides the file: letters, digits, '.', ':' and '-'."""
    return f"{_SIGN}{maker}{' ' + content if content else ''}{_END}"


def mark_of(path: Path) -> str | None:
    """Command and content that a file's mark names, with a space between; None where there is no mark."""
    try:
        with open(path, "rb") as file:
            data = file.read(ENDS)
            file.seek(max(file.seek(0, os.SEEK_END) - ENDS, 0))
            data += b"\0" + file.read(ENDS)
    except (OSError, ValueError):
        return None
    _, sign, rest = data.partition(_SIGN.encode())
    text, end, _ = rest.partition(_END.encode())
    return text.decode("ascii", "replace") if sign and end and len(text) < ENDS else None


def mark_video(path: Path, text: str) -> None:
    """Add a mark to the end of an MP4: a box of the kind that players pass over."""
    with open(path, "ab") as file:
        file.write(struct.pack(">I", 8 + len(text)) + b"free" + text.encode("latin-1"))
        file.flush()
        os.fsync(file.fileno())
