"""The backbone of a checkpoint, also where the checkpoint, the backbone or both were moved: known by its content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from reincli.config import Settings
from reincli.engine.backbone_files import backbone_candidates, find_backbone, load_backbone, shipped_path
from reincli.engine.checkpoint import Checkpoint, load_frozen
from reincli.engine.fingerprint import Fingerprint, differing, fingerprint_of
from reincli.errors import ReinError
from reincli.model.families import FAMILIES
from reincli.model.segmentor import Segmentor

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt")
"""Of files beside a checkpoint that may be its backbone."""
OWN = re.compile(r"(iter_\d+|last|best|not_finite)\.pth")
"""Files of a run, which hold no backbone of their own."""
ABOVE, TAIL = 5, 4
"""Folders above a checkpoint below which the stored path's last parts are looked for, and how many of these."""


def load_backbone_of(
    model: Segmentor,
    checkpoint: Checkpoint,
    settings: Settings,
    given: Path | None,
    *,
    knowingly: bool = False,
) -> tuple[Fingerprint | None, list[str]] | None:
    """Load the backbone that a checkpoint was trained with: as given, where it was, or wherever it is found.

    What somebody names is taken or refused as it is. Else, where the file is not in its place or another one lies
    there, those beside the checkpoint, in its usual places and in this package are tried by their fingerprint.

    Args:
        model: gets it. checkpoint: that will be loaded over it. settings: say where it was.
        given: its file, named by the user. knowingly: see `checkpoint.load_frozen`.

    Returns:
        As `checkpoint.load_frozen`; None where the settings ask for random weights.

    Raises:
        ReinError: it is nowhere; or as `checkpoint.load_frozen`.
    """
    missing: ReinError | None = None
    path: Path | None = None
    try:
        path = find_backbone(settings, given)
    except ReinError as error:
        missing = error
    if path is None and missing is None:
        return None
    trained, named = checkpoint.backbone, given is not None or not _is_own(checkpoint, settings)
    if path is not None and (named or path.exists()):
        try:
            return load_frozen(model, path, checkpoint, knowingly=knowingly)
        except ReinError as error:
            missing = error
            found = None if named or trained is None else _search(model, checkpoint, settings, path)
            if found is None:
                raise
    else:
        found = _search(model, checkpoint, settings, path)
    if found is None:
        raise _nowhere(checkpoint, path, missing)
    fingerprint, notes = load_frozen(model, found, checkpoint, knowingly=knowingly)
    told = f"Taking the backbone that lies beside the checkpoint: '{found}'."
    if trained is not None:
        place = path if path is not None else trained.file
        told = f"The backbone is not at '{place}'; '{found}' is the same by its fingerprint and is taken."
    return fingerprint, [told, *notes]


def _is_own(checkpoint: Checkpoint, settings: Settings) -> bool:
    """Whether the settings name the backbone's file as the checkpoint does, or not at all."""
    chosen, own = settings.model.backbone.weights, checkpoint.settings
    return chosen is None or (own is not None and own.model.backbone.weights == chosen)


def _search(model: Segmentor, checkpoint: Checkpoint, settings: Settings, was: Path | None) -> Path | None:
    """A file that holds the backbone; of a checkpoint without fingerprint, one of the usual name beside it."""
    usual = backbone_candidates(settings.model.backbone, settings.data.augment.crop)
    beside = [checkpoint.path.parent / path.name for path in usual]
    if checkpoint.backbone is None:
        return next((path for path in beside if path.is_file()), None)
    tried: set[Path] = {checkpoint.path.resolve()}
    for path in _candidates(checkpoint, settings, was, [*beside, *usual]):
        if path.is_file() and path.resolve() not in tried:
            tried.add(path.resolve())
            if _is_it(model, path, checkpoint.backbone):
                return path
    return None


def _candidates(
    checkpoint: Checkpoint, settings: Settings, was: Path | None, usual: list[Path]
) -> Iterator[Path]:
    """Files that may be it, the likeliest first."""
    family = FAMILIES.get(settings.model.backbone.name)
    if family is not None and family.shipped:
        yield shipped_path(family)
    folder = checkpoint.path.absolute().parent
    stored = {str(was)} if was is not None else set()
    stored |= {checkpoint.backbone.file} if checkpoint.backbone is not None else set()
    for text in sorted(stored):
        parts = PurePosixPath(text.replace("\\", "/")).parts
        for above in (folder, *folder.parents[:ABOVE]):
            for count in range(min(len(parts), TAIL), 0, -1):
                yield above.joinpath(*parts[-count:])
    yield from usual
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and not OWN.fullmatch(path.name):
            yield path


def _is_it(model: Segmentor, path: Path, trained: Fingerprint) -> bool:
    try:
        load_backbone(model, path)
    except ReinError:
        return False  # another model, or none
    return differing(trained, fingerprint_of(model.backbone, str(path))) == 0


def _nowhere(checkpoint: Checkpoint, was: Path | None, missing: ReinError | None) -> ReinError:
    """The error where no file is the backbone: says which was trained with, and where it was."""
    if was is None and checkpoint.backbone is None:
        assert missing is not None
        return missing
    place = str(was) if was is not None else checkpoint.backbone.file if checkpoint.backbone else ""
    name = checkpoint.settings.model.backbone.name if checkpoint.settings is not None else Path(place).name
    other = f" {missing.hint}" if missing is not None and missing.hint else ""
    return ReinError(
        f"'{checkpoint.path}' keeps no backbone, and its backbone, {name}, is not at '{place}' nor beside it.",
        f"Say where it is: --backbone FILE; or put it beside the checkpoint, under any name.{other}",
    )
