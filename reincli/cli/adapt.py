"""`rein adapt`: its options and its call."""

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
    Gpus,
    Preset,
    Quiet,
    RunPrecision,
    Sets,
    plain,
)

EXAMPLES = (
    "rein adapt work_dirs/gta2citys/last.pth --target my_camera/",
    "rein adapt work_dirs/gta2citys/last.pth --target drive.mp4 --set train.iterations=4000",
    "rein adapt work_dirs/gta2citys/last.pth --preset gta2citys-adapt",
    "rein adapt work_dirs/citys2acdc/last.pth --target acdc:train --source cityscapes:train --gpus 4",
    "rein train --resume work_dirs/gta2citys-adapt",
)


def command(
    checkpoint: Checkpoint,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="SOURCE",
            help="Unlabelled images: a folder, a dataset's split, a video. Repeatable.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="NAME[:SPLIT]",
            help="Labelled images to train on as well; else those of the settings. Repeatable.",
        ),
    ] = None,
    preset: Preset = None,
    config: Config = None,
    sets: Sets = None,
    backbone: Backbone = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            "--work-dir",
            metavar="DIR",
            help="Folder of the run. [dim]\\[default: work_dirs/NAME-adapt][/dim]",
        ),
    ] = None,
    data_root: DataRoot = None,
    gpus: Gpus = 1,
    precision: RunPrecision = None,
    device: Device = "auto",
    any_backbone: AnyBackbone = False,
    quiet: Quiet = False,
) -> None:
    """Adapt a trained checkpoint to unlabelled images: your own camera, another city, the night."""
    options = plain(locals())
    from reincli.commands import adapt

    adapt.run(**options)
