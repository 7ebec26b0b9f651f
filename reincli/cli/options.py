"""Options that several commands have, what some of them may be, and how all of them reach a command."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]{line}[/cyan]" for line in lines)])


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a command's `run`, from the `locals()` with which its function in this room begins.

    So an option is named where it is declared and where it is used, and nowhere on the way: a test holds both to the
    same names, types and defaults. A choice becomes its text; `quiet` stays at the door.
    """
    return {name: _as_meant(value) for name, value in given.items() if name != "quiet"}


def _as_meant(value: Any) -> Any:
    """The text of a choice; of paths those in the home folder, which a shell leaves as `~` in --option=~/x."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_as_meant(each) for each in value]
    if isinstance(value, Path) and value.parts[:1] == ("~",):
        return value.expanduser()
    return value


class Precision(str, Enum):
    """Arithmetic of the model; `auto` is what the device does well."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Mode(str, Enum):
    """Overlapping windows, or the whole image at once."""

    slide = "slide"
    whole = "whole"


class Style(str, Enum):
    """How a prediction is drawn."""

    overlay = "overlay"
    side = "side"
    mask = "mask"
    boundary = "boundary"
    error = "error"
    anomaly = "anomaly"
    compare = "compare"


class MapForm(str, Enum):
    """Files of anomaly maps: 16-bit pictures, or float32 for NumPy."""

    png = "png"
    npy = "npy"


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no remarks: only results and errors.")
]
Checkpoint = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint of ours or of the original.")
]
Preset = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="A setting by name: rein presets.")
]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Own settings as TOML.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting, e.g. optim.lr=6e-5. May be repeated."
    ),
]
Backbone = Annotated[
    Path | None,
    typer.Option("--backbone", metavar="FILE", help="Weights of the foundation model, raw or converted."),
]
AnyBackbone = Annotated[
    bool,
    typer.Option(
        "--any-backbone", help="Take another backbone than the checkpoint was trained with, knowingly."
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root", metavar="DIR", help="Folder that holds the datasets. [dim]\\[default: data][/dim]"
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="Arithmetic; auto suits the device.")]
ModeOption = Annotated[
    Mode | None,
    typer.Option("--mode", help="Overlapping windows or the whole image at once; else as the settings say."),
]
Gpus = Annotated[
    int, typer.Option("--gpus", min=1, metavar="N", help="GPUs of this machine that share each batch.")
]
RunPrecision = Annotated[
    Precision | None, typer.Option("--precision", help="Arithmetic; else as the settings say.")
]
