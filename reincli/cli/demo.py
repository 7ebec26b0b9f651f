"""`rein demo`: its options and its call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reincli.cli.options import Quiet

EXAMPLES = (
    "rein demo",
    "rein demo --out first --iters 40",
    "rein demo --ladder --seeds 3 --own mine.toml",
)


def command(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything is written.")] = Path(
        "rein-demo"
    ),
    iterations: Annotated[
        int | None, typer.Option("--iters", min=1, help="Training steps; else as the preset `demo` says.")
    ] = None,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder",
            help="Train in full, frozen, with Rein, SoMA, RecycleLoRA, and compare. Two and a half hours a seed.",
        ),
    ] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Of the ladder: how often each is trained.")
    ] = 1,
    own: Annotated[
        Path | None,
        typer.Option(
            "--own", metavar="FILE.toml", help="Of the ladder: own labelled images to score on too."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Walk the whole path on generated streets: train, evaluate, draw. CPU, three to four minutes."""
    if ladder:
        from reincli.commands import demo_ladder

        demo_ladder.run(out=out, iterations=iterations, seeds=seeds, own=own)
    else:
        from reincli.commands import demo

        demo.run(out=out, iterations=iterations)
