"""`rein export`: a checkpoint as a file for other runtimes, compared with PyTorch before it is kept."""

from __future__ import annotations

import os
from pathlib import Path

from reincli.commands import console
from reincli.config import parse_size
from reincli.engine.backbone_files import used_backbone
from reincli.errors import ReinError, nearest, typed
from reincli.media.inputs import find_inputs
from reincli.media.outputs import Outputs, at_work
from reincli.model.exportable import ANSWERS, LAYOUTS
from reincli.prediction.export import FORMATS, PRECISIONS, Request, export
from reincli.prediction.exported import is_exported
from reincli.prediction.predict import LoadedModel, load_model
from reincli.settings_files import load_settings

MOST_IMAGES = 32
"""Of a folder, to prove a file on and to calibrate int8."""


def run(
    checkpoint: Path,
    *,
    out: Path | None = None,
    format_: str = "onnx",
    size: str | None = None,
    batch: str = "1",
    what: str = "labels",
    layout: str = "nchw",
    precision: str = "fp32",
    images: Path | None = None,
    preset: str | None = None,
    config: Path | None = None,
    backbone: Path | None = None,
    force: bool = False,
    any_backbone: bool = False,
) -> Path:
    """Load, write, prove, tell.

    Raises:
        ReinError: options that do not go together, files that are there or missing, a file that is too far off.
    """
    require_known(format_, what, layout, precision)
    target = checked_target(checkpoint, out, format_, force)
    with at_work(target, "export", file=True):
        settings = load_settings(preset, config) if preset or config else None
        loaded = load_model(checkpoint, backbone, settings, any_backbone)
        outputs = Outputs("export", [checkpoint, used_backbone(loaded.settings, backbone), config])
        for each in written(target, format_):
            outputs.claim(each, "--out", replace=force)
        for text in loaded.notes:
            console.note(text)
        request = Request(
            target, format_, usual_size(loaded, size), count(batch), what, layout, precision, pictures(images)
        )
        console.note(
            f"Writing {request.size[0]}x{request.size[1]}, {precision}, {what}, to '{target}': minutes for a ViT-L."
        )
        proof = export(loaded, request, lambda text: console.note(f"  {text} …"))
        shown = "" if what == "labels" else f"largest relative error {proof.error:.1e}, "
        console.result(
            f"{target} ({proof.bytes / 1e6:.1f} MB, {proof.nodes} nodes): {shown}{proof.alike:.3%} of the labels as "
            f"PyTorch's, at worst, over {proof.images} images"
        )
    return target


def require_known(format_: str, what: str, layout: str, precision: str) -> None:
    """ReinError for a value that no option has."""
    chosen = (("--format", format_, FORMATS), ("--what", what, ANSWERS), ("--layout", layout, LAYOUTS))
    for name, value, known in chosen:
        if value not in known:
            hint = nearest(value, list(known))
            raise ReinError(f"{name} '{value}' is none of {', '.join(known)}.", hint, usage=True)
    if precision not in PRECISIONS[format_]:
        has = ", ".join(PRECISIONS[format_])
        raise ReinError(f"--format {format_} has no --precision {precision}.", f"It has {has}.", usage=True)


def checked_target(checkpoint: Path, out: Path | None, format_: str, force: bool) -> Path:
    """Where the file goes; ReinError where it may not, or the checkpoint is none."""
    if is_exported(checkpoint):
        message = f"'{checkpoint}' is exported already."
        raise ReinError(message, "Name the checkpoint that it was made from.", usage=True)
    target = out or checkpoint.with_suffix(FORMATS[format_])
    if target.suffix != FORMATS[format_]:
        place = target / checkpoint.name if target.is_dir() else target
        name = (place.stem.strip(".") or "model") + FORMATS[format_]
        raise ReinError(
            f"--out '{target}' must end in {FORMATS[format_]}, behind a name.",
            f"For example: --out {typed(place.parent / name)}",
            usage=True,
        )
    if target.is_symlink():  # written through
        target = Path(os.path.realpath(target))
    for each in written(target, format_):
        if each.exists() and not force:
            message = f"'{each}' is there already."
            raise ReinError(message, "Give another name with --out, or --force.", usage=True)
        if each.exists() and not (each.is_file() or each.is_dir()):
            message = f"'{each}' is a device or a pipe; a file was expected."
            raise ReinError(message, "Give another name with --out.", usage=True)
    return target


def written(target: Path, format_: str) -> list[Path]:
    """All files that a format may write for a target: its weights lie beside it, or do so beyond 2 GB."""
    beside = {"openvino": [target.with_suffix(".bin")], "onnx": [target.with_name(f"{target.name}.data")]}
    return [target, *beside.get(format_, [])]


def usual_size(loaded: LoadedModel, size: str | None) -> tuple[int, int]:
    """(width, height) as asked for, else the windows that the setting tests with."""
    if size is None:
        side = loaded.settings.test.window
        return side, side
    try:
        found = parse_size(size)
    except ValueError:
        found = None
    if found is None:  # 'native' too, which other commands take: a file has one size
        raise ReinError(
            f"--size '{size}' is not WIDTHxHEIGHT in pixels; a file has one size.",
            "For example: --size 1024x512",
            usage=True,
        )
    return found


def count(batch: str) -> int | None:
    """'8' -> 8, 'dynamic' -> None."""
    if batch == "dynamic":
        return None
    if not batch.isdecimal() or not 0 < int(batch) <= 1024:
        raise ReinError(
            f"--batch '{batch}' is neither a number from 1 to 1024 nor 'dynamic'.",
            "For example: --batch 1",
            usage=True,
        )
    return int(batch)


def pictures(images: Path | None) -> tuple[Path, ...]:
    """Some images of a folder, spread over it."""
    if images is None:
        return ()
    found = [
        each.source for each in find_inputs([str(images)], Path(os.devnull)).files if each.kind == "image"
    ]
    if not found:
        raise ReinError(f"There is no image in '{images}'.", "Give --images a folder of images.", usage=True)
    step = max(1, len(found) // MOST_IMAGES)
    return tuple(found[::step][:MOST_IMAGES])
