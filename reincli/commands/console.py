"""The terminal: results on stdout; notes, progress and errors on stderr; `--quiet` leaves the results alone.

Whether to be quiet belongs to the command that is running, so it is kept in a context variable: `cli` opens a
fresh context for each command and nothing is left behind.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines where stderr is no terminal."""
PIPE_WIDTH = 200
"""Columns where stdout is no terminal, so that a table in a file or a pipe is not cut at 80."""


@dataclass(frozen=True)
class _Terminal:
    quiet: bool = False
    live: Console | None = None  # the console of a bar that is being drawn: notes go above the bar


_terminal: ContextVar[_Terminal] = ContextVar("rein_terminal", default=_Terminal())  # noqa: B039  # it is frozen


class Advance(Protocol):
    """What `progress` yields: `n` more are done; `note` replaces the remark at the end of the line."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...


def configure(quiet: bool) -> None:
    """Set for the running command whether notes and progress are shown."""
    _terminal.set(replace(_terminal.get(), quiet=quiet))


def output() -> Console:
    """The console for results (stdout). Text is shown as it is: no markup, no guessing of colours."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def result(text: str) -> None:
    """Print a result line on stdout, never wrapped."""
    output().print(text, soft_wrap=True)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    numbers: Collection[str] = (),
    footer: Sequence[str] | None = None,
) -> None:
    """Print a table of results on stdout.

    Args:
        columns: headings.
        rows: cells, as many a row as there are columns.
        title: line above the table.
        numbers: headings of the columns that hold numbers; they are aligned to the right.
        footer: a last row set off by a line, for means and totals.
    """
    console = output()
    cells = [[_sayable(cell, console) for cell in row] for row in (columns, *rows, footer or ())]
    widths = [max(cell_len(row[at]) for row in cells if row) for at in range(len(columns))]
    for at, part in enumerate(_fitting(widths, console.width)):
        grid = Table(
            title=_sayable(title, console) if title and not at else None,
            title_justify="left",
            title_style="bold",
            header_style="bold",
            box=box.SIMPLE_HEAD,
        )
        for place in part:
            right = columns[place] in numbers
            grid.add_column(cells[0][place], justify="right" if right else "left", overflow="fold")
        for row in cells[1:-1]:
            grid.add_row(*(Text(row[place]) for place in part))
        if footer is not None:
            grid.add_section()
            grid.add_row(*(Text(cells[-1][place]) for place in part), style="bold")
        console.print(grid)


def _fitting(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns of a table of these widths, divided so that each part fits the room; the first is in every part."""
    parts = [[0]]
    for place in range(1, len(widths)):
        wanted = sum(widths[each] + 3 for each in (*parts[-1], place)) + 1
        if wanted > room and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].append(place)
    return parts


def _sayable(text: str, console: Console) -> str:
    """A text as the terminal shows it, before it is measured: what its encoding lacks is written as escapes."""
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)


def note(text: str) -> None:
    """One remark for the user, on stderr; nothing with --quiet."""
    terminal = _terminal.get()
    if not terminal.quiet:
        (terminal.live or _stderr()).print(text, soft_wrap=True)


def problem(text: str) -> None:
    """Something went wrong with one of many things: on stderr, with --quiet too."""
    (_terminal.get().live or _stderr()).print(text, soft_wrap=True, style="yellow")


def remarks(notes: Iterable[str], doubts: Collection[str] = ()) -> None:
    """Notes, of which those that make results doubtful are told with --quiet too."""
    for text in notes:
        (problem if text in doubts else note)(text)


def error(message: str, hint: str = "") -> None:
    """Why the command failed, and below it what to do next."""
    console = _stderr()
    console.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    if hint:
        console.print(hint, soft_wrap=True)


@contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """Count to `total` on stderr: a bar on a terminal, a line every ten seconds elsewhere, nothing if quiet.

    Args:
        description: what is being done, a few words.
        total: how many there are; 0: nobody knows.

    Yields:
        `advance(n=1, note="")`.
    """
    terminal = _terminal.get()
    if terminal.quiet:
        yield _say_nothing
        return
    console = terminal.live or _stderr()
    if console.is_terminal and terminal.live is None:
        with _bar(console, description, total) as advance:
            token = _terminal.set(replace(terminal, live=console))
            try:
                yield advance
            finally:
                _terminal.reset(token)
    else:
        lines = _PlainLines(console, description, total)
        try:
            yield lines.advance
        finally:
            lines.close()


@contextmanager
def _bar(console: Console, description: str, total: int) -> Iterator[Advance]:
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn() if total else TextColumn("{task.completed}"),
        _PaceColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        refresh_per_second=4,
        redirect_stdout=sys.stdout.isatty(),  # results that go to a file or a pipe stay out of the bar
    )
    with bar:
        task = bar.add_task(description, total=total or None, note="", at=0.0)

        def advance(n: int = 1, note: str = "") -> None:
            bar.update(task, advance=n, at=bar.tasks[0].elapsed)
            if note:
                bar.update(task, note=note)

        yield advance


class _PaceColumn(ProgressColumn):
    """Rate and time left over the whole of the task: steady, and known from the first one done."""

    def render(self, task: Task) -> Text:
        """As rich asks for each line that it draws."""
        seconds = (
            task.fields["at"] if task.completed else task.elapsed
        )  # at the last advance: steady between two
        return Text(_pace(int(task.completed), int(task.total or 0), seconds or 0.0), style="cyan")


class _PlainLines:
    """Progress for a log file: first line after ten seconds, the last one always, unless nothing was done."""

    def __init__(self, console: Console, description: str, total: int) -> None:
        self.console, self.description, self.total = console, description, total
        self.done, self.note = 0, ""
        self.start = self.shown_at = time.monotonic()
        self.shown = 0

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more are done; a line where the last one is old."""
        self.done += n
        self.note = note or self.note
        if time.monotonic() - self.shown_at >= PLAIN_INTERVAL:
            self._show()

    def close(self) -> None:
        """The last line, unless it was shown."""
        if self.done > self.shown:
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        parts = [
            f"{self.done}/{self.total}" if self.total else f"{self.done}",
            _pace(self.done, self.total, now - self.start),
        ]
        if self.note:
            parts.append(self.note)
        self.console.print(f"{self.description}: " + ", ".join(filter(None, parts)), soft_wrap=True)
        self.shown_at, self.shown = now, self.done


def duration(seconds: float) -> str:
    """Seconds as a person writes them: '0.4 s', '42 s', '3 min 05 s', '2 h 11 min'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _pace(done: int, total: int, seconds: float) -> str:
    """'3.2/s, 42 s left'; at the end '3.2/s, took 1 min 05 s'; while nothing is done, how long it has been.

    Of an unknown total, 0: '3.2/s, 42 s so far'.
    """
    if not done or seconds <= 0:
        return duration(seconds) if seconds >= 1 else ""
    speed = done / seconds
    if not total:
        return f"{_rate(speed)}, {duration(seconds)} so far"
    rest = f"{duration((total - done) / speed)} left" if done < total else f"took {duration(seconds)}"
    return f"{_rate(speed)}, {rest}"


def _rate(speed: float) -> str:
    if speed >= 0.95:
        return f"{speed:.0f}/s" if speed >= 20 else f"{speed:.1f}/s"
    return f"{1 / speed:.1f} s each"


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def _say_nothing(n: int = 1, note: str = "") -> Any:
    """`advance` of a quiet command."""
