"""The one error class for what a user can mend; anything else that escapes is a bug."""

from __future__ import annotations

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
    lost, *rest = path.parts[0 if present == Path() else len(present.parts) :]
    try:
        with os.scandir(present) as entries:
            names = sorted(
                each.name
                for each in islice(entries, MOST_NAMES)
                if each.is_dir() == bool(rest or folder)
                and (rest or folder or not suffixes or each.name.lower().endswith(tuple(suffixes)))
            )
    except OSError:
        return "Check the path."
    close = [present / name for name in difflib.get_close_matches(lost, names, n=2, cutoff=0.6)]
    whole = [each.joinpath(*rest) for each in close if each.joinpath(*rest).exists()]
    if close:
        return "Did you mean " + " or ".join(f"'{each}'" for each in whole or close) + "?"
    if rest:
        return f"There is no '{present / lost}' either: check the path."
    shown = ", ".join(names[:SHOWN_NAMES]) + (
        f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    )
    return f"'{present}' has {shown}." if names else "Check the path."
