"""Checkpoints: what a run keeps of its model, and the model built from it again.

A checkpoint has the form of the original's, with more beside it: {"meta": {...}, "state_dict": {...}} in the
original's names, holding what was trained (the backbone is a separate file), and "rein": {"settings": ...}. So a
model trained here runs in the original, and the original's checkpoints are read as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reincli.config import GROUPS, Settings
from reincli.data.labels import Classes
from reincli.engine.backbone_files import load_backbone
from reincli.engine.calibration import Calibration, read_calibration
from reincli.engine.fingerprint import Fingerprint, fingerprint_of, read_fingerprint, require_same
from reincli.engine.recognition import preset_of
from reincli.engine.validation import damaged, iteration_of, own_fields, require_finite
from reincli.engine.weight_files import read_file
from reincli.errors import ReinError
from reincli.model import foundation, minor_files, weights
from reincli.model.minor import RESIDUAL, WHOLE
from reincli.model.segmentor import Segmentor
from reincli.settings_files import build_settings

NEAR_CHANCE = 5
"""How many times the share by chance still is no sign that A started from the backbone's own minor directions."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: where it was read. state: what was trained, in our names.
        settings: of the run, or None for one of the original's. classes: names and colours, or None.
        training: state of the run for resuming, or None. iteration: how far it was trained, 0 if unknown.
        backbone: fingerprint of the backbone that it was trained with, or None.
        form: what stands beside minor directions, see `minor`; None where there are none.
        biases: frozen ones that it holds, for comparison with the backbone.
        says_form: whether it says so itself, as all that is written here does; released files do not.
        calibration: its temperature and where that is from, or None.
    """

    path: Path
    state: dict[str, Tensor]
    settings: Settings | None
    classes: Classes | None
    training: dict[str, Any] | None
    iteration: int = 0
    backbone: Fingerprint | None = None
    form: str | None = None
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    says_form: bool = True
    calibration: Calibration | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one of our checkpoints or of the original's. ReinError where it is neither."""
    content = read_file(path)
    state, form, biases = foundation.unwrap(content, path), None, dict[str, Tensor]()
    if minor_files.is_somas(state):
        state, biases = minor_files.read_from_soma(state)
        form = WHOLE
    state = weights.from_original(state)
    weights.recognise_head(state, str(path))
    fields = content if isinstance(content, Mapping) else {}
    meta = fields.get("meta")
    says_form = not biases or (isinstance(meta, Mapping) and meta.get("minor") == WHOLE)
    settings, classes, backbone, calibration = None, None, None, None
    own = fields.get("rein")
    if own is not None:
        raw, classes = own_fields(own, path)
        try:
            # how another machine attended is no part of the model: this one may not be able to
            settings = build_settings(dict(raw), (), {"model.backbone.attention": "auto"})
        except ReinError as error:
            raise damaged(path, f"its settings cannot be used ({error.message.rstrip('.')})") from None
        backbone = read_fingerprint(own.get("backbone"))
        form = form or own.get("minor")
        calibration = read_calibration(own, path)
    if form not in (RESIDUAL, WHOLE) and any(name.startswith("minor.") for name in state):
        raise damaged(path, "it does not say which weights stand beside its minor directions (rein.minor)")
    training = fields.get("training")
    if training is not None and not isinstance(training, Mapping):
        raise damaged(path, "its field 'training' is no table")
    iteration = iteration_of(meta, path)
    state_of_training = None if training is None else dict(training)
    return Checkpoint(
        path,
        state,
        settings,
        classes,
        state_of_training,
        iteration,
        backbone,
        calibration=calibration,
        form=form,
        biases=biases,
        says_form=says_form,
    )


def checkpoint_content(
    model: Segmentor,
    settings: Settings,
    classes: Classes,
    iteration: int,
    training: Mapping[str, Any] | None,
    backbone: Fingerprint | None = None,
) -> dict[str, Any]:
    """What a checkpoint file holds; see the top of this file."""
    trained = weights.to_original(model.trained_state(), model.backbone.layout)
    state = {name: value.detach().cpu() for name, value in trained.items()}
    names, colors = list(classes.names), [list(color) for color in classes.colors]
    content: dict[str, Any] = {
        "meta": {"iter": iteration, "dataset_meta": {"classes": names, "palette": colors}},
        "state_dict": state,
        "rein": {"settings": settings.model_dump(mode="json"), "classes": {"names": names, "colors": colors}},
    }
    if model.minor is not None:
        content["rein"]["minor"] = model.minor.form
    if backbone is not None:
        content["rein"]["backbone"] = backbone.as_content()
    if training is not None:
        content["training"] = dict(training)
    return content


