"""Checkpoints: what a run keeps of its model, and the model built from it again.

A checkpoint has the form of the original's, with more beside it: {"meta": {...}, "state_dict": {...}} in the
original's names, holding what was trained (the backbone is a separate file), and "rein": {"settings": ...}. So a
model trained here runs in the original, and the original's checkpoints are read as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reincli.config import Settings
from reincli.data.labels import Classes
from reincli.engine.backbone_files import load_backbone
from reincli.engine.fingerprint import Fingerprint, fingerprint_of, read_fingerprint, require_same
from reincli.engine.recognition import preset_of
from reincli.engine.validation import damaged, iteration_of, own_fields, require_finite
from reincli.engine.weight_files import read_file
from reincli.errors import ReinError
from reincli.model import foundation, weights
from reincli.model.segmentor import Segmentor
from reincli.settings_files import build_settings


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: where it was read. state: what was trained, in our names.
        settings: of the run, or None for one of the original's. classes: names and colours, or None.
        training: state of the run for resuming, or None. iteration: how far it was trained, 0 if unknown.
        backbone: fingerprint of the backbone that it was trained with, or None.
    """

    path: Path
    state: dict[str, Tensor]
    settings: Settings | None
    classes: Classes | None
    training: dict[str, Any] | None
    iteration: int = 0
    backbone: Fingerprint | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one of our checkpoints or of the original's. ReinError where it is neither."""
    content = read_file(path)
    state = weights.from_original(foundation.unwrap(content))
    weights.recognise_head(state, str(path))
    fields = content if isinstance(content, Mapping) else {}
    settings, classes, backbone = None, None, None
    own = fields.get("rein")
    if own is not None:
        raw, classes = own_fields(own, path)
        try:
            settings = build_settings(dict(raw))
        except ReinError as error:
            raise damaged(path, f"its settings cannot be used ({error.message.rstrip('.')})") from None
        backbone = read_fingerprint(own.get("backbone"))
    training = fields.get("training")
    if training is not None and not isinstance(training, Mapping):
        raise damaged(path, "its field 'training' is no table")
    iteration = iteration_of(fields.get("meta"), path)
    state_of_training = None if training is None else dict(training)
    return Checkpoint(path, state, settings, classes, state_of_training, iteration, backbone)


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
    if backbone is not None:
        content["rein"]["backbone"] = backbone.as_content()
    if training is not None:
        content["training"] = dict(training)
    return content


def original_state(model: Segmentor) -> dict[str, Tensor]:
    """Exactly the tensors that the original saves for this setting, in its names.

    With adapters that is what was trained; without them the backbone is there too, and tensors that nothing
    reads: a mask token, rotary tables, CLIP's scale branches.
    """
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
    meta = {"iter": iteration, "dataset_meta": {"classes": list(classes.names), "palette": colors}}
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
        checkpoint: that will be loaded over it.
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
    if checkpoint is not None:
        notes += require_same(checkpoint.backbone, loaded, str(checkpoint.path), knowingly=knowingly)
    return loaded, notes


def load_trained(model: Segmentor, checkpoint: Checkpoint) -> None:
    """Load adapters and head, and the backbone where the checkpoint brings it, strictly.

    Raises:
        ReinError: another number of classes, another backbone, or tensors that do not fit.
    """
    path, facts = checkpoint.path, weights.recognise_head(checkpoint.state, str(checkpoint.path))
    if facts.classes != model.classes:
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
    hint = "Give the preset it was trained with; see: rein presets"
    parts = model.trained_modules()  # what is expected is what the model declares as trained, no more
    state = checkpoint.state
    if weights.holds_backbone(state):
        parts["backbone"] = model.backbone
        state = weights.backbone_to_ours(state, model.backbone.layout)
    expected = torch.nn.ModuleDict(parts)
    weights.load_strict(expected, state, f"The checkpoint '{path}'", hint)
    require_finite(state, f"The checkpoint '{path}'")


def build_model(settings: Settings, classes: int) -> Segmentor:
    """The model of these settings, with fresh weights."""
    patch, crop = settings.model.backbone.patch_size, settings.data.augment.crop
    if crop % patch:
        raise ReinError(
            f"data.augment.crop {crop} is not a multiple of the patch size {patch}.",
            "Choose a multiple.",
            usage=True,
        )
    return Segmentor(settings.model, classes, crop // patch)
