"""Reading and writing weights: safe, strict, whole; each way it can go wrong has its own words."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import reference
import tiny
import torch

from reincli.engine import checkpoint as checkpoints
from reincli.errors import ReinError
from reincli.model import foundation, weights
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
    checkpoints.write_file(files / "b.safetensors", state)
    checkpoints.write_file(files / "wrapped.pth", {"model": {f"backbone.{k}": v for k, v in state.items()}})
    for name in ("b.safetensors", "wrapped.pth"):
        predictor = load_segmentor(files / "head.pth", backbone=files / name, device="cpu")
        np.testing.assert_array_equal(predictor.predict(image()).label, expected)


def test_the_originals_form_is_read(files):
    content = torch.load(files / "head.pth", weights_only=True)
    del content["rein"]
    checkpoints.write_file(files / "original.pth", content)
    read = checkpoints.read_checkpoint(files / "original.pth")
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


def test_backbone_of_another_family(files):
    checkpoints.write_file(files / "sam.pth", {"image_encoder.pos_embed": torch.zeros(1, 4, 4, 8)})
    with pytest.raises(ReinError, match="looks like a part of SAM"):
        load_segmentor(files / "head.pth", backbone=files / "sam.pth", device="cpu")


def test_head_given_as_backbone_and_backbone_as_head(files):
    content = torch.load(files / "head.pth", weights_only=True)["state_dict"]
    checkpoints.write_file(
        files / "h.pth", {k: v for k, v in content.items() if k.startswith("decode_head.")}
    )
    with pytest.raises(ReinError, match="adapters and head, not a backbone"):
        load_segmentor(files / "head.pth", backbone=files / "h.pth", device="cpu")
    with pytest.raises(ReinError, match="no segmentation head"):
        load_segmentor(files / "backbone.pth", backbone=files / "backbone.pth", device="cpu")


def test_head_with_another_number_of_classes(files, tmp_path):
    own = tiny.settings(data=tiny.own_data(tmp_path))
    read, model = checkpoints.read_checkpoint(files / "head.pth"), tiny.model(own)
    with pytest.raises(ReinError, match="trained for 19 classes, but the settings have 3"):
        checkpoints.load_trained(model, read)


@pytest.mark.parametrize("side", [128, 32])
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
    checkpoints.load_backbone(direct, files / "raw.pth")
    state = torch.load(files / "raw.pth", weights_only=True)
    state, facts = foundation.recognise_backbone(state, "raw.pth")
    assert (facts.patch, facts.grid) == (14, (9, 9))
    checkpoints.write_file(files / "converted.pth", foundation.convert_backbone(state, facts, (4, 4), 16))
    converted = tiny.model(tiny.settings())
    assert checkpoints.load_backbone(converted, files / "converted.pth") == []
    for name, value in direct.backbone.state_dict().items():
        assert torch.equal(value, converted.backbone.state_dict()[name]), name


def test_names_left_over_and_missing_are_listed(files):
    content = torch.load(files / "head.pth", weights_only=True)
    moved = content["state_dict"].pop("decode_head.cls_embed.bias")
    content["state_dict"]["decode_head.extra.bias"] = moved
    checkpoints.write_file(files / "odd.pth", content)
    with pytest.raises(ReinError) as caught:
        load_segmentor(files / "odd.pth", backbone=files / "backbone.pth", device="cpu")
    assert "1 missing: mask_decoder.class_head.bias" in str(caught.value)
    assert "1 left over: decode_head.extra.bias" in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_cut_short(files, suffix):
    whole = files / f"whole{suffix}"
    checkpoints.write_file(whole, torch.load(files / "backbone.pth", weights_only=True))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ReinError, match="cannot be read as weights") as caught:
        checkpoints.read_file(whole)
    assert "fetch it again" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"hello, I am text\n", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_a_file_that_is_no_weights(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(ReinError, match=r"x\.pth"):
        checkpoints.read_file(path)


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, form):
    path, trace = tmp_path / "bomb.pth", tmp_path / "it-ran"
    content = {"state_dict": {"a": torch.zeros(1)}, "bomb": Bomb(str(trace))}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ReinError, match="refused and nothing was run"):
        checkpoints.read_file(path)
    assert not trace.exists()


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(ReinError, match="is a folder"):
        checkpoints.read_file(tmp_path)
    with pytest.raises(ReinError, match="no weights file"):
        checkpoints.read_file(tmp_path / "none.pth")


def test_a_full_disk_leaves_the_old_file(files, monkeypatch):
    before = (files / "head.pth").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReinError, match="No space left"):
        checkpoints.write_file(files / "head.pth", {"a": torch.zeros(1000)})
    assert (files / "head.pth").read_bytes() == before
    assert sorted(path.name for path in files.iterdir()) == ["backbone.pth", "head.pth"]


RECOGNISED = {
    "rein_dinov2_s_512": "gta2citys-vit_s", "rein_clip_l_512": "gta2citys-clip_l",
    "rein_sam_h_512": "gta2citys-sam_h", "rein_resnet50_512": "gta2citys-resnet50",
    "rein_resnet101_512": "gta2citys-resnet101", "rein_convnext_l_512": "gta2citys-convnext_l",
    "frozen_clip_l_512": "gta2citys-clip_l-frozen",
}  # fmt: skip


def originals(variant: str, path: Path, *, whole: bool = False) -> checkpoints.Checkpoint:
    """A checkpoint of the original's, as read, without numbers."""
    model = reference.on_meta(variant)
    state = checkpoints.original_state(model) if whole else model.trained_state()
    return checkpoints.Checkpoint(path, weights.from_original(state) if whole else state, None, None, None)


