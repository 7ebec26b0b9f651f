"""Name tables, conversion of backbones, recognition."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import reference
import torch

from reincli.config import BackboneSettings
from reincli.engine.checkpoint import original_state
from reincli.errors import ReinError
from reincli.model import foundation, weights
from reincli.model.backbones import build_backbone
from reincli.model.families import FAMILIES, family_of
from reincli.model.layouts import LAYOUTS
from reincli.model.necks import ScaleBranches
from reincli.model.timm_import import import_timm


def slowly(*values: object) -> list:
    """Parameters that only the slow tests take."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]


REIN = [
    "rein_dinov2_s_512", "rein_eva02_l_512", "rein_clip_l_512", "rein_sam_h_512", "rein_convnext_l_512",
    "rein_resnet50_512",
    *slowly(
        "rein_dinov2_l_512", "rein_dinov2_b_512", "rein_dinov2_l_1024", "rein_resnet101_512",
        "rein_convnext_l_512_released", "rein_resnet50_512_released", "rein_resnet101_512_released",
    ),
]  # fmt: skip
WHOLE = [
    "frozen_dinov2_l_512", "frozen_clip_l_512_released",
    *slowly("full_dinov2_l_512", "frozen_clip_l_512", "frozen_sam_h_512"),
]  # fmt: skip

on_meta = functools.cache(reference.on_meta)


def recorded(oracle: Path, name: str) -> dict:
    """A file of `manifests`, here or in the later additions."""
    places = (oracle / "manifests" / name, oracle / "more" / "manifests" / name)
    return json.loads(next(path for path in places if path.exists()).read_text())


@pytest.mark.parametrize("variant", REIN)
def test_saved_names_and_shapes_are_the_originals(oracle, variant):
    saved = recorded(oracle, f"{variant}.saved.json")
    model = on_meta(variant)
    trained = weights.to_original(model.trained_state(), model.backbone.layout)
    ours = {name: list(value.shape) for name, value in trained.items()}
    assert ours == {name: shape for name, (shape, _) in saved.items()}


@pytest.mark.parametrize("variant", REIN + WHOLE)
def test_every_parameter_is_the_originals_and_trains_where_it_trains_there(oracle, variant):
    model = on_meta(variant)
    original = reference.original_names(model)
    ours = {original[name]: parameter.requires_grad for name, parameter in model.named_parameters()}
    expected = {
        name: trains for name, (_, _, trains) in recorded(oracle, f"{variant}.all.json").items()
        if isinstance(trains, bool) and name != "backbone.mask_token"  # nothing reads it
    }  # fmt: skip
    if variant == "frozen_clip_l_512_released":  # nothing runs them
        expected = {name: trains for name, trains in expected.items() if not name.startswith("backbone.fpn")}
    assert ours == expected


@pytest.mark.parametrize("variant", REIN + WHOLE)
def test_counts_are_the_originals(oracle, variant):
    counts = json.loads((oracle / "manifests" / "counts.json").read_text())
    facts = (counts | json.loads((oracle / "more" / "manifests" / "counts.json").read_text()))[variant]
    model = on_meta(variant)
    total = sum(p.numel() for p in model.parameters())
    unread = model.backbone.width if model.backbone.layout.kind == "dinov2" else 0  # its mask token
    trained = unread if variant.startswith("full") else 0
    if variant == "frozen_clip_l_512_released":
        unread = sum(p.numel() for p in ScaleBranches(1024).parameters())
    assert total + unread == facts["total"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) + trained == facts["trainable"]
    assert (sum(p.numel() for p in model.rein.parameters()) if model.rein is not None else 0) == facts["rein"]


@pytest.mark.parametrize("variant", WHOLE)
def test_written_back_without_adapters_the_backbone_is_there_too(oracle, variant):
    saved = recorded(oracle, f"{variant}.saved.json")
    model = on_meta(variant)
    ours = {k: list(v.shape) for k, v in original_state(model).items()}
    expected = {name: shape for name, (shape, _) in saved.items()}
    if variant == "frozen_clip_l_512":  # the form that was released has the scale branches too
        ours = {name: shape for name, shape in ours.items() if not name.startswith("backbone.fpn")}
    assert ours == expected


@pytest.mark.slow
def test_the_backbone_of_a_frozen_eva02_has_its_rotary_tables_too(oracle):
    """Its head in the original has a link to queries and no adapters, so it cannot run: the backbone alone counts."""
    saved = recorded(oracle, "frozen_eva02_l_512.saved.json")
    state = original_state(on_meta("frozen_eva02_l_512"))
    ours = {k: list(v.shape) for k, v in state.items() if k.startswith("backbone.")}
    assert ours == {k: shape for k, (shape, _) in saved.items() if k.startswith("backbone.")}


