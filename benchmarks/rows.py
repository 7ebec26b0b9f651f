"""A benchmark of rows: each is measured in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def options(description: str | None, rows: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all such benchmarks have; add those of one, parse, and hand them to `run`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help=f"rows, comma-separated; else {', '.join(rows)}")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser


def run(
    given: argparse.Namespace,
    rows: Sequence[str],
    measure: Callable[[str], Figures],
    line: Callable[[Figures], str],
    heading: str = "",
) -> None:
    """Measure rows one after another and print a line each; one that fails is named and does not stop the rest.

    Args:
        given: of `options`. With `row` this is a row's own process, which prints its figures as JSON.
        rows: taken unless `only` names others.
        measure: figures of a row.
        line: figures as a line of the table.
        heading: line above them.
    """
    if given.row:
        print(json.dumps(measure(given.row)))
        return
    if heading:
        print(heading, flush=True)
    results = []
    for row in given.only.split(",") if given.only else rows:
        command = [sys.executable, *sys.argv, "--row", row]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["failed"]
            print(f"{row}: {reason[0]}", flush=True)
            continue
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(line(results[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
