"""`rein prepare-data`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import Config, Quiet, plain

EXAMPLES = (
    "rein prepare-data cityscapes",
    "rein prepare-data gta /disk/gta --workers 8",
    "rein prepare-data cityscapes-c --severity 3 --severity 5",
    "rein prepare-data gta --cache",
    "rein prepare-data mine --config mine.toml --check",
)


def command(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")],
    root: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ROOT]", help="Its folder. [dim]\\[default: data/DATASET][/dim]", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write here; else beside the originals.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes. [dim]\\[default: one a core][/dim]")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only look: report what is missing or wrong.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Do again what is already done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    cache: Annotated[
        bool,
        typer.Option("--cache", help="Also write compact copies of the training pairs: they load faster."),
    ] = False,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="With --cache: keep every pixel (3 bytes each), not JPEG.")
    ] = False,
    severity: Annotated[
        list[int] | None,
        typer.Option("--severity", metavar="1-5", help="cityscapes-c: how strong; else 5. May be repeated."),
    ] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            "--corruption", metavar="NAME", help="cityscapes-c: which; else all 16. May be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="cityscapes-c: of what is drawn.")] = 0,
    channels: Annotated[
        str,
        typer.Option("--channels", metavar="rgb|bgr", help="cityscapes-c: their order while it is drawn."),
    ] = "rgb",
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="v1.2|v2.0", help="mapillary: of the labels; else v1.2."),
    ] = None,
    config: Config = None,
    quiet: Quiet = False,
) -> None:
    """Turn a dataset, unpacked or as downloaded, into what training reads, or check what is there."""
    options = plain(locals())
    from reincli.commands import prepare_data

    prepare_data.run(**options)
