"""The one error class for what a user can mend; anything else that escapes is a bug."""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path

MOST_NAMES = 10_000
"""Of a folder that are looked at for one like a mistyped one."""
SHOWN_NAMES = 4


class ReinError(Exception):
    """Something the user can mend.

    Args:
        message: one sentence: what is wrong (with the value) and what was expected.
        hint: what to do next.
        usage: True where the command was called wrongly (exit code 2), False where
            a right call failed (exit code 1).
    """

    def __init__(self, message: str, hint: str = "", *, usage: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.usage = usage

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class Terminated(KeyboardInterrupt):
    """Told to end by SIGTERM: like Ctrl-C for whoever clears up, with an exit code of its own."""


def typed(path: Path | str) -> str:
    """A path as it is typed in a command that a hint names: in quotes where a shell would take it apart."""
    if os.name == "nt":
        return f'"{path}"' if " " in str(path) else str(path)
    return shlex.quote(str(path))


def nearest(name: str, known: Iterable[str]) -> str:
    """'did you mean …?' for a mistyped name, or the known names where none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if close:
        return "Did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return "Known: " + ", ".join(names) + "."


def instead_of(path: Path, suffixes: Collection[str] = (), folder: bool = False) -> str:
    """A hint for a path that is not there: the nearest one that is, or what lies where the path breaks off.

    Args:
        path: the file (or folder) that was asked for.
        suffixes: of files that would do; none: any.
        folder: whether a folder was asked for.
    """
    present = path.parent
    while not present.is_dir() and present != present.parent:
        present = present.parent
    lost, *rest = path.parts[0 if present == Path() else len(present.parts) :] or (".",)
    blocking = _in_the_way(present / lost, bool(rest or folder))
    if blocking:
        return blocking
    try:
        with os.scandir(present) as entries:
            every = list(islice(entries, MOST_NAMES + 1))
    except OSError:
        return "Check the path."
    folders = {each.name for each in every if _is_folder(each)}
    fitting = {each.name for each in every} - folders
    if suffixes:
        fitting = {name for name in fitting if name.lower().endswith(tuple(suffixes))}
    names = sorted(folders if rest or folder else fitting)
    close = _alike(lost, names)
    if not close and not rest and not folder and not Path(lost).suffix:
        close = _alike(lost, sorted(folders))  # what lies in it is told when it is asked for
    whole = [present.joinpath(name, *rest) for name in close]
    whole = [each for each in whole if _would_do(each, suffixes, folder)] if rest else whole
    if close:
        shown = whole or [present / name for name in close]
        return "Did you mean " + " or ".join(f"'{each}'" for each in shown) + "?"
    if rest:
        return f"There is no '{present / lost}' either: check the path."
    if not names:
        return "Check the path."
    more = " and others" if len(every) > MOST_NAMES else f" and {len(names) - SHOWN_NAMES} more"
    return f"'{present}' has {', '.join(names[:SHOWN_NAMES])}{more if len(names) > SHOWN_NAMES else ''}."


def _in_the_way(path: Path, folder: bool) -> str:
    """A sentence for what lies at a path and is not what was asked for there; '' where nothing does."""
    with contextlib.suppress(OSError):
        if path.is_symlink() and not path.exists():
            return f"'{path}' is a link to '{os.readlink(path)}', which leads nowhere: mend or remove it."
        if path.is_dir():
            return "" if folder else f"'{path}' is a folder: give a file."
        if path.exists():
            kind = "file" if path.is_file() else "device or a pipe"
            return f"'{path}' is a {kind}, not a {'folder' if folder else 'file'}."
    return ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; a link that leads back to itself is none, and no error."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _alike(name: str, names: Iterable[str]) -> list[str]:
    """The names like a mistyped one, capitals or not."""
    plain: dict[str, str] = {}
    for each in names:
        plain.setdefault(each.casefold(), each)
    return [plain[each] for each in difflib.get_close_matches(name.casefold(), plain, n=2, cutoff=0.6)]


def _would_do(path: Path, suffixes: Collection[str], folder: bool) -> bool:
    """Whether what lies at a path is of the kind that was asked for."""
    try:
        if folder:
            return path.is_dir()
        return path.is_dir() or (
            path.exists() and (not suffixes or path.name.lower().endswith(tuple(suffixes)))
        )
    except OSError:
        return False
