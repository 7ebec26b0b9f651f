"""Name tables, conversion of backbones, recognition."""

from __future__ import annotations

import json

import numpy as np
import pytest
import reference
import torch

from reincli.data.labels import CITYSCAPES
from reincli.engine.checkpoint import original_content
from reincli.errors import ReinError
from reincli.model import weights
from reincli.model.segmentor import Segmentor

VARIANTS = ["rein_dinov2_s_512", "rein_dinov2_b_512", "rein_dinov2_l_512", "rein_dinov2_l_1024"]


def on_meta(variant: str) -> Segmentor:
    settings, crop = reference.settings_of(variant)
    with torch.device("meta"):
        return Segmentor(settings, 19, crop // 16)


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_names_and_shapes_are_the_originals(oracle, variant):
    saved = json.loads((oracle / "manifests" / f"{variant}.saved.json").read_text())
    ours = {
        weights.to_original(name): list(value.shape)
        for name, value in on_meta(variant).trained_state().items()
    }
    assert ours == {name: shape for name, (shape, _) in saved.items()}


@pytest.mark.parametrize("variant", ["frozen_dinov2_l_512", "full_dinov2_l_512"])
def test_written_back_without_adapters_the_backbone_is_there_too(oracle, variant):
    saved = json.loads((oracle / "manifests" / f"{variant}.saved.json").read_text())
    model = on_meta(variant)
    model.to_empty(device="cpu")
    content = original_content(model, CITYSCAPES, 7)
    assert {k: list(v.shape) for k, v in content["state_dict"].items()} == {
        k: shape for k, (shape, _) in saved.items()
    }
    assert content["meta"]["iter"] == 7


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_reads_what_it_wrote(variant):
    names = list(on_meta(variant).state_dict())
    tensor = torch.zeros(())
    back = weights.from_original({weights.to_original(name): tensor for name in names})
    assert list(back) == names


def test_unknown_names_are_kept_for_the_strict_check_to_name():
    state = weights.from_original(
        {"decode_head.surprise.weight": torch.zeros(1), "backbone.mask_token": torch.zeros(1)}
    )
    assert list(state) == ["decode_head.surprise.weight"]
    with pytest.raises(KeyError):
        weights.to_original("nonsense.weight")


@pytest.mark.parametrize("variant", VARIANTS + ["frozen_dinov2_l_512", "full_dinov2_l_512"])
def test_recognition_of_a_checkpoint(variant):
    tune, _, size, _ = variant.split("_")
    model = on_meta(variant)
    facts = weights.recognise_head(model.trained_state(), "x.pth")
    assert facts.tune == tune
    assert facts.classes == 19
    assert facts.width == {"s": 384, "b": 768, "l": 1024}[size]
    assert (facts.depth, facts.rank) == ((24 if size == "l" else 12, 16) if tune == "rein" else (0, None))
    assert (facts.tokens, facts.channels, facts.pixel_layers, facts.decoder_layers) == (100, 256, 6, 9)


@pytest.mark.parametrize("family", ["dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14"])
@pytest.mark.parametrize("size", ["512x512", "1024x1024", "512x1024"])
def test_conversion_of_raw_weights(oracle, family, size):
    raw = json.loads((oracle / "more" / "convert" / "raw_shapes.json").read_text())[family]["raw"]
    notes = json.loads((oracle / "more" / "convert" / f"{family}_{size}.json").read_text())
    stored = np.load(oracle / "more" / "convert" / f"{family}_{size}.npz")
    needed = (
        "pos_embed",
        "patch_embed.proj.weight",
        "cls_token",
        "blocks.0.attn.qkv.weight",
        "blocks.0.ls1.gamma",
    )
    state = {
        name: reference.weight(name, tuple(shape), seed_key=f"raw.{family}.{name}")
        if name in needed
        else torch.zeros(shape).expand(shape)
        for name, (shape, _) in raw.items()
    }
    facts = weights.recognise_backbone(state, "raw.pth")
    assert (
        facts.name
        == {"dinov2_vits14": "dinov2_s", "dinov2_vitb14": "dinov2_b", "dinov2_vitl14": "dinov2_l"}[family]
    )
    assert (facts.patch, facts.grid) == (14, (37, 37))
    height, width = (int(side) for side in size.split("x"))
    converted = weights.convert_backbone(state, (height // 16, width // 16), 16, facts.grid)
    assert len(converted) == notes["n_out"]
    changed = {name for name in converted if converted[name] is not state[name]}
    assert changed == set(notes["changed"]) == set(stored.files)
    for name, entry in notes["changed"].items():
        ours = converted[name].numpy()
        assert list(ours.shape) == entry["shape"]
        assert reference.relative_error(reference.cut(ours, entry["slice"]), stored[name]) < 1e-6


def test_conversion_figures_of_the_large_model(oracle):
    stored, notes = reference.load(oracle, "convert")
    positions = torch.from_numpy(reference.normal("conv.pos_embed", (1, 1370, 1024)))
    kernel = torch.from_numpy(reference.normal("conv.patch", (1024, 3, 14, 14)))
    state = {"pos_embed": positions, "patch_embed.proj.weight": kernel}
    for side in (512, 1024):
        converted = weights.convert_backbone(state, (side // 16, side // 16), 16, (37, 37))
        name = f"convert_dinov2_large_{side}x{side}.pos_embed"
        ours = reference.cut(converted["pos_embed"].numpy(), notes["tensors"][name]["slice"])
        assert reference.relative_error(ours, stored[name]) < 1e-6
    name = "patch_embed.proj.weight"
    ours = reference.cut(converted[name].numpy(), notes["tensors"][name]["slice"])
    assert reference.relative_error(ours, stored[name]) < 1e-6


@pytest.mark.parametrize(
    ("names", "guess"),
    [
        (["image_encoder.pos_embed"], "SAM"),
        (["visual.conv1.weight"], "CLIP"),
        (["blocks.0.attn.rope.freqs_cos"], "EVA02"),
        (["decode_head.cls_embed.weight"], "adapters and head"),
        (["layer1.0.conv1.weight"], "convolutional"),
        (["blocks.0.attn.qkv.weight"], "without LayerScale"),
    ],
)
def test_a_file_of_another_family_is_named(names, guess):
    with pytest.raises(ReinError, match=guess):
        weights.recognise_backbone({name: torch.zeros(1) for name in names}, "other.pth")


@pytest.mark.parametrize(
    ("count", "prefer", "grid"),
    [(1024, None, (32, 32)), (2048, None, (32, 64)), (2048, (64, 32), (64, 32)), (1369, None, (37, 37))],
)
def test_grid_of_stored_positions(count, prefer, grid):
    assert weights.grid_of(count, "x.pth", prefer) == grid


def test_a_grid_that_is_none_is_an_error():
    with pytest.raises(ReinError, match="1000 positions"):
        weights.grid_of(1000, "x.pth")


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
