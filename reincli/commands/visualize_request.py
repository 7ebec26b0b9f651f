"""What `rein visualize` is asked for: whether the options go together, times in seconds, what is still to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reincli.commands.console import note
from reincli.config import parse_size
from reincli.errors import ReinError
from reincli.media.inputs import Input


@dataclass(frozen=True)
class Request:
    """What is to be drawn and how: the words of the command line that every kind of input needs.

    Attributes:
        labels: also write class indices. truth: file or folder of right labels.
        start, end: of a video, in seconds. every: take one image or frame of so many.
    """

    out: Path
    labels: bool = False
    force: bool = False
    truth: Path | None = None
    start: float | None = None
    end: float | None = None
    every: int = 1


def require_sense(size: str, style: str, compare: Path | None, truth: Path | None) -> None:
    """Refuse options that contradict each other before anything heavy is loaded."""
    try:
        parse_size(size)
    except ValueError as error:
        raise ReinError(f"--size: {error}.", usage=True) from None
    if style == "error" and truth is None:
        raise ReinError("--style error needs the right labels.", "Give --gt with their folder.", usage=True)
    if style == "compare" and compare is None:
        raise ReinError("--style compare needs a second checkpoint.", "Give --compare FILE.", usage=True)
    if compare is not None and style not in ("overlay", "compare"):
        raise ReinError(
            f"--compare and --style {style} do not go together.", "Leave out one of them.", usage=True
        )
    if truth is not None and not truth.exists():
        raise ReinError(f"There is no label or folder of labels at '{truth}' (--gt).", usage=True)


def seconds(text: str | None, option: str) -> float | None:
    """'90', '1:30', '0:01:30.5' -> seconds.

    Raises:
        ReinError: no time.
    """
    if text is None:
        return None
    total = 0.0
    try:
        parts = [float(part) for part in text.split(":")]
        if len(parts) > 3 or any(part < 0 for part in parts):
            raise ValueError
    except ValueError:
        raise ReinError(
            f"{option} '{text}' is no time.", "Write seconds (90), or minutes and hours (1:30, 0:01:30.5).",
            usage=True,
        ) from None  # fmt: skip
    for part in parts:
        total = 60 * total + part
    return total


def span(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    """`--start` and `--end` in seconds.

    Raises:
        ReinError: no times, or an end that is not after the start.
    """
    first, last = seconds(start, "--start"), seconds(end, "--end")
    if last is not None and last <= (first or 0.0):
        raise ReinError(f"--end {end} is not after --start {start or 0}.", usage=True)
    return first, last


def not_done(inputs: list[Input], request: Request) -> list[Input]:
    """Those that are still to be drawn; the user is told of the others."""
    if request.force:
        return inputs
    todo = [
        each for each in inputs
        if not each.target.exists() or (request.labels and not each.label.exists())
    ]  # fmt: skip
    if len(todo) < len(inputs):
        note(f"{count(len(inputs) - len(todo))} already drawn are kept; --force draws them again.")
    return todo


def count(number: int) -> str:
    """'1 picture', '2 pictures'."""
    return f"{number} picture" + ("" if number == 1 else "s")
