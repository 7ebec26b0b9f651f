"""Weights in files: read safely, written whole; the model built from them.

A checkpoint has the form of the original's, with more beside it: {"meta": {...}, "state_dict": {...}} in the
original's names, holding what was trained (the backbone is a separate file), and "rein": {"settings": ...}. So a
model trained here runs in the original, and the original's checkpoints are read as they are.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reincli.config import BackboneSettings, Settings
from reincli.data.labels import CITYSCAPES, Classes
from reincli.engine.archive import is_archive, read_archive
from reincli.errors import ReinError
from reincli.model import foundation, weights
from reincli.model.families import FAMILIES, Family, family_of
from reincli.model.segmentor import Segmentor
from reincli.settings_files import build_settings, preset_names, read_preset

CHECKPOINTS = Path("checkpoints")


# --- files -------------------------------------------------------------------------------------------------


def read_file(path: Path) -> Any:
    """Content of a `.pth`/`.pt` or `.safetensors` file. No code in it is ever run.

    Raises:
        ReinError: no such file, cut short, no weights at all, or a pickle that asks for more than tensors.
    """
    if path.is_dir():
        raise ReinError(
            f"'{path}' is a folder; a weights file was expected.", "Give a .pth or .safetensors file."
        )
    if not path.exists():
        raise ReinError(f"There is no weights file at '{path}'.", "Check the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if is_archive(path):
            return read_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from None
    except PermissionError:
        raise ReinError(f"No permission to read '{path}'.", "Check its owner and mode.") from None
    except Exception as error:  # every library names a damaged file in its own way
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ReinError(
            f"'{path}' ({path.stat().st_size:,} bytes) cannot be read as weights: {reason}.",
            "It is cut short, damaged, or another kind of file: fetch it again and compare its size.",
        ) from None


def _refused(path: Path, error: Exception) -> ReinError:
    with open(path, "rb") as file:
        start = file.read(4)
    if not start.startswith(b"PK") and not start.startswith(b"\x80"):
        return ReinError(
            f"'{path}' is not a weights file (it starts with {start!r}).", "Give a .pth or .safetensors file."
        )
    names: list[str] = []
    with contextlib.suppress(Exception):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    found = f": {', '.join(names[:3])}" if names else ""
    return ReinError(
        f"'{path}' asks to run code while loading{found}; it was refused and nothing was run.",
        "Save its tensors alone where you trust it: "
        "torch.save({'state_dict': checkpoint['state_dict']}, 'weights.pth'), or use safetensors.",
    )


def write_file(path: Path, content: Any) -> None:
    """Save `.pth` or `.safetensors` (a flat dict of tensors): temporary name, flush, rename.

    Raises:
        ReinError: no space or no permission; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            if path.suffix == ".safetensors":
                from safetensors.torch import save

                file.write(save({name: tensor.contiguous() for name, tensor in content.items()}))
            else:
                torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        reason = getattr(error, "strerror", None) or "the disk is full or not writable"
        raise ReinError(f"Cannot write '{path}': {reason}.", "Check free space and permission.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


# --- backbones ---------------------------------------------------------------------------------------------


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
        raise ReinError(
            f"No weights of the backbone '{settings.model.backbone.name}' were found "
            f"(looked for {', '.join(str(path) for path in candidates) or 'none: this backbone has no usual file'}).",
            f"Download {address} to {wanted}, or give --backbone FILE."
            if address
            else "Give --backbone FILE; of a model of timm: its model.safetensors from https://huggingface.co/timm",
        )
    return found


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
    state, notes = foundation.plain_backbone(foundation.unwrap(read_file(path))), list[str]()
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
    return notes


# --- checkpoints -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: where it was read. state: what was trained, in our names.
        settings: of the run, or None for one of the original's. classes: names and colours, or None.
        training: state of the run for resuming, or None. iteration: how far it was trained, 0 if unknown.
    """

    path: Path
    state: dict[str, Tensor]
    settings: Settings | None
    classes: Classes | None
    training: dict[str, Any] | None
    iteration: int = 0


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one of our checkpoints or of the original's. ReinError where it is neither."""
    content = read_file(path)
    state = weights.from_original(foundation.unwrap(content))
    weights.recognise_head(state, str(path))
    own = content.get("rein") if isinstance(content, Mapping) else None
    settings = build_settings(own["settings"]) if own else None
    classes = None
    if own:
        classes = Classes(
            tuple(own["classes"]["names"]),
            tuple((int(r), int(g), int(b)) for r, g, b in own["classes"]["colors"]),
        )
    training = content.get("training") if isinstance(content, Mapping) else None
    meta = content.get("meta") if isinstance(content, Mapping) else None
    iteration = meta.get("iter", 0) if isinstance(meta, Mapping) else 0
    return Checkpoint(path, state, settings, classes, training, int(iteration))


def checkpoint_content(
    model: Segmentor, settings: Settings, classes: Classes, iteration: int, training: Mapping[str, Any] | None
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


def settings_for(checkpoint: Checkpoint, given: Settings | None, backbone: Path | None = None) -> Settings:
    """Settings to use with a checkpoint: as given, its own, or those of the one preset that fits.

    Args:
        checkpoint: read. given: chosen by the user, or None.
        backbone: its file, if the user gave one; else the one usual file that is there. It tells families of one
            shape apart, and where it was converted for a crop, the recipe.

    Raises:
        ReinError: an original checkpoint that several presets fit, or none, lists them.
    """
    if given is not None:
        return given
    if checkpoint.settings is not None:
        return checkpoint.settings
    facts = weights.recognise_head(checkpoint.state, str(checkpoint.path))
    presets = {name: build_settings(read_preset(name)) for name in preset_names()}
    by_shape = [settings for settings in presets.values() if _fits(settings, facts, None)]
    kind, grid = _backbone_beside(checkpoint, backbone or _only_usual_file(by_shape))
    fitting = [name for name, settings in presets.items() if _fits(settings, facts, kind)]
    of_size = [name for name in fitting if _grid_of_crop(presets[name]) == grid]
    fitting = of_size or fitting
    if not fitting:
        raise ReinError(
            f"'{checkpoint.path}' ({facts.tune}, width {facts.widths[0]}, {sum(facts.banks)} adapted blocks, "
            f"{facts.classes} classes) fits no preset{f' on {kind}' if kind else ''}.",
            "Give the settings it was trained with: --config FILE.toml",
        )
    if len({_model_facts(presets[name]) for name in fitting}) > 1:
        raise ReinError(
            f"'{checkpoint.path}' does not say which setting it was trained in; it fits {', '.join(fitting)}.",
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


def _backbone_beside(checkpoint: Checkpoint, path: Path | None) -> tuple[str | None, tuple[int, int] | None]:
    """Family and grid of positions of the backbone in a checkpoint, or in the file beside it; None if unknown."""
    if weights.holds_backbone(checkpoint.state):
        inside = {name: v for name, v in checkpoint.state.items() if name.startswith("backbone.")}
        state, path = inside, checkpoint.path
    elif path is not None:
        state = foundation.unwrap(read_file(path))
    else:
        return None, None
    _, facts = foundation.recognise_backbone(foundation.plain_backbone(state), str(path))
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
