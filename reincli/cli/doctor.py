"""`rein doctor`: its options and its call."""

from __future__ import annotations

from typing import Annotated

import typer

from reincli.cli.options import Quiet, plain

EXAMPLES = (
    "rein doctor",
    "rein doctor --json",
)


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Show versions, devices, precision, and which data and weights are in place."""
    options = plain(locals())
    from reincli.commands import doctor

    doctor.run(**options)
