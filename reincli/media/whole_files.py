"""Writing a file whole or not at all, and the temporary names under which that is done."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from reincli.errors import ReinError

_OPEN_FILE = re.compile(r"/(?:proc/self|dev)/fd/(\d+)")
_LINKS = 40
"""Links that are followed, one after another, before a path is called circular."""
_NAME_LENGTH = 120
"""Characters of a file's name up to which its temporary name repeats it."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary name in the same folder, flush, rename.

    Raises:
        ReinError: no permission or no space.
    """
    with replace_whole(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replace_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside a file, to be written to; it becomes the file at the end, or is removed on an error.

    A symbolic link is written through. Devices, pipes and what is open already (`/dev/stdout`) take the bytes of the
    finished temporary file; they are never replaced.

    Raises:
        ReinError: no permission or no space.
    """
    stream = _stream(path)
    real = path if stream is not None or not path.is_symlink() else Path(os.path.realpath(path))
    temporary = temporary_beside(real) if stream is None else Path(tempfile.mkstemp(suffix=".tmp")[1])
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if stream is None:
            os.replace(temporary, real)
        else:
            _pour(temporary, stream)
    except OSError as error:
        raise ReinError(
            f"Cannot write '{path}': {error.strerror}.",
            "Check free space and permission, or choose another folder.",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _stream(path: Path) -> Path | int | None:
    """The number of an open file that a path stands for, or the path of a device or pipe; None for plain files."""
    name = os.path.abspath(path)
    for _ in range(_LINKS):
        if found := _OPEN_FILE.fullmatch(name):
            return int(found[1])
        try:
            name = os.path.join(os.path.dirname(name), os.readlink(name))
        except OSError:
            break
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else path


def _pour(source: Path, stream: Path | int) -> None:
    sys.stdout.flush()
    handle = os.dup(stream) if isinstance(stream, int) else os.open(stream, os.O_WRONLY)
    with open(source, "rb") as file, open(handle, "wb") as out:
        shutil.copyfileobj(file, out)


def version_of(path: Path) -> list[int]:
    """Size and time of the last change (ns), by which a file is told from its successor. OSError: it is not there."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


# --- temporary names ---------------------------------------------------------------------------------------


def temporary_beside(path: Path) -> Path:
    """The temporary name under which this process writes a file; it says whose it is."""
    name = path.name
    if len(name) > _NAME_LENGTH:  # a file system takes 255 bytes
        name = f"{zlib.crc32(os.fsencode(name)):08x}"
    return path.with_name(f".{name}.{_host()}.{os.getpid()}.tmp")


def clear_dead_below(folder: Path) -> int:
    """`clear_dead` in a folder and all below it."""
    return sum(clear_dead(Path(each)) for each, _, _ in os.walk(folder))


def clear_dead(folder: Path) -> int:
    """Remove temporary files and folders in a folder whose process on this machine is no more; how many."""
    removed = 0
    pattern = re.compile(rf"\..*\.{re.escape(_host())}\.(\d+)\.tmp")
    try:
        with os.scandir(folder) as entries:
            found = [(entry.path, m) for entry in entries if (m := pattern.fullmatch(entry.name))]
    except OSError:
        return 0
    for path, match in found:
        if not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
                removed += 1
    return removed


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:32] or "here"


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there, asking ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's
    return True
