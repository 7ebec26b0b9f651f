"""Which preset a checkpoint of the original's was trained with: it does not say, but its tensors do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from reincli.config import Settings
from reincli.data.labels import CITYSCAPES
from reincli.engine.backbone_files import backbone_candidates
from reincli.engine.weight_files import read_file
from reincli.errors import ReinError
from reincli.model import foundation, weights
from reincli.model.families import family_of
from reincli.settings_files import build_settings, preset_names, read_preset


def preset_of(state: Mapping[str, Tensor], path: Path, backbone: Path | None = None) -> Settings:
    """Settings of the one preset that fits what a checkpoint holds.

    Args:
        state: its tensors, in our names. path: where it was read, for messages.
        backbone: its file, if the user gave one; else the one usual file that is there. It tells families of one
            shape apart, and where it was converted for a crop, the recipe.

    Raises:
        ReinError: several presets fit, or none, lists them.
    """
    facts = weights.recognise_head(state, str(path))
    presets = {name: build_settings(read_preset(name)) for name in preset_names()}
    by_shape = [settings for settings in presets.values() if _fits(settings, facts, None)]
    kind, grid = _backbone_beside(state, path, backbone or _only_usual_file(by_shape))
    fitting = [name for name, settings in presets.items() if _fits(settings, facts, kind)]
    of_size = [name for name in fitting if _grid_of_crop(presets[name]) == grid]
    fitting = of_size or fitting
    if not fitting:
        raise ReinError(
            f"'{path}' ({facts.tune}, width {facts.widths[0]}, {sum(facts.banks)} adapted blocks, "
            f"{facts.classes} classes) fits no preset{f' on {kind}' if kind else ''}.",
            "Give the settings it was trained with: --config FILE.toml",
        )
    if len({_model_facts(presets[name]) for name in fitting}) > 1:
        raise ReinError(
            f"'{path}' does not say which setting it was trained in; it fits {', '.join(fitting)}.",
            "Say which: --preset NAME",
            usage=True,
        )
    return presets[fitting[0]]


def _only_usual_file(some: Sequence[Settings]) -> Path | None:
    """The one backbone file of these settings that is there; None where there is none, or a choice."""
    usual = {
        path
        for settings in some
        for path in backbone_candidates(settings.model.backbone, settings.data.augment.crop)
        if path.exists()
    }
    return usual.pop() if len(usual) == 1 else None


def _model_facts(settings: Settings) -> str:
    """What decides how a checkpoint is used; how it was trained does not."""
    model, crop = settings.model, settings.data.augment.crop
    return f"{model.backbone!r} {model.adapter!r} {model.head!r} {crop} {settings.test!r}"


def _backbone_beside(
    state: Mapping[str, Tensor], source: Path, path: Path | None
) -> tuple[str | None, tuple[int, int] | None]:
    """Family and grid of positions of the backbone in a checkpoint, or in the file beside it; None if unknown."""
    if weights.holds_backbone(state):
        found = {name: value for name, value in state.items() if name.startswith("backbone.")}
        path = source
    elif path is not None:
        found = foundation.unwrap(read_file(path))
    else:
        return None, None
    _, facts = foundation.recognise_backbone(foundation.plain_backbone(found), str(path))
    return facts.name, facts.grid


def _grid_of_crop(settings: Settings) -> tuple[int, int]:
    side = settings.data.augment.crop // settings.model.backbone.patch_size
    return side, side


def _fits(settings: Settings, facts: weights.HeadFacts, kind: str | None) -> bool:
    """Whether a checkpoint of the original's may have been trained with a preset."""
    model, family = settings.model, family_of(settings.model.backbone)
    if family is None or not family.released or kind not in (None, model.backbone.name):
        return False
    rein = model.tune == "rein"
    neck = ("branches" if rein else "levels") if family.kind == "clip" else None
    return (
        model.tune in ((facts.tune, "frozen") if facts.tune == "full" else (facts.tune,))
        and family.widths == facts.widths
        and facts.classes == len(CITYSCAPES)
        and facts.neck == neck
        and (not rein or (family.banks == facts.banks and model.adapter.rank == facts.rank))
        and (not rein or model.adapter.link_features == facts.link_features)
        and model.head.channels == facts.channels
    )