SLOWLY = ("rein_clip_l_512", "rein_convnext_l_512", "rein_resnet101_512", "frozen_clip_l_512")


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=[pytest.mark.slow] * (v in SLOWLY)) for v in RECOGNISED]
)
def test_the_setting_of_an_originals_checkpoint_is_recognised(variant):
    read = originals(variant, Path("x.pth"))
    assert checkpoints.settings_for(read, None).name == RECOGNISED[variant]


def test_families_of_one_shape_are_told_apart_by_the_backbone(tmp_path):
    frozen = originals("frozen_dinov2_l_512", Path("x.pth"))
    with pytest.raises(ReinError, match="fits gta2citys-eva02_l-frozen, gta2citys-frozen") as caught:
        checkpoints.settings_for(frozen, None)
    assert caught.value.usage
    inside = originals("frozen_dinov2_l_512", Path("x.pth"), whole=True)
    assert checkpoints.settings_for(inside, None).name == "gta2citys-frozen"
    names = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.23.attn.q_bias",
             "blocks.0.attn.q_bias", "blocks.0.mlp.w1.weight")  # fmt: skip
    numbers = [int(name.split(".")[1]) for name in names if name.startswith("blocks.")]
    state = {
        name: torch.zeros(1, 257, 8) if name == "pos_embed" else torch.zeros(1024, 3, 1, 1) for name in names
    }
    state |= {f"blocks.{number}.norm1.weight": torch.zeros(1) for number in range(max(numbers) + 1)}
    checkpoints.write_file(tmp_path / "eva.pth", {"model": state})
    found = checkpoints.settings_for(frozen, None, tmp_path / "eva.pth")
    assert found.name == "gta2citys-eva02_l-frozen"


def large_dinov2(side: int) -> dict[str, torch.Tensor]:
    """Names and shapes by which a converted file of the large model is known."""
    state = {f"blocks.{number}.ls1.gamma": torch.zeros(1) for number in range(24)}
    names = ("cls_token", "blocks.0.attn.qkv.weight")
    return state | {name: torch.zeros(1) for name in names} | {
        "pos_embed": torch.zeros(1, side * side + 1, 1), "patch_embed.proj.weight": torch.zeros(1024, 1, 16, 16),
    }  # fmt: skip


def test_a_converted_file_in_its_usual_place_tells_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read, usual = originals("rein_dinov2_l_512", Path("x.pth")), tmp_path / "checkpoints"
    with pytest.raises(ReinError, match="fits citys16th2citys, citys2acdc, citys2acdc-512, "):
        checkpoints.settings_for(read, None)
    checkpoints.write_file(usual / "dinov2_converted.pth", large_dinov2(32))
    found = checkpoints.settings_for(read, None)
    assert (found.data.augment.crop, found.model.backbone.name) == (512, "dinov2_l")
    (usual / "dinov2_converted.pth").unlink()
    checkpoints.write_file(usual / "dinov2_converted_1024x1024.pth", large_dinov2(64))
    with pytest.raises(ReinError, match="fits citys16th2citys, citys2acdc, citys2citysc, gta_synthia_urb"):
        checkpoints.settings_for(read, None)  # these differ in their test sizes


def test_a_backbone_of_the_right_size_and_another_family(files):
    """DINOv3's names in a model of DINOv2: the same width and depth do not make it fit."""
    state = torch.load(files / "backbone.pth", weights_only=True)
    del state["pos_embed"]
    state["storage_tokens"] = torch.zeros(1, 4, 32)
    checkpoints.write_file(files / "dinov3.pth", state)
    with pytest.raises(ReinError, match=r"is another DINOv3 \(4 blocks of width 32\).* needs vit"):
        load_segmentor(files / "head.pth", backbone=files / "dinov3.pth", device="cpu")


def test_an_original_checkpoint_with_its_backbone_needs_no_file(files):
    chosen = tiny.settings("model.tune=frozen")
    model = tiny.model(chosen)
    from reincli.data.labels import CITYSCAPES

    checkpoints.write_file(files / "frozen.pth", checkpoints.original_content(model, CITYSCAPES, 5))
    predictor = load_segmentor(files / "frozen.pth", settings=chosen, device="cpu")
    model.merge_gains()  # as the predictor does
    state, ours = predictor.model.state_dict(), model.state_dict()
    assert all(torch.equal(state[name], ours[name]) for name in ours)
