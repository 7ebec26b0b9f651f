"""Which preset a checkpoint of the original's was trained with: it does not say, but its tensors do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from reincli.config import Settings, test_size
from reincli.data.labels import CITYSCAPES
from reincli.engine.backbone_files import backbone_candidates
from reincli.engine.weight_files import read_file
from reincli.errors import ReinError
from reincli.model import foundation, weights
from reincli.model.families import FAMILIES, family_of
from reincli.model.linear_layers import first_block
from reincli.model.minor import RANKS
from reincli.settings_files import build_settings, preset_names, read_preset

MAIN = ("gta2citys", "citys2acdc")
"""Settings of the released checkpoints: what is taken first where a checkpoint and its backbone leave it open."""


def preset_of(
    state: Mapping[str, Tensor],
    path: Path,
    backbone: Path | None = None,
    *,
    scored: Sequence[str] | None = None,
    notes: list[str] | None = None,
) -> Settings:
    """Settings of the preset that fits what a checkpoint holds; where several fit, the main one of them.

    Args:
        state: its tensors, in our names. path: where it was read, for messages.
        backbone: its file, if the user gave one; else those in their usual places. It tells families of one shape
            apart, and where it was converted for a crop, the recipe.
        scored: sources that are to be scored, empty for those of the preset: the sizes at which they are predicted
            decide the score, so nothing is taken where those that fit differ in them. None: nothing is scored.
        notes: takes a line on what was taken and how to choose another.

    Raises:
        ReinError: none fits; or several do and differ in what the score hangs on. Both are listed.
    """
    facts = weights.recognise_head(state, str(path))
    every = {name: build_settings(read_preset(name)) for name in preset_names()}
    # an adaptation is the model of another preset, trained further: as a file it is that
    named = {name: settings for name, settings in every.items() if not settings.adapt.target}
    presets = dict(sorted(named.items(), key=lambda item: _order(*item)))
    by_shape = [settings for settings in presets.values() if _fits(settings, facts, None)]
    kinds, grids, beside = _backbones_beside(state, path, backbone, by_shape)
    fitting = [name for name, each in presets.items() if any(_fits(each, facts, kind) for kind in kinds)]
    fitting = [name for name in fitting if _grid_of_crop(presets[name]) in grids] or fitting
    if not fitting:
        known = [kind for kind in kinds if kind]
        minor = f"rank {facts.minor_rank} from block {facts.first_block} on"
        where = minor if facts.minor_rank else f"{sum(facts.banks)} adapted blocks"
        raise ReinError(
            f"'{path}' ({facts.tune}, width {facts.widths[0]}, {where}, "
            f"{facts.classes} classes) fits no preset{f' on {known[0]}' if known else ''}.",
            "Give the settings it was trained with: --config FILE.toml",
        )
    if scored is not None:
        fitting = _agreeing(presets, fitting, scored, path)
    taken, others = fitting[0], fitting[1:]
    if notes is not None:
        crop, name = presets[taken].data.augment.crop, presets[taken].model.backbone.name
        because = f" (by {', '.join(map(str, beside))})" if beside else ""
        also = f"; it fits {', '.join(others)} too" if others else ""
        notes.append(
            f"'{path}' does not say its setting: taken for {taken}, {name} at {crop}x{crop}{because}{also}. "
            "--preset NAME takes another."
        )
    return presets[taken]


def _order(name: str, settings: Settings) -> tuple[int, int, str]:
    """Main settings first, their variants by family as in its table; then the others by name."""
    stem, family = name.split("-")[0], settings.model.backbone.name
    families = list(FAMILIES)
    place = families.index(family) if family in families else len(families)
    return (MAIN.index(stem) if stem in MAIN else len(MAIN), place, name)


def _agreeing(
    presets: Mapping[str, Settings], fitting: Sequence[str], scored: Sequence[str], path: Path
) -> list[str]:
    """Those of the fitting presets that score these sources, where they do it alike.

    Raises:
        ReinError: they differ.
    """
    datasets = list(dict.fromkeys(each.split(":")[0] for each in scored or presets[fitting[0]].data.val))

    def tests(name: str) -> set[str]:
        return {each.split(":")[0] for each in presets[name].data.val}

    chosen = [name for name in fitting if tests(name) >= set(datasets)] or list(fitting)
    ways: dict[str, list[str]] = {}
    for name in chosen:
        sizes = ", ".join(f"{each} at {test_size(presets[name], each)}" for each in datasets)
        ways.setdefault(_model_facts(presets[name]) + sizes, []).append(name)
    if len(ways) > 1:
        told = []
        for names in ways.values():
            settings = presets[names[0]]
            sizes = ", ".join(f"{each} at {test_size(settings, each)}" for each in datasets)
            told.append(f"{' or '.join(names)} ({settings.model.backbone.name}, {sizes})")
        raise ReinError(
            f"'{path}' does not say which setting it was trained in, and those it fits score otherwise: "
            f"{'; '.join(told)}.",
            f"Say which: --preset {chosen[0]}, for example",
            usage=True,
        )
    return chosen


def _model_facts(settings: Settings) -> str:
    """What decides how a checkpoint is used, but for the test sizes; how it was trained does not."""
    model, crop = settings.model, settings.data.augment.crop
    test = settings.test.model_copy(update={"sizes": {}})
    return f"{model.backbone!r} {model.minor_kind} {model.minor!r} {model.adapter!r} {model.head!r} {crop} {test!r}"


def _backbones_beside(
    state: Mapping[str, Tensor], source: Path, given: Path | None, by_shape: Sequence[Settings]
) -> tuple[list[str | None], list[tuple[int, int] | None], list[Path]]:
    """Families and grids of positions of the backbone in a checkpoint, given, or in the usual places; and the files.

    A family is None where nothing is known of it: every one fits then.
    """
    if weights.holds_backbone(state):
        inside = {name: value for name, value in state.items() if name.startswith("backbone.")}
        _, facts = foundation.recognise_backbone(foundation.plain_backbone(inside), str(source))
        return [facts.name], [facts.grid], []
    usual = [given] if given is not None else _usual_files(by_shape)
    kinds: list[str | None] = []
    grids: list[tuple[int, int] | None] = []
    for path in usual:
        _, facts = foundation.recognise_backbone(
            foundation.plain_backbone(foundation.unwrap(read_file(path, map_only=True), path)), str(path)
        )
        kinds.append(facts.name)
        grids.append(facts.grid)
    return kinds or [None], grids, usual


def _usual_files(some: Sequence[Settings]) -> list[Path]:
    """The backbone files in the usual places of the first of these settings' families that has any there."""
    for family in dict.fromkeys(settings.model.backbone.name for settings in some):
        found = [
            path
            for settings in some
            if settings.model.backbone.name == family
            for path in backbone_candidates(settings.model.backbone, settings.data.augment.crop)
            if path.exists()
        ]
        if found:
            return list(dict.fromkeys(found))
    return []


def _grid_of_crop(settings: Settings) -> tuple[int, int]:
    side = settings.data.augment.crop // settings.model.backbone.patch_size
    return side, side


def _fits(settings: Settings, facts: weights.HeadFacts, kind: str | None) -> bool:
    """Whether a checkpoint of the original's may have been trained with a preset."""
    model, family = settings.model, family_of(settings.model.backbone)
    if family is None or not family.released or kind not in (None, model.backbone.name):
        return False
    rein, minor = model.refines, model.minor_kind
    first = first_block(model.minor, minor, family.blocks) if minor else 0
    neck = ("branches" if rein else "levels") if family.kind == "clip" else None
    return (
        model.tune in ((facts.tune, "frozen") if facts.tune == "full" else (facts.tune,))
        and model.head.kind == facts.kind
        and family.widths == facts.widths
        and facts.classes == len(CITYSCAPES)
        and facts.neck == neck
        and (not rein or (family.banks == facts.banks and model.adapter.rank == facts.rank))
        and (not rein or model.adapter.link_features == facts.link_features)
        and (
            not minor or ((model.minor.rank or RANKS[minor]), first) == (facts.minor_rank, facts.first_block)
        )
        and (model.head.kind == "plain" or model.head.channels == facts.channels)
    )
