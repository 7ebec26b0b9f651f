"""Backbones of all forms through the whole program: checkpoints, files, prediction, half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from reincli.config import BackboneSettings
from reincli.data.sources import classes_of
from reincli.engine.checkpoint import build_model, checkpoint_content
from reincli.engine.weight_files import write_file
from reincli.model import foundation
from reincli.model.families import Family
from reincli.model.layouts import LAYOUTS
from reincli.model.timm_import import import_timm
from reincli.model.vit import ViT, strip
from reincli.prediction.predict import load_segmentor
from reincli.settings_files import build_settings

timm = import_timm()
NAMES = ["test_resnet", "test_convnext", "test_vit3"]


@pytest.fixture(params=NAMES)
def trained(request, tmp_path) -> Path:
    """A checkpoint of adapters and head beside timm's own file of the backbone."""
    chosen = tiny.settings("model.backbone.width=32")
    raw = {**tiny.RAW, "model": {**tiny.RAW["model"], "backbone": {"name": request.param}}}
    chosen = build_settings(raw)
    torch.manual_seed(0)
    model = build_model(chosen, 19)
    content = checkpoint_content(model, chosen, classes_of(chosen.data), 0, None)
    write_file(tmp_path / "head.pth", content)
    write_file(tmp_path / "body.safetensors", timm.create_model(request.param).state_dict())
    return tmp_path


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_and_timms_file_predict_at_any_size(trained, precision):
    predictor = load_segmentor(
        trained / "head.pth", backbone=trained / "body.safetensors", device="cpu", precision=precision
    )
    for mode in ("slide", "whole"):
        assert predictor.predict(image(), mode=mode).label.shape == (70, 90)


def test_a_whole_checkpoint_holds_the_backbone_and_brings_it_back(tmp_path):
    raw = {**tiny.RAW, "model": {**tiny.RAW["model"], "tune": "full", "backbone": {"name": "test_convnext"}}}
    chosen = build_settings(raw)
    torch.manual_seed(0)
    model = build_model(chosen, 19)
    content = checkpoint_content(model, chosen, classes_of(chosen.data), 0, None)
    write_file(tmp_path / "whole.pth", content)
    again = load_segmentor(tmp_path / "whole.pth", device="cpu", precision="fp32").model
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


# --- DINOv3, as Meta and as timm name it -------------------------------------------------------------------


def small_dinov3() -> ViT:
    body = timm.create_model(
        "vit_small_patch16_dinov3_qkvb",
        img_size=64,
        embed_dim=32,
        depth=3,
        num_heads=2,
        dynamic_img_size=True,
    )
    strip(body)
    family = Family("dinov3", "", (32,) * 4, (3,), 2, (0, 1, 2, 2))
    return ViT(BackboneSettings(name="dinov3_s"), family, body, (4, 4)).eval()


def filled(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def test_metas_names_and_timms_give_one_model():
    filled_model = filled(small_dinov3())
    layout = LAYOUTS["dinov3"]
    meta = layout.to_original(filled_model.state_dict())
    assert {"cls_token", "storage_tokens", "blocks.2.attn.qkv.bias", "blocks.0.ls2.gamma"} <= set(meta)
    assert meta["blocks.0.attn.qkv.bias"][32:64].abs().max() == 0  # the bias of the keys is masked there
    meta |= {
        "mask_token": torch.zeros(1, 32), "rope_embed.periods": torch.zeros(4), "norm.weight": torch.ones(32),
        "norm.bias": torch.zeros(32), "blocks.0.attn.qkv.bias_mask": torch.ones(96),
    }  # fmt: skip
    in_timms = {name.removeprefix("body."): value for name, value in filled_model.state_dict().items()}
    in_timms |= {"norm.weight": torch.ones(32), "norm.bias": torch.zeros(32)}
    expected = filled_model(torch.ones(1, 3, 32, 64))
    for given in (meta, in_timms):
        state, facts = foundation.recognise_backbone(given, "x.pth")
        assert (facts.layout.kind, facts.width, facts.depth, facts.grid) == ("dinov3", 32, 3, None)
        model = small_dinov3()
        model.load_state_dict(layout.to_ours(state))
        for ours, theirs in zip(model(torch.ones(1, 3, 32, 64)), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_timms_file_without_biases_has_zeros():
    given = timm.create_model("vit_small_patch16_dinov3", embed_dim=32, depth=3, num_heads=2).state_dict()
    state, _ = foundation.recognise_backbone(given, "x.safetensors")
    ours = LAYOUTS["dinov3"].to_ours(state)
    assert set(ours) == set(small_dinov3().state_dict())
    assert ours["body.blocks.1.attn.v_bias"].abs().max() == 0
