"""`rein convert-weights`: fit raw foundation weights to a patch and image size, or write a checkpoint back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reincli.commands import console
from reincli.config import Settings
from reincli.data.sources import classes_of
from reincli.engine.backbone_files import CHECKPOINTS, shipped_path, used_backbone
from reincli.engine.checkpoint import (
    Checkpoint,
    build_model,
    load_trained,
    original_content,
    read_checkpoint,
    settings_for,
)
from reincli.engine.moved_backbone import load_backbone_of
from reincli.engine.validation import require_finite
from reincli.engine.weight_files import read_file, write_file
from reincli.errors import ReinError, nearest
from reincli.media.outputs import Outputs, at_work
from reincli.model import foundation, weights
from reincli.model.families import FAMILIES
from reincli.model.minor_files import written_for_soma
from reincli.prediction.predict import load_model
from reincli.settings_files import load_settings

DEFAULT = "dinov2_l"
"""The family whose raw file is read where neither a file nor a kind is named."""
ORIGINAL = "original"
"""The kind that writes a checkpoint back instead of converting a backbone."""


def run(
    source: Path | None,
    target: Path | None,
    *,
    height: int | None = None,
    width: int | None = None,
    patch: int = 16,
    kind: str | None = None,
    backbone: Path | None = None,
    force: bool = False,
    any_backbone: bool = False,
    merge: bool = False,
    preset: str | None = None,
    config: Path | None = None,
) -> None:
    """Read, resample, write; with `kind` 'original' write a checkpoint of ours as the original's.

    With `merge` write the backbone of a checkpoint with its minor directions worked in.

    Raises:
        ReinError: source missing or not what it should be, sizes that the patch does not divide, target there.
    """
    chosen = load_settings(preset, config) if preset or config else None
    if merge:
        if kind is not None or height or width or patch != 16:
            raise ReinError(
                "--merge writes the backbone as the checkpoint has it; --kind, --height, --width, --patch do not fit.",
                "rein convert-weights CHECKPOINT --merge",
                usage=True,
            )
        write_merged(source, target, chosen, backbone, force, any_backbone)
        return
    if kind == ORIGINAL:
        write_original(source, target, chosen, backbone, force, any_backbone)
        return
    if chosen is not None:
        raise ReinError(
            "--preset and --config are of a checkpoint's model, for --merge and --kind original.",
            "Leave them out: of raw weights the file tells.",
            usage=True,
        )
    height = height or 512
    convert_raw(source, target, kind, (height, width or height), patch, force)


def convert_raw(
    source: Path | None, target: Path | None, kind: str | None, size: tuple[int, int], patch: int, force: bool
) -> None:
    """Raw weights for images of (height, width) `size` and patches of `patch`.

    Raises:
        ReinError: unknown kind, source missing or of another kind, a size that the patch does not divide, target there.
    """
    if kind is not None and kind not in FAMILIES:
        raise ReinError(
            f"No kind of weights is named '{kind}'.", nearest(kind, [*FAMILIES, ORIGINAL]), usage=True
        )
    family = FAMILIES[kind or DEFAULT]
    source = source or (shipped_path(family) if family.shipped else CHECKPOINTS / family.file)
    height, width = size

    def nearest_multiple(side: int) -> int:
        return max(1, round(side / patch)) * patch

    if height % patch or width % patch:
        raise ReinError(
            f"A size of {width}x{height} (width x height) does not divide into patches of {patch}.",
            f"Take multiples of {patch}, for example {nearest_multiple(width)}x{nearest_multiple(height)}.",
            usage=True,
        )
    if not source.exists():
        command = f" (rein download {kind or DEFAULT})" if family.is_open else ""
        raise ReinError(
            f"There are no raw weights at '{source}'.",
            "Name the raw file of the weights."
            if family.shipped
            else f"Download {family.address} to {CHECKPOINTS / family.file}{command}, or name your file.",
        )
    content = read_file(source)
    average = foundation.average_taken(content)
    if average is not None:
        console.note(f"'{source}': {average}")
    given = foundation.plain_backbone(foundation.unwrap(content, source))
    state, facts = foundation.recognise_backbone(given, str(source))
    if kind not in (None, facts.name):
        raise ReinError(
            f"'{source}' is {facts.name}, not {kind}.", "Leave --kind out: the file tells.", usage=True
        )
    foundation.require_whole(state, facts, str(source))
    require_finite(state, f"'{source}'")
    target = target or CHECKPOINTS / default_name(facts.name.replace(" ", "_"), height, width)
    grid = (height // patch, width // patch)
    with free_target(source, target, force):
        write_file(target, foundation.convert_backbone(state, facts, grid, patch))
    if facts.grid is None:
        console.result(f"{target}: {facts.name}, renamed; it takes every size, nothing was resampled")
        return
    console.result(
        f"{target}: {facts.name}, patch {facts.patch} -> {patch}, positions {facts.grid[0]}x{facts.grid[1]} -> "
        f"{grid[0]}x{grid[1]} (input {width}x{height})"
    )


@contextmanager
def free_target(source: Path, target: Path, force: bool, *others: Path | None) -> Iterator[None]:
    """The target, for this process alone while the body runs.

    Raises:
        ReinError: it is the source, or is another file that is read, or is there for good, or is being written.
    """
    if target.suffix not in (".pth", ".safetensors"):
        hint = f"Name it '{target.with_suffix('.pth')}', for example."
        raise ReinError(f"'{target}' must end in .pth or .safetensors.", hint, usage=True)
    with at_work(target, "convert-weights", file=True):
        if target.resolve() == source.resolve():
            raise ReinError(
                f"Source and target are the same file, '{source}'.", "Name another target.", usage=True
            )
        if target.exists() and not force and not target.is_dir():
            raise ReinError(
                f"'{target}' is there already.", "Overwrite it with --force, or name another.", usage=True
            )
        Outputs("convert-weights", [source, *others]).claim(target, replace=force)
        yield


def write_original(
    source: Path | None,
    target: Path | None,
    given: Settings | None,
    backbone: Path | None,
    force: bool,
    any_backbone: bool = False,
) -> None:
    """Write a checkpoint with exactly the tensors and names that the original expects for its setting."""
    if source is None or target is None:
        example = "rein convert-weights work_dirs/NAME/last.pth original.pth --kind original"
        raise ReinError("--kind original needs a checkpoint and a file to write.", example, usage=True)
    if target.suffix != ".pth":
        raise ReinError(
            f"'{target}' does not end with .pth; the original reads no other form.",
            "Name a file NAME.pth.",
            usage=True,
        )
    read = read_checkpoint(source)
    settings = told_settings(read, given, backbone)
    if settings.model.head.kind != "mask2former":
        raise ReinError(
            f"'{source}' has the plain head, and the original knows the Mask2Former head alone.",
            "Use the checkpoint as it is, or write it for other runtimes: rein export",
        )
    with free_target(source, target, force, backbone, used_backbone(settings, backbone)):
        classes = read.classes or classes_of(settings.data)
        model = build_model(settings, len(classes))
        kept_too = model.rein is None and not weights.holds_backbone(read.state)  # parts of the backbone
        if kept_too and not load_backbone_of(model, read, settings, backbone, knowingly=any_backbone):
            raise ReinError(f"'{source}' needs its backbone to be written whole.", "Give --backbone FILE.")
        for remark in load_trained(model, read):
            console.note(remark)
        content = original_content(model, classes, read.iteration)
        write_file(target, content)
        console.result(f"{target}: {len(content['state_dict'])} tensors in the original's names")
        if model.minor is not None:
            rank = written_for_soma(model)[1]
            console.note(
                f"A and B belong beside the whole backbone there: set r = {rank} and lora_alpha = {rank}."
            )


def told_settings(read: Checkpoint, given: Settings | None, backbone: Path | None) -> Settings:
    """Settings of a checkpoint; the terminal is told where they were guessed."""
    notes: list[str] = []
    settings = settings_for(read, given, backbone, notes=notes)
    for text in notes:
        console.note(text)
    return settings


def write_merged(
    source: Path | None,
    target: Path | None,
    given: Settings | None,
    backbone: Path | None,
    force: bool,
    any_backbone: bool,
) -> None:
    """Write a checkpoint's backbone with its minor directions worked into the weights, in the original's names."""
    if source is None:
        raise ReinError("--merge needs a checkpoint.", "rein convert-weights CHECKPOINT --merge", usage=True)
    target = target or source.with_name(f"{source.stem}_backbone.pth")
    read = read_checkpoint(source)
    settings = told_settings(read, given, backbone)
    if settings.model.minor_kind is None:
        raise ReinError(
            f"'{source}' (model.tune = '{settings.model.tune}') has no minor directions: nothing is to be merged.",
            "--merge is for model.tune = soma, recycle and rein+soma.",
        )
    with free_target(source, target, force, backbone, used_backbone(settings, backbone)):
        loaded = load_model(source, backbone, settings, any_backbone)
        for remark in loaded.notes:
            console.note(remark)
        loaded.model.merge_minor()
        view = loaded.model.backbone
        write_file(target, view.layout.to_original(view.state_dict()) | view.unread())
        console.result(
            f"{target}: {settings.model.backbone.name} with the minor directions of '{source}' worked in"
        )


def default_name(kind: str, height: int, width: int) -> str:
    """File name of converted weights: the original's for the large model, else named after the family."""
    stem = "dinov2_converted" if kind == "dinov2_l" else f"{kind}_converted"
    return f"{stem}.pth" if (height, width) == (512, 512) else f"{stem}_{height}x{width}.pth"
