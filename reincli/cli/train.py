"""`rein train`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import (
    AnyBackbone,
    Backbone,
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
    "rein train --preset gta2citys",
    "rein train --preset gta2citys-vit_b --set optim.lr=6e-5 --work-dir work_dirs/slow",
    "rein train --config mine.toml --device cuda:1",
    "rein train --preset citys2acdc --gpus 4",
    "rein train --resume work_dirs/gta2citys",
)


def command(
    preset: Preset = None,
    config: Config = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN_DIR", help="Go on with a run that was stopped.")
    ] = None,
    sets: Sets = None,
    backbone: Backbone = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            "--work-dir", metavar="DIR", help="Folder of the run. [dim]\\[default: work_dirs/NAME][/dim]"
        ),
    ] = None,
    data_root: DataRoot = None,
    gpus: Gpus = 1,
    precision: RunPrecision = None,
    device: Device = "auto",
    any_backbone: AnyBackbone = False,
    quiet: Quiet = False,
) -> None:
    """Train adapters and head. Give one of --preset, --config and --resume."""
    options = plain(locals())
    from reincli.commands import train

    train.run(**options)
