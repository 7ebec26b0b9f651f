"""RAR archives, by whatever program for them is installed: Python reads none.

A program lists the names first; it is then given a file with the names that are wanted. What comes out of it is for the
caller to look through.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reincli.errors import ReinError

POLL = 0.5
"""Seconds between looks at how far a program is."""
NAMES, SAID = "names.txt", "said.txt"
"""Files beside what is unpacked: what was asked for, and what the program said."""


@dataclass(frozen=True)
class Program:
    """One program: words that list an archive, words that unpack (archive, file of names, folder).

    `mark` is what stands before each name in its list.
    """

    name: str
    lists: tuple[str, ...]
    unpacks: Callable[[str, str, str], tuple[str, ...]]
    mark: str = ""


def _unrar(archive: str, names: str, folder: str) -> tuple[str, ...]:
    return "x", "-idq", "-o+", "-p-", "--", archive, f"@{names}", f"{folder}{os.sep}"


def _seven_zip(archive: str, names: str, folder: str) -> tuple[str, ...]:
    return "x", "-y", "-bso0", "-bsp0", f"-o{folder}", f"-i@{names}", "--", archive


def _bsdtar(archive: str, names: str, folder: str) -> tuple[str, ...]:
    return "-xf", archive, "-C", folder, "-T", names


PROGRAMS = (
    Program("unrar", ("lb", "-p-", "--"), _unrar),
    Program("7zz", ("l", "-ba", "-slt", "--"), _seven_zip, mark="Path = "),
    Program("7z", ("l", "-ba", "-slt", "--"), _seven_zip, mark="Path = "),
    Program("bsdtar", ("-tf",), _bsdtar),
)
"""In the order in which they are tried; 7z may have been built without RAR."""


def read_names(archive: Path) -> tuple[Program, list[str]]:
    """What an archive holds, as the program that could tell writes it (some archives have '\\' between folders).

    Raises:
        ReinError: no program is installed, or none can read the archive.
    """
    there = [program for program in PROGRAMS if shutil.which(program.name)]
    if not there:
        programs = ", ".join(program.name for program in PROGRAMS)
        message = f"Unpacking '{archive}' needs a program for RAR archives; none of {programs} is installed."
        raise ReinError(
            message,
            f"Install one, or unpack it by hand into '{archive.parent}', without a folder around its content, and give "
            "the same command.",
        )
    reasons = []
    for program in there:
        done = subprocess.run(
            [program.name, *program.lists, str(archive)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith(program.mark)]
        names = [line.removeprefix(program.mark) for line in lines]
        if done.returncode == 0 and any(names):
            return program, [name for name in names if name]
        reasons.append(f"{program.name}: {_last_line(done.stderr)}")
    size = archive.stat().st_size
    message = f"The archive '{archive}' ({size:,} bytes) cannot be unpacked: {'; '.join(reasons)}."
    raise ReinError(message, f"Fetch it again, or unpack it by hand into '{archive.parent}'.")


def unpack(
    program: Program, archive: Path, names: Sequence[str], folder: Path
) -> Generator[int, None, Complaints | None]:
    """Unpack some members into an empty folder, below `files/`; yields how many files are there so far.

    Returns:
        None where the program succeeded, else what it complained of. A program goes on behind a file that fails its
        checksum; whether it leaves what it got of such a file is its own affair.
    """
    files = folder / "files"
    files.mkdir(parents=True)
    (folder / NAMES).write_text("".join(f"{name}\n" for name in names), "utf-8")
    words = program.unpacks(str(archive.absolute()), str((folder / NAMES).absolute()), str(files.absolute()))
    with open(folder / SAID, "wb") as said:
        process = subprocess.Popen(
            [program.name, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
                yield sum(len(found) for _, _, found in os.walk(files))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode == 0:
        return None
    text = (folder / SAID).read_text("utf-8", "replace")
    return Complaints(f"{program.name}: {_last_line(text)}", text)


@dataclass(frozen=True)
class Complaints:
    """What a program wrote when it failed: its last line, and all of it."""

    last: str
    text: str

    def names(self, name: str) -> bool:
        """Whether a member is named in it, whichever way its folders are parted."""
        return name.replace("\\", "/") in self.text.replace("\\", "/")


def found_file(files: Path, name: str) -> Path:
    """Where a member was unpacked to: some programs make folders of '\\', some leave it in the file's name."""
    literal = files / name
    return literal if literal.is_symlink() or literal.exists() else files / name.replace("\\", "/")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it failed").rstrip(
        "."
    )
