"""`rein eval`: its options and its call."""

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
    Sets,
    plain,
)

EXAMPLES = (
    "rein eval work_dirs/gta2citys/last.pth",
    "rein eval checkpoints/dinov2_rein_and_head.pth --data cityscapes:val --size 2048x1024",
    "rein eval work_dirs/citys2acdc/last.pth --json acdc.json --report acdc.html --out predictions",
    "rein eval work_dirs/citys2acdc/last.pth --submit acdc.zip",
    "rein eval work_dirs/citys2acdc/last.pth --calibration --report acdc.html",
    "rein eval work_dirs/gta2citys/last.pth --anomaly road_anomaly --report unknown.html",
    "rein eval work_dirs/citys2acdc/last.pth --data cityscapes:test --submit cityscapes.zip",
    "rein eval work_dirs/citys2citysc/last.pth --data cityscapes-c:all",
)


def command(
    checkpoint: Checkpoint,
    preset: Preset = None,
    config: Config = None,
    backbone: Backbone = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="NAME[:SPLIT]", help="What to score on; else as the settings say. Repeatable."
        ),
    ] = None,
    sets: Sets = None,
    mode: ModeOption = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over six sizes of each image and their mirror images.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="native|WxH|WxH!",
            help="Test size (ratio kept, but for !); else the setting's own for each dataset.",
        ),
    ] = None,
    data_root: DataRoot = None,
    precision: PrecisionOption = Precision.auto,
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the label maps here.")
    ] = None,
    label_ids: Annotated[
        bool, typer.Option("--label-ids", help="With --out: labelIds of Cityscapes, not class indices.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the scores as JSON.")
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write a page with scores and images."),
    ] = None,
    submit: Annotated[
        Path | None,
        typer.Option(
            "--submit",
            metavar="FILE.zip",
            help="Write what the benchmark takes: of ACDC, or cityscapes:test.",
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score what has image and label; say how many have not.")
    ] = False,
    own: Annotated[
        Path | None,
        typer.Option(
            "--own",
            metavar="FILE.toml",
            help="Score on own data described here instead, below its root, --data-root or data/.",
        ),
    ] = None,
    anomaly: Annotated[
        list[str] | None,
        typer.Option(
            "--anomaly",
            metavar="SOURCE",
            help="Score labelled unknown objects instead: a benchmark, an own dataset, a folder. Repeatable.",
        ),
    ] = None,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration",
            help="Also say whether it is right as often as it is sure, and what leaving out gains.",
        ),
    ] = False,
    any_backbone: AnyBackbone = False,
    quiet: Quiet = False,
) -> None:
    """Score a checkpoint: IoU of each class in each domain, and the means."""
    options = plain(locals())
    from reincli.commands import evaluate

    evaluate.run(**options)