@pytest.mark.parametrize("variant", REIN + WHOLE)
def test_table_reads_what_it_wrote(variant):
    model = on_meta(variant)
    layout, state = model.backbone.layout, model.state_dict()
    back = weights.backbone_to_ours(weights.from_original(weights.to_original(state, layout)), layout)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}


def test_unknown_names_are_kept_for_the_strict_check_to_name():
    state = weights.from_original(
        {"decode_head.surprise.weight": torch.zeros(1), "data_preprocessor.mean": torch.zeros(1)}
    )
    assert list(state) == ["decode_head.surprise.weight"]
    with pytest.raises(KeyError):
        weights.to_original({"nonsense.weight": torch.zeros(1)}, LAYOUTS["dinov2"])


@pytest.mark.parametrize("variant", REIN + WHOLE)
def test_recognition_of_a_checkpoint(variant):
    settings, _ = reference.settings_of(variant)
    model = on_meta(variant)
    facts = weights.recognise_head(model.trained_state(), "x.pth")
    family = family_of(settings.backbone)
    assert facts.tune == settings.tune
    assert facts.classes == 19
    assert facts.widths == family.widths
    rein = settings.tune == "rein"
    assert (facts.banks, facts.rank) == ((family.banks, 16) if rein else ((), None))
    assert facts.neck == ({"rein": "branches"}.get(facts.tune, "levels") if family.kind == "clip" else None)
    assert (facts.tokens, facts.channels, facts.pixel_layers, facts.decoder_layers) == (100, 256, 6, 9)


# --- files of backbones ------------------------------------------------------------------------------------

FAMILY_OF = {
    "dinov2_vits14": "dinov2_s", "dinov2_vitb14": "dinov2_b", "dinov2_vitl14": "dinov2_l", "eva02_l": "eva02_l",
    "clip_l": "clip_l", "sam_h": "sam_h",
}  # fmt: skip
CONVERSIONS = [
    ("dinov2_vits14", "512x1024"), ("eva02_l", "512"), ("clip_l", "512"), ("sam_h", "512x1024"),
    *slowly(
        *((family, size) for family in ("dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14")
          for size in ("512x512", "1024x1024", "512x1024") if (family, size) != ("dinov2_vits14", "512x1024")),
        ("clip_l", "1024"), ("sam_h", "512x512"), ("sam_h", "1024x1024"),
    ),
]  # fmt: skip


def raw(oracle: Path, family: str, named: dict | None = None) -> dict[str, torch.Tensor]:
    """The published file of a family: numbers where `named` or where they are needed, else names and shapes."""
    shapes = json.loads((oracle / "more" / "convert" / "raw_shapes.json").read_text())[family]["raw"]
    state = {}
    for name, (shape, dtype) in shapes.items():
        kind = getattr(torch, dtype)
        bare = name.removeprefix("visual.").removeprefix("image_encoder.")
        tower = bare != name or not any(other.startswith(("visual.", "image_encoder.")) for other in shapes)
        if named is not None and tower and bare in named:
            value = reference.weight(name, tuple(shape), f"raw.{family}.{name}")
            state[name] = value.to(kind)
        else:
            state[name] = torch.empty(shape, dtype=kind, device="meta")
    return state


@pytest.mark.parametrize(("family", "size"), CONVERSIONS)
def test_conversion_of_raw_weights(oracle, family, size):
    notes = json.loads((oracle / "more" / "convert" / f"{family}_{size}.json").read_text())
    stored = np.load(oracle / "more" / "convert" / f"{family}_{size}.npz")
    given = raw(oracle, family, notes["changed"])
    state, facts = foundation.recognise_backbone(given, "raw.pth")
    assert facts.name == FAMILY_OF[family]
    height, width = (int(side) for side in (size.split("x") * 2)[:2])
    converted = foundation.convert_backbone(state, facts, (height // 16, width // 16), 16)
    assert len(converted) == notes["n_out"]
    assert all(value.dtype == torch.float32 for value in converted.values())
    if isinstance(notes.get("kept_keys"), list):
        assert set(converted) == set(notes["kept_keys"])
    changed = {name for name in converted if converted[name] is not state[name]}
    assert changed == set(notes["changed"]) == set(stored.files)
    for name, entry in notes["changed"].items():
        ours = converted[name].numpy()
        assert list(ours.shape) == entry["shape"]
        assert reference.relative_error(reference.cut(ours, entry["slice"]), stored[name]) < 1e-6


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("dinov2_vits14", "dinov2_s"),
        ("eva02_l", "eva02_l"),
        ("clip_l", "clip_l"),
        ("sam_h", "sam_h"),
        ("convnext_l", "convnext_l"),
        ("resnet50", "resnet50"),
        *slowly(("dinov2_vitb14", "dinov2_b"), ("dinov2_vitl14", "dinov2_l")),
    ],
)
def test_a_published_file_fits_the_model(oracle, family, name):
    state = raw(oracle, family)
    if family == "convnext_l":
        state = foundation.plain_backbone(state)  # its tensors stand under `backbone.`
    state, facts = foundation.recognise_backbone(state, "raw.pth")
    assert facts.name == name
    backbone = on_meta(f"rein_{name}_512").backbone
    fitted = foundation.convert_backbone(state, facts, (32, 32), 16)
    ours = {key: value.shape for key, value in backbone.layout.to_ours(fitted).items()}
    assert ours == {key: value.shape for key, value in backbone.state_dict().items()}


