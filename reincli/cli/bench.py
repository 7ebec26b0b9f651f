"""`rein bench`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import AnyBackbone, Backbone, Config, Device, Preset, Quiet, Sets, plain

EXAMPLES = (
    "rein bench",
    "rein bench --preset demo",
    "rein bench --preset citys2acdc --what slide --size 2048x1024 --json slide.json",
    "rein bench --what training --batch 4 --precision bf16 --set train.checkpoint_activations=true",
    "rein bench --preset gta2citys --what inference --attention sdpa,xformers",
    "rein bench --checkpoint work_dirs/gta2citys/last.pth --what inference --compile --cuda-graphs",
)


def command(
    preset: Preset = None,
    config: Config = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Adapters and head; else random weights."),
    ] = None,
    backbone: Backbone = None,
    what: Annotated[
        str | None,
        typer.Option(
            "--what", metavar="LIST", help="Of inference (a whole crop), slide, training; else all."
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", metavar="LIST", help="Images at a time; else 1, on a GPU 1,4,16."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", metavar="LIST", help="Arithmetic; else auto, on a GPU fp32,bf16."),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option("--attention", metavar="LIST", help="Of auto, sdpa, xformers, to compare; else as set."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Image for slide; else as the setting tests."),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option("--runs", min=1, help="Calls timed; else 5, on a GPU 50. At most ten seconds a row."),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Let torch.compile fuse the model: minutes more.")
    ] = False,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Record and replay the launches of inference on a GPU.")
    ] = False,
    device: Device = "auto",
    sets: Sets = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")
    ] = None,
    any_backbone: AnyBackbone = False,
    quiet: Quiet = False,
) -> None:
    """Measure speed and memory here: by work, batch size and precision, and by part of the model."""
    options = plain(locals())
    from reincli.commands import bench

    bench.run(**options)
