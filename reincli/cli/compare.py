"""`rein compare`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import Quiet, plain

EXAMPLES = (
    "rein compare a.json b.json",
    "rein compare a.json b.json --json differences.json",
)


def command(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="What rein eval --json wrote.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="The same of another model.")],
    draws: Annotated[int, typer.Option("--draws", min=100, help="Bootstrap samples of the images.")] = 2000,
    level: Annotated[
        float, typer.Option("--level", min=50.0, max=99.9, help="Of the intervals, in percent.")
    ] = 95.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draws.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the differences as JSON.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Say by how much B is better than A, by class and domain, and whether chance may explain it."""
    options = plain(locals())
    from reincli.commands import compare

    compare.run(**options)
