"""The files of frozen backbones: where they usually lie, and loading one into a model that needs it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from reincli.config import BackboneSettings, Settings
from reincli.engine.validation import require_finite
from reincli.engine.weight_files import read_file
from reincli.errors import ReinError
from reincli.model import foundation, weights
from reincli.model.families import FAMILIES, Family, family_of
from reincli.model.segmentor import Segmentor

CHECKPOINTS = Path("checkpoints")
"""The folder in which weights usually lie."""


def backbone_candidates(settings: BackboneSettings, crop: int) -> list[Path]:
    """Where the weights of a backbone usually lie: converted for this crop, converted for 512, raw."""
    family = FAMILIES.get(settings.name)
    if family is None:
        return []
    stem = "dinov2_converted" if settings.name == "dinov2_l" else f"{settings.name}_converted"
    names = [f"{stem}.pth", family.file]
    if crop != 512:
        names.insert(0, f"{stem}_{crop}x{crop}.pth")
    return [CHECKPOINTS / name for name in names]


def find_backbone(settings: Settings, given: Path | None) -> Path | None:
    """The backbone file to load: as given, as set, or the first usual one there; None for random weights.

    Raises:
        ReinError: there is none, with where it can be had.
    """
    chosen = str(given) if given is not None else settings.model.backbone.weights
    if chosen == "random":
        return None
    if chosen is not None:
        return Path(chosen)
    family = FAMILIES.get(settings.model.backbone.name)
    if family is not None and family.shipped:
        return shipped_path(family)
    candidates = backbone_candidates(settings.model.backbone, settings.data.augment.crop)
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        family = family_of(settings.model.backbone)
        wanted = candidates[-1] if candidates else Path("FILE")
        address = family.address if family is not None else ""
        command = f" (rein download {settings.model.backbone.name})" if address.startswith("https://") else ""
        raise ReinError(
            f"No weights of the backbone '{settings.model.backbone.name}' were found "
            f"(looked for {', '.join(str(path) for path in candidates) or 'none: this backbone has no usual file'}).",
            f"Download {address} to {wanted}{command}, or give --backbone FILE."
            if address
            else "Give --backbone FILE; of a model of timm: its model.safetensors from https://huggingface.co/timm",
        )
    return found


def used_backbone(settings: Settings, given: Path | None) -> Path | None:
    """What `find_backbone` gives, and None where it finds none: for callers that only want to spare the file."""
    with contextlib.suppress(ReinError):
        return find_backbone(settings, given)
    return None


def shipped_path(family: Family) -> Path:
    """Where the weights lie of a backbone that comes with this package."""
    return Path(__file__).parent.parent / "weights" / family.shipped


def load_backbone(model: Segmentor, path: Path) -> list[str]:
    """Load a raw or converted backbone, resampling it where its grid or patch size differs.

    Returns:
        Remarks worth showing.

    Raises:
        ReinError: another family or size, or tensors that do not fit.
    """
    backbone = model.backbone
    content, notes = read_file(path), list[str]()
    average = foundation.average_taken(content)
    if average is not None:
        notes.append(f"'{path}': {average}")
    state = foundation.plain_backbone(foundation.unwrap(content, path))
    if backbone.layout.kind == "timm":
        state, hint = foundation.fit_timm(state, backbone, str(path), notes), foundation.timm_hint(backbone)
    else:
        state, facts = foundation.recognise_backbone(state, str(path), backbone.grid)
        needed = (backbone.layout.kind, backbone.width, backbone.depth)
        if (facts.layout.kind, facts.width, facts.depth) != needed:
            raise ReinError(
                f"'{path}' is {facts.name} ({facts.depth} blocks of width {facts.width}), but the model needs "
                f"{backbone.settings.name} ({backbone.depth} blocks of width {backbone.width}).",
                f"Give the weights of {backbone.settings.name}, or a preset for {facts.name}.",
            )
        state = foundation.fit(state, facts, backbone, str(path), notes)
        hint = "Convert it again from the raw file: rein convert-weights"
    weights.load_strict(backbone, backbone.layout.to_ours(state), f"The backbone '{path}'", hint)
    require_finite(backbone.state_dict(), f"The backbone '{path}'")
    return notes
