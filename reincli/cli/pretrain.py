"""`rein pretrain`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import Device, Precision, PrecisionOption, Quiet, plain

EXAMPLES = (
    "rein pretrain mine.safetensors --device cuda --steps 50000",
    "rein pretrain --steps 20",
)


def command(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="The backbone. [dim]\\[default: checkpoints/mini.safetensors][/dim]"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Else as the shipped one was made.")
    ] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", min=256, help="Patches in a step.")] = None,
    lights: Annotated[
        int | None,
        typer.Option("--lights", min=1, help="Pictures of each world whose features shall be alike."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of weights and worlds.")] = None,
    precision: PrecisionOption = Precision.auto,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make the small backbone anew that `rein demo` starts from: a ViT that learns from generated worlds."""
    options = plain(locals())
    from reincli.commands import pretrain

    pretrain.run(**options)