def original_state(model: Segmentor) -> dict[str, Tensor]:
    """Exactly the tensors that the original saves for this setting, in its names.

    With adapters that is what was trained; without them the backbone is there too, and tensors that nothing
    reads: a mask token, rotary tables, CLIP's scale branches. Of minor directions it is what SoMA's files hold.
    """
    if model.minor is not None:
        token = {f"{minor_files.PREFIX}mask_token": torch.zeros(1, model.backbone.width)}
        frozen = {f"{minor_files.PREFIX}{n}": v for n, v in minor_files.frozen_biases(model).items()}
        return token | frozen | minor_files.written_for_soma(model)[0]
    state = model.trained_state()
    if model.rein is not None:
        return weights.to_original(state, model.backbone.layout)
    state |= {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
    unread = {f"backbone.{name}": value for name, value in model.backbone.unread().items()}
    return weights.to_original(state, model.backbone.layout) | unread


def original_content(model: Segmentor, classes: Classes, iteration: int) -> dict[str, Any]:
    """A checkpoint as the original writes it: `original_state` in float32, and what it was trained on."""
    state = {name: value.detach().cpu() for name, value in original_state(model).items()}
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    colors = [list(color) for color in classes.colors]
    meta: dict[str, Any] = {
        "iter": iteration,
        "dataset_meta": {"classes": list(classes.names), "palette": colors},
    }
    if model.minor is not None:
        # A may hold what was taken out too, which would mislead the test of files that do not say their form
        meta["minor"] = WHOLE
    return {"meta": meta, "state_dict": state}


def settings_for(
    checkpoint: Checkpoint,
    given: Settings | None,
    backbone: Path | None = None,
    *,
    scored: Sequence[str] | None = None,
    notes: list[str] | None = None,
) -> Settings:
    """Settings to use with a checkpoint: as given, its own, or those of the preset that fits.

    Args:
        checkpoint: read. given: chosen by the user, or None.
        backbone: its file, if the user gave one. scored, notes: see `recognition.preset_of`.

    Raises:
        ReinError: an original checkpoint that no preset fits, or several that score otherwise.
    """
    if given is not None:
        return given
    if checkpoint.settings is not None:
        return checkpoint.settings
    return preset_of(checkpoint.state, checkpoint.path, backbone, scored=scored, notes=notes)


def load_frozen(
    model: Segmentor, path: Path, checkpoint: Checkpoint | None = None, *, knowingly: bool = False
) -> tuple[Fingerprint | None, list[str]]:
    """Load the backbone's file into a model, for a checkpoint where one is given.

    Args:
        model: gets it. path: raw or converted.
        checkpoint: that will be loaded over it; without one, minor directions begin with this backbone's.
        knowingly: another backbone than the checkpoint was trained with is a remark, no error.

    Returns:
        Its fingerprint, None where the backbone is trained (checkpoints hold it then), and remarks.

    Raises:
        ReinError: it does not fit, or is not the one that the checkpoint was trained with.
    """
    notes = load_backbone(model, path)
    if model.backbone_trains:
        return None, notes
    loaded = fingerprint_of(model.backbone, str(path))
    if model.minor is not None and checkpoint is None:
        model.minor.begin()
    if checkpoint is not None:
        notes += require_same(checkpoint.backbone, loaded, str(checkpoint.path), knowingly=knowingly)
    return loaded, notes


def load_trained(model: Segmentor, checkpoint: Checkpoint, *, fresh_for: Classes | None = None) -> list[str]:
    """Load adapters, minor directions and head, and the backbone where the checkpoint brings it, strictly.

    The backbone's weights become those that stand beside the minor directions.

    Args:
        model: gets them. checkpoint: read.
        fresh_for: classes that are about to be trained: where the checkpoint's are others, the class layer keeps the
            weights that the model has, all else is loaded. None: the checkpoint's must be as many as the model's.

    Returns:
        Remarks worth showing.

    Raises:
        ReinError: another number of classes, another backbone, or tensors that do not fit.
    """
    path, facts = checkpoint.path, weights.recognise_head(checkpoint.state, str(checkpoint.path))
    state, notes = checkpoint.state, list[str]()
    if fresh_for is not None and (told := other_classes(checkpoint, facts.classes, fresh_for)):
        own = model.state_dict()
        state = {name: own[name].detach().cpu() if is_class_layer(name) else v for name, v in state.items()}
        notes.append(told)
    elif facts.classes != model.classes:
        raise ReinError(
            f"'{path}' was trained for {facts.classes} classes, but the settings have {model.classes}.",
            "Give the settings it was trained with (--preset or --config).",
        )
    if facts.widths != tuple(model.backbone.widths):
        raise ReinError(
            f"'{path}' was trained on a backbone of width {facts.widths[0]}, but "
            f"'{model.backbone.settings.name}' has {model.backbone.widths[0]}.",
            "Give the preset it was trained with.",
        )
    if facts.kind != model.settings.head.kind:
        raise ReinError(
            f"'{path}' was trained with the head '{facts.kind}', but the settings have '{model.settings.head.kind}'.",
            f"Give the preset it was trained with, or --set model.head.kind={facts.kind}",
        )
    hint = "Give the preset it was trained with; see: rein presets"
    if model.minor is not None and facts.minor_rank not in (0, model.minor.rank):
        # a file that was written back in SoMA's form has twice the rank of its preset
        rank = facts.minor_rank
        hint = f"Its minor directions are of rank {rank}: model.minor.rank = {rank} (--set, or in --config FILE)."
    parts = model.trained_modules()  # what is expected is what the model declares as trained, no more
    if weights.holds_backbone(state):
        parts["backbone"] = model.backbone
        state = weights.backbone_to_ours(state, model.backbone.layout)
    expected = torch.nn.ModuleDict(parts)
    weights.load_strict(expected, state, f"The checkpoint '{path}'", hint)
    require_finite(state, f"The checkpoint '{path}'")
    return notes if model.minor is None else [*notes, *_stand_beside(model, checkpoint)]


def other_classes(checkpoint: Checkpoint, count: int, wanted: Classes) -> str:
    """A remark where a checkpoint of `count` classes was trained for others than those wanted; '' for the same."""
    path, known = checkpoint.path, checkpoint.classes
    if count != len(wanted):
        told = f"{count} classes, this run has {len(wanted)}"
    elif known is not None and [n.casefold() for n in known.names] != [n.casefold() for n in wanted.names]:
        first = next(pair for pair in zip(known.names, wanted.names, strict=True) if pair[0] != pair[1])
        told = f"other classes ('{first[0]}' where this run has '{first[1]}')"
    else:
        return ""
    return f"'{path}' was trained for {told}: all of it is taken but the class layer, which starts anew."


def is_class_layer(name: str) -> bool:
    """Whether a tensor (our names) has a row a class."""
    return name.rpartition(".")[0].endswith(".class_head")


def _stand_beside(model: Segmentor, checkpoint: Checkpoint) -> list[str]:
    """Bring the weights of the backbone into the form that a checkpoint's minor directions belong to.

    Raises:
        ReinError: its frozen biases are those of another backbone, or its form is not what its tensors say.
    """
    assert model.minor is not None
    assert checkpoint.form is not None
    path = str(checkpoint.path)
    own = minor_files.frozen_biases(model) if checkpoint.biases else {}
    other = [n for n, value in checkpoint.biases.items() if not same_bias(value, own.get(n))]
    if other:
        raise ReinError(
            f"'{path}' was trained on another backbone: of {len(checkpoint.biases)} frozen biases that it holds, "
            f"{len(other)} are not those of the backbone given ({other[0]}).",
            "Give the one that it was trained with: --backbone FILE",
        )
    model.minor.require_form(checkpoint.form, path)
    remarks = [] if checkpoint.says_form else [released_form(model, path)]
    model.minor.take_out()
    return remarks


def same_bias(first: Tensor, second: Tensor | None) -> bool:
    """Whether two biases are the same but for being stored in another precision."""
    return (
        second is not None
        and first.shape == second.shape
        and torch.allclose(first.float(), second.float().to(first.device), rtol=2**-7, atol=1e-6)
    )


def released_form(model: Segmentor, path: str) -> str:
    """How a released file of SoMA's is read, and what its own numbers say to that."""
    assert model.minor is not None
    found = model.minor.overlap()
    told = (
        f"'{path}' is a released file of SoMA's: its A and B are added to the WHOLE weights of the backbone"
    )
    if found is None:
        return f"{told}."
    share, chance = found
    verdict = (
        "as it should be" if share < NEAR_CHANCE * chance else "far above, which speaks against that reading"
    )
    return (
        f"{told}. Test: of lora_A of the first fc1, {share:.1%} lies in the minor directions of the backbone's own "
        f"weight; by chance it is {chance:.1%}, {verdict}."
    )


def build_model(settings: Settings, classes: int) -> Segmentor:
    """The model of these settings, with fresh weights."""
    patch, crop = settings.model.backbone.patch_size, settings.data.augment.crop
    if crop % patch:
        raise ReinError(
            f"data.augment.crop {crop} is not a multiple of the patch size {patch}.",
            "Choose a multiple.",
            usage=True,
        )
    if crop < 2 * patch:
        raise ReinError(
            f"data.augment.crop {crop} holds less than two patches of model.backbone.patch_size {patch}.",
            "The coarsest level of the head has half a position a patch: take a larger crop.",
            usage=True,
        )
    head = settings.model.head
    if head.kind == "mask2former" and head.channels == GROUPS and crop < 4 * patch:
        raise ReinError(
            f"With model.head.channels {head.channels} and data.augment.crop {crop} each of the {GROUPS} groups of the "
            "head's coarsest norm has a single value, of which no mean or spread is left.",
            f"Take a crop of {4 * patch} or more, or {2 * GROUPS} channels.",
            usage=True,
        )
    return Segmentor(settings.model, classes, crop // patch)