BIG = ("dinov2_b", "dinov2_l", "dinov3_b", "dinov3_l", "resnet101", "sam_h")


@pytest.mark.parametrize(
    "name", [*(name for name, family in FAMILIES.items() if family.timm and name not in BIG), *slowly(*BIG)]
)
def test_timms_own_file_fits_the_model(name):
    family = FAMILIES[name]
    timm = import_timm()
    with torch.device("meta"):
        given = timm.create_model(family.timm).state_dict()
        backbone = build_backbone(BackboneSettings(name=name), 32)
    state, facts = foundation.recognise_backbone(given, "model.safetensors")
    assert facts.name == name
    fitted = foundation.convert_backbone(state, facts, (32, 32), 16)
    ours = {key: value.shape for key, value in backbone.layout.to_ours(fitted).items()}
    assert ours == {key: value.shape for key, value in backbone.state_dict().items()}


def test_conversion_figures_of_the_large_model(oracle):
    """Positions and kernels alone, from figures made apart."""
    stored, notes = reference.load(oracle, "convert")
    cases = {
        "convert_dinov2_large_512x512.pos_embed": ("dinov2", "conv.pos_embed", (1, 1370, 1024), 32),
        "convert_dinov2_large_1024x1024.pos_embed": ("dinov2", "conv.pos_embed", (1, 1370, 1024), 64),
        "patch_embed.proj.weight": ("dinov2", "conv.patch", (1024, 3, 14, 14), 32),
        "eva.pos_embed": ("eva02", "conv.eva_pos", (1, 257, 1024), 32),
        "clip.positional_embedding": ("clip", "conv.clip_pos", (257, 1024), 32),
        "clip.conv1.weight": ("clip", "conv.clip_conv1", (1024, 3, 14, 14), 32),
    }
    for name, (kind, key, shape, side) in cases.items():
        layout = LAYOUTS[kind]
        values = torch.from_numpy(reference.normal(key, shape))
        is_kernel = len(shape) == 4
        state = {
            layout.positions: torch.zeros(1, 1370, 8) if is_kernel else values,
            layout.kernel: values if is_kernel else torch.zeros(8, 3, 14, 14),
        }
        grid = (37, 37) if is_kernel else foundation.grid_of(shape[-2] - 1)
        converted = layout.resample(state, grid, (side, side), 16)
        ours = converted[layout.kernel if is_kernel else layout.positions].numpy()
        cut = reference.cut(ours, notes["tensors"][name]["slice"])
        assert reference.relative_error(cut, stored[name]) < 1e-6, name


@pytest.mark.parametrize(
    ("names", "guess"),
    [
        (["image_encoder.pos_embed"], "part of SAM"),
        (["visual.conv1.weight"], "CLIP"),
        (["blocks.0.attn.rope.freqs_cos"], "EVA"),
        (["conv1.weight", "layer1.0.conv1.weight"], "plain stem"),
        (["register_tokens", "blocks.0.attn.qkv.weight"], "register tokens"),
        (["decode_head.cls_embed.weight"], "adapters and head"),
        (["layer1.0.conv1.weight"], "convolutional"),
        (["blocks.0.attn.qkv.weight"], "without LayerScale"),
    ],
)
def test_a_file_of_another_family_is_named(names, guess):
    with pytest.raises(ReinError, match=guess):
        foundation.recognise_backbone({name: torch.zeros(1) for name in names}, "other.pth")


@pytest.mark.parametrize(
    ("count", "prefer", "grid"),
    [(1024, None, (32, 32)), (2048, None, (32, 64)), (2048, (64, 32), (64, 32)), (1369, None, (37, 37))],
)
def test_grid_of_stored_positions(count, prefer, grid):
    assert foundation.grid_of(count, "x.pth", prefer) == grid


def test_a_grid_that_is_none_is_an_error():
    with pytest.raises(ReinError, match="1000 positions"):
        foundation.grid_of(1000, "x.pth")


def test_all_complaints_of_strict_loading_in_one():
    module = torch.nn.Linear(3, 2)
    with pytest.raises(ReinError) as caught:
        weights.load_strict(
            module, {"weight": torch.zeros(2, 4), "gain": torch.zeros(1)}, "The file 'f'", "Do this."
        )
    text = str(caught.value)
    assert "1 missing: bias" in text
    assert "1 left over: gain" in text
    assert "weight [2, 4] instead of [2, 3]" in text
    assert text.endswith("Do this.")
