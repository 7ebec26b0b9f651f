"""`rein convert-weights`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import AnyBackbone, Backbone, Config, Preset, Quiet, plain

EXAMPLES = (
    "rein convert-weights",
    "rein convert-weights --height 1024",
    "rein convert-weights dinov2_vits14_pretrain.pth checkpoints/dinov2_s_converted.safetensors",
    "rein convert-weights --kind sam_h --height 1024",
    "rein convert-weights work_dirs/mine/last.pth original.pth --kind original",
    "rein convert-weights work_dirs/mine/last.pth --merge",
)


def command(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="Raw weights. [dim]\\[default: the usual file of --kind under checkpoints/][/dim]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TARGET]",
            help="File to write. [dim]\\[default: named after the size][/dim]",
            show_default=False,
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option("--height", min=1, help="Image height in pixels. [dim]\\[default: 512][/dim]"),
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", min=1, help="Image width. [dim]\\[default: the height][/dim]")
    ] = None,
    patch: Annotated[int, typer.Option("--patch", min=1, help="Patch size to convert to.")] = 16,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="NAME",
            help="Backbone family, such as clip_l; or `original`: write a checkpoint back in the original's form.",
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="SOURCE is a checkpoint: write its backbone, minor directions worked in."
        ),
    ] = False,
    preset: Preset = None,
    config: Config = None,
    backbone: Backbone = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the target.")] = False,
    any_backbone: AnyBackbone = False,
    quiet: Quiet = False,
) -> None:
    """Fit raw foundation weights to a patch and image size. (Optional: raw files are taken everywhere.)"""
    options = plain(locals())
    from reincli.commands import convert_weights

    convert_weights.run(**options)
