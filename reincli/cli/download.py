"""`rein download`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import Quiet, plain

EXAMPLES = (
    "rein download --list",
    "rein download dinov2_l gta2citys",
    "rein download gta --to /disk/gta --parallel 4",
    "rein download acdc --mirror http://fileserver/mirror",
)


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME…", help="Backbones, presets (their released checkpoint), datasets."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show what would be fetched, and how large; without NAME: all.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Save here; else in checkpoints/ and data/NAME."),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror", metavar="URL", help="Fetch from this folder, by the names files are saved under."
        ),
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=16, help="Files at a time.")] = 3,
    quiet: Quiet = False,
) -> None:
    """Fetch weights, released checkpoints and open datasets; goes on where it stopped. No other command fetches."""
    options = plain(locals())
    from reincli.commands import download

    download.run(**options)
