"""Checkpoints and backbones in files: strict; each way in which they do not fit has its own words."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from reincli.data.labels import CITYSCAPES
from reincli.engine.backbone_files import load_backbone
from reincli.engine.checkpoint import build_model, load_trained, original_content, read_checkpoint
from reincli.engine.weight_files import write_file
from reincli.errors import ReinError
from reincli.model import foundation
from reincli.prediction.predict import load_segmentor


@pytest.fixture
def files(tmp_path) -> Path:
    chosen = tiny.settings()
    tiny.write_backbone(tmp_path / "backbone.pth", chosen)
    tiny.write_checkpoint(tmp_path / "head.pth", chosen)
    return tmp_path


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)


def test_a_checkpoint_and_its_backbone_predict(files):
    predictor = load_segmentor(
        files / "head.pth", backbone=files / "backbone.pth", device="cpu", precision="fp32"
    )
    label = predictor.predict(image()).label
    assert label.shape == (70, 90)
    assert label.dtype == np.uint8
    assert predictor.notes == []


def test_safetensors_and_wrapped_backbones_are_the_same(files):
    expected = (
        load_segmentor(files / "head.pth", backbone=files / "backbone.pth", device="cpu")
        .predict(image())
        .label
    )
    state = torch.load(files / "backbone.pth", weights_only=True)
    write_file(files / "b.safetensors", state)
    write_file(files / "wrapped.pth", {"model": {f"backbone.{k}": v for k, v in state.items()}})
    for name in ("b.safetensors", "wrapped.pth"):
        predictor = load_segmentor(files / "head.pth", backbone=files / name, device="cpu")
        np.testing.assert_array_equal(predictor.predict(image()).label, expected)


def test_the_originals_form_is_read(files):
    content = torch.load(files / "head.pth", weights_only=True)
    del content["rein"]
    write_file(files / "original.pth", content)
    read = read_checkpoint(files / "original.pth")
    assert read.settings is None
    predictor = load_segmentor(
        files / "original.pth", backbone=files / "backbone.pth", settings=tiny.settings(), device="cpu"
    )
    assert predictor.predict(image()).label.shape == (70, 90)
    with pytest.raises(ReinError, match="fits no preset"):
        load_segmentor(files / "original.pth", backbone=files / "backbone.pth", device="cpu")


def test_backbone_missing(files):
    with pytest.raises(ReinError, match=r"no weights file at '.*nowhere.pth'"):
        load_segmentor(files / "head.pth", backbone=files / "nowhere.pth", device="cpu")
    with pytest.raises(ReinError, match="No weights of the backbone 'vit'"):
        load_segmentor(files / "head.pth", device="cpu")


def test_backbone_of_another_size(files):
    tiny.write_backbone(files / "wide.pth", tiny.settings("model.backbone.width=48"))
    with pytest.raises(ReinError, match=r"width 48.*needs vit \(4 blocks of width 32\)"):
        load_segmentor(files / "head.pth", backbone=files / "wide.pth", device="cpu")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["data.augment.crop=40"], "40 is not a multiple of the patch size 16"),
        (["data.augment.crop=16"], "less than two patches"),
        (["data.augment.crop=48"], "each of the 32 groups .* has a single value"),
        (["data.augment.crop=48", "model.head.channels=64"], None),
    ],
)
def test_a_crop_that_the_head_cannot_take_is_named(sets, message):
    with nullcontext() if message is None else pytest.raises(ReinError, match=message):
        build_model(tiny.settings(*sets), 3)


def test_backbone_of_another_family(files):
    write_file(files / "sam.pth", {"image_encoder.pos_embed": torch.zeros(1, 4, 4, 8)})
    with pytest.raises(ReinError, match="looks like a part of SAM"):
        load_segmentor(files / "head.pth", backbone=files / "sam.pth", device="cpu")


def test_head_given_as_backbone_and_backbone_as_head(files):
    content = torch.load(files / "head.pth", weights_only=True)["state_dict"]
    write_file(files / "h.pth", {k: v for k, v in content.items() if k.startswith("decode_head.")})
    with pytest.raises(ReinError, match="adapters and head, not a backbone"):
        load_segmentor(files / "head.pth", backbone=files / "h.pth", device="cpu")
    with pytest.raises(ReinError, match="no segmentation head"):
        load_segmentor(files / "backbone.pth", backbone=files / "backbone.pth", device="cpu")


def test_head_with_another_number_of_classes(files, tmp_path):
    own = tiny.settings(data=tiny.own_data(tmp_path))
    read, model = read_checkpoint(files / "head.pth"), tiny.model(own)
    with pytest.raises(ReinError, match="trained for 19 classes, but the settings have 3"):
        load_trained(model, read)


@pytest.mark.parametrize("side", [128, 96])
def test_backbone_for_another_input_size_is_resampled_and_says_so(files, side):
    tiny.write_backbone(files / "other.pth", tiny.settings(f"data.augment.crop={side}"))
    predictor = load_segmentor(files / "head.pth", backbone=files / "other.pth", device="cpu")
    assert len(predictor.notes) == 1
    assert f"{side // 16}x{side // 16} positions" in predictor.notes[0]
    assert "resampled to 4x4" in predictor.notes[0]


def test_conversion_on_load_equals_converting_first(files):
    raw = tiny.settings("data.augment.crop=126", "model.backbone.patch_size=14")
    tiny.write_backbone(files / "raw.pth", raw)
    direct = tiny.model(tiny.settings())
    load_backbone(direct, files / "raw.pth")
    state = torch.load(files / "raw.pth", weights_only=True)
    state, facts = foundation.recognise_backbone(state, "raw.pth")
    assert (facts.patch, facts.grid) == (14, (9, 9))
    write_file(files / "converted.pth", foundation.convert_backbone(state, facts, (4, 4), 16))
    converted = tiny.model(tiny.settings())
    assert load_backbone(converted, files / "converted.pth") == []
    for name, value in direct.backbone.state_dict().items():
        assert torch.equal(value, converted.backbone.state_dict()[name]), name


def test_names_left_over_and_missing_are_listed(files):
    content = torch.load(files / "head.pth", weights_only=True)
    moved = content["state_dict"].pop("decode_head.cls_embed.bias")
    content["state_dict"]["decode_head.extra.bias"] = moved
    write_file(files / "odd.pth", content)
    with pytest.raises(ReinError) as caught:
        load_segmentor(files / "odd.pth", backbone=files / "backbone.pth", device="cpu")
    assert "1 missing: mask_decoder.class_head.bias" in str(caught.value)
    assert "1 left over: decode_head.extra.bias" in str(caught.value)


def test_a_backbone_of_the_right_size_and_another_family(files):
    """DINOv3's names in a model of DINOv2: the same width and depth do not make it fit."""
    state = torch.load(files / "backbone.pth", weights_only=True)
    del state["pos_embed"]
    state["storage_tokens"] = torch.zeros(1, 4, 32)
    write_file(files / "dinov3.pth", state)
    with pytest.raises(ReinError, match=r"is another DINOv3 \(4 blocks of width 32\).* needs vit"):
        load_segmentor(files / "head.pth", backbone=files / "dinov3.pth", device="cpu")


def test_an_original_checkpoint_with_its_backbone_needs_no_file(files):
    chosen = tiny.settings("model.tune=frozen")
    model = tiny.model(chosen)
    write_file(files / "frozen.pth", original_content(model, CITYSCAPES, 5))
    predictor = load_segmentor(files / "frozen.pth", settings=chosen, device="cpu")
    model.merge_gains()  # as the predictor does
    state, ours = predictor.model.state_dict(), model.state_dict()
    assert all(torch.equal(state[name], ours[name]) for name in ours)
