"""A file to make, as planning finds it and preparing does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reincli.prepare.corruption import Corruption


@dataclass(frozen=True)
class Job:
    """One file to make: `form` says how (`convert.convert`); a corruption is drawn onto the image instead.

    Names are text: where 25,000 files are there already, making paths of them takes longer than looking at them.
    """

    form: str
    reads: str
    writes: str
    corruption: Corruption | None = None

    @property
    def source(self) -> Path:
        """The raw file."""
        return Path(self.reads)

    @property
    def target(self) -> Path:
        """The file to make."""
        return Path(self.writes)
