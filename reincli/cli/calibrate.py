"""`rein calibrate`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import (
    AnyBackbone,
    Backbone,
    Checkpoint,
    Config,
    DataRoot,
    Device,
    ModeOption,
    Precision,
    PrecisionOption,
    Preset,
    Quiet,
    plain,
)

EXAMPLES = (
    "rein calibrate work_dirs/gta2citys/last.pth --data cityscapes:val",
    "rein calibrate checkpoints/dinov2_rein_and_head.pth --data acdc:val --out calibrated.pth",
)


def command(
    checkpoint: Checkpoint,
    preset: Preset = None,
    config: Config = None,
    backbone: Backbone = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="NAME[:SPLIT]", help="Labelled images; else as the settings say. Repeatable."
        ),
    ] = None,
    own: Annotated[
        Path | None, typer.Option("--own", metavar="FILE.toml", help="Own data described here instead.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.pth", help="Write here, and leave the checkpoint as it is."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Fit anew what is calibrated already; write over --out.")
    ] = False,
    mode: ModeOption = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="native|WxH", help="Test size; else the setting's own for each dataset."
        ),
    ] = None,
    data_root: DataRoot = None,
    precision: PrecisionOption = Precision.auto,
    device: Device = "auto",
    any_backbone: AnyBackbone = False,
    quiet: Quiet = False,
) -> None:
    """Make a model as sure as it is right: fit one temperature and keep it in the checkpoint."""
    options = plain(locals())
    from reincli.commands import calibrate

    calibrate.run(**options)
