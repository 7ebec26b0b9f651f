"""Progress, notes and results go where they belong."""

from __future__ import annotations

import contextlib
import contextvars
import io
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from reincli.commands import console
from reincli.commands.console import configure, duration, note, progress, result, table


def run_in_context(function):
    return contextvars.copy_context().run(function)


def test_results_on_stdout_notes_on_stderr(capsys):
    result("[bold]66.7[/bold]")
    note("reading [weights] from /a/b")
    out, err = capsys.readouterr()
    assert out == "[bold]66.7[/bold]\n"
    assert err == "reading [weights] from /a/b\n"


def test_quiet_leaves_results_and_problems(capsys):
    def quiet():
        configure(quiet=True)
        note("not shown")
        with progress("counting", 3) as advance:
            advance(3)
        result("66.7")
        console.problem("one file is broken")
        console.error("No such thing.", "Try another.")

    run_in_context(quiet)
    out, err = capsys.readouterr()
    assert out == "66.7\n"
    assert err == "one file is broken\nerror: No such thing.\nTry another.\n"


def test_quiet_ends_with_its_context(capsys):
    run_in_context(lambda: configure(quiet=True))
    note("heard")
    assert capsys.readouterr().err == "heard\n"


def test_plain_progress_is_one_line_when_it_is_short(capsys):
    with progress("predicting", 40) as advance:
        for index in range(40):
            advance(note=f"frame {index}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("predicting: 40/40")
    assert lines[0].endswith("frame 39")


def test_plain_progress_every_ten_seconds(capsys, monkeypatch):
    clock = iter(range(0, 10_000))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with progress("training", 60) as advance:
        for _ in range(60):
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 8
    assert "left" in lines[0]
    assert lines[-1].startswith("training: 60/60")


def test_progress_that_stops_early_says_how_far(capsys):
    with contextlib.suppress(ValueError), progress("predicting", 40) as advance:
        advance(7)
        raise ValueError
    assert "7/40" in capsys.readouterr().err


def test_bar_on_a_terminal_with_notes_above(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, markup=False, highlight=False)
    monkeypatch.setattr(console, "_stderr", lambda: terminal)
    with progress("predicting", 2) as advance:
        advance(note="mIoU [41]")
        note("a remark")
        advance()
    text = screen.getvalue()
    assert "2/2" in text
    assert "took" in text
    assert "mIoU [41]" in text
    assert "a remark\n" in text


def test_table_is_not_cut_in_a_pipe(capsys):
    long = "x" * 120
    table(("class", "IoU"), [(long, "66.70")], title="Domains", numbers=("IoU",), footer=("mean", "66.70"))
    out = capsys.readouterr().out
    assert "Domains" in out
    assert long in out
    assert out.count("66.70") == 2


@given(st.floats(0, 1e6))
def test_duration_never_shows_sixty(seconds):
    assert (
        "60" not in duration(seconds).split(" ")[::2] or seconds >= 59 * 3600
    )  # sixty hours are sixty hours


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.41, "0.4 s"), (42, "42 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7890, "2 h 11 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0, 1e5))
def test_pace_at_any_moment(done, more, seconds):
    text = console._pace(done, done + more, seconds)
    assert ("left" in text) == bool(done and more and seconds)
    assert ("took" in text) == bool(done and not more and seconds)


def test_pace_reads_well():
    assert console._pace(0, 9, 0.2) == ""
    assert console._pace(0, 9, 12) == "12 s"
    assert console._pace(1, 9, 5) == "5.0 s each, 40 s left"
    assert console._pace(90, 100, 3) == "30/s, 0.3 s left"
    assert console._pace(100, 100, 65) == "1.5/s, took 1 min 05 s"


def test_a_table_wider_than_the_terminal_is_divided(monkeypatch, capsys):
    monkeypatch.setattr(console, "output", lambda: Console(width=40, file=sys.stdout))
    headings = ["split", *(f"heading {n}" for n in range(7))]
    rows = [[name, *(str(n) for n in range(7))] for name in ("train", "val")]
    console.table(headings, rows, title="wide", footer=["both", *"7654321"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    text = "\n".join(lines)
    for n in range(7):
        assert text.count(f"heading {n}") == 1
    assert text.count("split") == text.count("train") == text.count("both") > 2
    assert text.count("wide") == 1


def test_a_table_in_an_ascii_terminal_keeps_its_columns(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(console, "output", lambda: Console(width=60, file=stream))
    console.table(("class", "IoU"), [("道路", "1.00"), ("road", "2.00")])
    stream.seek(0)
    lines = [line for line in stream.read().splitlines() if "00" in line]
    assert "\\u9053\\u8def" in lines[0]
    assert lines[0].index("1.00") == lines[1].index("2.00")


def test_of_an_unknown_total_none_is_shown(capsys):
    with progress("stream", 0) as advance:
        advance(7)
    assert re.fullmatch(r"stream: 7, .* so far\n", capsys.readouterr().err)
