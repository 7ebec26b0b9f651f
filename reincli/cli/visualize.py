"""`rein visualize`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import (
    AnyBackbone,
    Backbone,
    Config,
    Device,
    MapForm,
    ModeOption,
    Precision,
    PrecisionOption,
    Preset,
    Quiet,
    Style,
    plain,
)

EXAMPLES = (
    "rein visualize street.jpg",
    "rein visualize drive/ --style side --out shown",
    "rein visualize 'drive/*_rgb.png' --checkpoint work_dirs/gta2citys/last.pth --labels",
    "rein visualize drive.mp4 --start 1:20 --end 2:00 --style boundary",
    "rein visualize val/images --gt val/labels --style error --sheet",
    "rein visualize night/ --checkpoint rein/last.pth --compare frozen/last.pth",
    "rein visualize drive.mp4 --style anomaly --threshold -0.5 --anomaly npy",
    "rein visualize night/ --abstain 0.9 --labels",
    "rein visualize camera:0 --end 30",
)


def command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Images, videos, folders, globs, lists of paths (.txt), camera:0."
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="FILE", help="Whose prediction. [dim]\\[default: the newest run][/dim]"
        ),
    ] = None,
    backbone: Backbone = None,
    preset: Preset = None,
    config: Config = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the pictures go.")] = Path(
        "work_dirs/show"
    ),
    style: Annotated[Style, typer.Option("--style", help="How a prediction is drawn.")] = Style.overlay,
    alpha: Annotated[float, typer.Option("--alpha", min=0.0, max=1.0, help="Weight of the colours.")] = 0.5,
    legend: Annotated[
        bool, typer.Option("--legend/--no-legend", help="Name the colours below the picture.")
    ] = True,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Draw faintly where the model is unsure.")
    ] = False,
    abstain: Annotated[
        float | None,
        typer.Option("--abstain", metavar="SHARE", help="Leave out what it is less sure of, e.g. 0.9."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="ANOMALY", help="In the style anomaly, outline from here on, e.g. -0.5."
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--gt", metavar="DIR|FILE", help="Right labels (class indices), for the style error."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="FILE", help="A second checkpoint, drawn beside the first."),
    ] = None,
    compare_backbone: Annotated[
        Path | None,
        typer.Option("--compare-backbone", metavar="FILE", help="Its backbone; else that of the first."),
    ] = None,
    compare_preset: Annotated[
        str | None,
        typer.Option("--compare-preset", metavar="NAME", help="Its setting, where it carries none."),
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Also write NAME_labelTrainIds.png.")] = False,
    anomaly: Annotated[
        MapForm | None,
        typer.Option(
            "--anomaly", help="Also write how strange each pixel is, NAME_anomaly: 16-bit png, or float npy."
        ),
    ] = None,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Also write a contact sheet of all drawings, PNG and HTML.")
    ] = False,
    start: Annotated[
        str | None, typer.Option("--start", metavar="TIME", help="Of a video: from here, e.g. 80 or 1:20.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--end", metavar="TIME", help="Of a video or camera: until here.")
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="Take one of so many images or frames.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Draw again what is already drawn.")] = False,
    mode: ModeOption = None,
    size: Annotated[
        str,
        typer.Option(
            "--size",
            metavar="native|WxH|WxH!",
            help="Predict at the image's own size or another; ! does not keep the ratio.",
        ),
    ] = "native",
    suffix: Annotated[
        str | None, typer.Option("--suffix", metavar="TEXT", help="From folders, only names that end so.")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option("--match", metavar="GLOB", help="From folders, only paths that match, e.g. '*/fog/*'."),
    ] = None,
    precision: PrecisionOption = Precision.auto,
    device: Device = "auto",
    any_backbone: AnyBackbone = False,
    quiet: Quiet = False,
) -> None:
    """Draw predictions on images, videos and what a camera sees."""
    options = plain(locals())
    from reincli.commands import visualize

    visualize.run(**options)
