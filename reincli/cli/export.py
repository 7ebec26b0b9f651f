"""`rein export`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import AnyBackbone, Backbone, Checkpoint, Config, Preset, Quiet, plain

EXAMPLES = (
    "rein export work_dirs/gta2citys/last.pth",
    "rein export work_dirs/gta2citys/last.pth --what scores --batch dynamic --out model.onnx",
    "rein export work_dirs/mine/last.pth --format openvino --size 1024x512 --images frames/",
    "rein visualize frames/ --checkpoint work_dirs/gta2citys/last.onnx",
)


def command(
    checkpoint: Checkpoint,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; else beside the checkpoint.")
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="onnx|openvino|torch", help="For which runtime.")
    ] = "onnx",
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Size of its images; else the window of the setting."),
    ] = None,
    batch: Annotated[
        str, typer.Option("--batch", metavar="N|dynamic", help="Images at a time, or any number.")
    ] = "1",
    what: Annotated[
        str,
        typer.Option(
            "--what",
            metavar="labels|scores|queries",
            help="What it answers: class indices; scores of classes, which windows and --tta want; or queries.",
        ),
    ] = "labels",
    layout: Annotated[
        str, typer.Option("--layout", metavar="nchw|nhwc", help="Order of its input, uint8 RGB 0-255.")
    ] = "nchw",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="fp32|fp16|bf16|int8",
            help="Of the products; int8 is calibrated on --images.",
        ),
    ] = "fp32",
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of images to prove it on; else generated streets."),
    ] = None,
    preset: Preset = None,
    config: Config = None,
    backbone: Backbone = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    any_backbone: AnyBackbone = False,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint as a file for other runtimes, run it, and compare it with PyTorch."""
    options = plain(locals())
    from reincli.commands import export

    export.run(**options)
