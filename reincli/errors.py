"""The one error class for what a user can mend; anything else that escapes is a bug."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable
from pathlib import Path


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
