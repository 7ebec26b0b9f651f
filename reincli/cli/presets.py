"""`rein presets`: its options and its call."""

from __future__ import annotations

from typing import Annotated

import typer

from reincli.cli.options import Quiet, plain

EXAMPLES = (
    "rein presets",
    "rein presets gta2citys > mine.toml",
)


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print this one in full, as TOML.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """List the settings with their published scores, or print one resolved."""
    options = plain(locals())
    from reincli.commands import presets

    presets.run(**options)
