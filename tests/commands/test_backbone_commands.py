"""Whole commands on backbones of other forms: train, evaluate, write back, convert; what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from terminal import told

from reincli.config import BackboneSettings
from reincli.engine.backbone_files import shipped_path
from reincli.engine.weight_files import read_file, write_file
from reincli.model import foundation
from reincli.model.backbones import build_backbone
from reincli.model.families import FAMILIES
from reincli.model.layouts import LAYOUTS
from reincli.model.timm_import import import_timm
from reincli.settings_files import build_settings, to_toml


@pytest.fixture(params=["test_resnet", pytest.param("test_convnext", marks=pytest.mark.slow)])
def toy(request, tmp_path) -> Path:
    """Toy data, timm's file of a small network, and settings that use them."""
    torch.manual_seed(0)
    tiny.write_toy(tmp_path / "toy")
    write_file(tmp_path / "model.safetensors", import_timm().create_model(request.param).state_dict())
    model = {**tiny.RAW["model"], "backbone": {"name": request.param}}
    data = {**tiny.RAW["data"], **tiny.own_data(tmp_path / "toy")}
    settings = build_settings({**tiny.RAW, "model": model, "data": data}, ["train.iterations=2"])
    (tmp_path / "toy.toml").write_text(to_toml(settings))
    return tmp_path


def test_train_evaluate_and_write_back(toy):
    backbone = ("--backbone", toy / "model.safetensors", "--device", "cpu")
    output = told("train", "--config", toy / "toy.toml", "--work-dir", toy / "run", *backbone)
    assert "Trained:" in output
    original = toy / "original.pth"
    told("convert-weights", toy / "run" / "last.pth", original, "--kind", "original")
    names = set(torch.load(original, weights_only=True)["state_dict"])
    assert {f"backbone.reins.{stage}.learnable_tokens_a" for stage in range(4)} <= names
    scores = []
    for checkpoint in (toy / "run" / "last.pth", original):
        told("eval", checkpoint, "--config", toy / "toy.toml", *backbone, "--json", toy / "s.json")
        scores.append(json.loads((toy / "s.json").read_text())["domains"])
    assert scores[0] == scores[1]


def published_clip(width: int = 8, side: int = 3, patch: int = 14) -> dict[str, torch.Tensor]:
    """A small CLIP as published: two towers, matrices in half precision."""
    block = "visual.transformer.resblocks.0"
    return {
        "positional_embedding": torch.zeros(5, 4),
        "text_projection": torch.zeros(4, 4),
        "visual.class_embedding": torch.randn(width),
        "visual.positional_embedding": torch.randn(side * side + 1, width),
        "visual.conv1.weight": torch.randn(width, 3, patch, patch).half(),
        "visual.ln_pre.weight": torch.ones(width),
        f"{block}.attn.in_proj_weight": torch.randn(3 * width, width).half(),
        "visual.proj": torch.randn(width, 4).half(),
    }


def test_a_published_file_is_converted_by_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path / "ViT.pt", published_clip())
    output = told("convert-weights", "ViT.pt", "out.pth", "--height", "64", "--width", "96")
    assert "another CLIP, patch 14 -> 16, positions 3x3 -> 4x6 (input 96x64)" in output
    converted = torch.load(tmp_path / "out.pth", weights_only=True)
    assert converted["positional_embedding"].shape == (25, 8)
    assert converted["conv1.weight"].shape[-1] == 16
    assert "text_projection" not in converted
    assert {value.dtype for value in converted.values()} == {torch.float32}
    again = told("convert-weights", "out.pth", "again.pth", "--height", "64")
    assert "positions 4x6 -> 4x4" in again  # the shape is read off the positions themselves


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["ViT.pt", "--kind", "sam_h"], 2, "'ViT.pt' is another CLIP, not sam_h."),
        (["ViT.pt", "--kind", "sam_x"], 2, "No kind of weights is named 'sam_x'. Did you mean 'sam_h'"),
        (["--kind", "sam_h"], 1, "Download https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth"),
        (["--kind", "dinov3_b"], 1, "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth from https://ai.meta.com"),
        (["text.pth"], 1, "'text.pth' is no backbone that is known here (its first tensor is 'words')."),
    ],
)  # fmt: skip
def test_what_cannot_be_converted(tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path / "ViT.pt", published_clip())
    write_file(tmp_path / "text.pth", {"words": torch.zeros(2)})
    assert message in told("convert-weights", *words, code=code)


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("blocks.1.norm1.weight", 0, "body.blocks.1.norm1.weight [1] instead of ["),
        ("blocks.0.attn.qkv.weight", 1, "body.blocks.0.attn.qkv.weight ["),
        ("cls_token", 2, "body.cls_token [1, 1, 1] instead of ["),
        ("patch_embed.proj.weight", 2, "patch_embed.proj.weight has the shape ["),
        ("patch_embed.proj.weight", 0, "patch_embed.proj.weight 1."),
        ("pos_embed", 1, "'cut.pth' stores 0 positions"),
        ("blocks.1.mlp.fc1.bias", None, "1 missing: body.blocks.1.mlp.fc1.bias"),
        ("blocks.1.", None, "of its blocks, blocks.1.* is missing."),
    ],
)
def test_a_file_whose_tensors_do_not_belong_together_is_not_converted(
    tmp_path, monkeypatch, name, cut, message
):
    monkeypatch.chdir(tmp_path)
    state = dict(read_file(shipped_path(FAMILIES["mini"])))
    if name.endswith("."):
        state = {each: value for each, value in state.items() if not each.startswith(name)}
    elif cut is None:
        del state[name]
    else:
        whole = state[name]
        state[name] = whole.narrow(cut, 0, 1).clone()
    write_file(Path("cut.pth"), state)
    assert message in told("convert-weights", "cut.pth", "out.pth", "--height", "128", "--patch", "8", code=1)
    assert not Path("out.pth").exists()


@pytest.mark.parametrize("name", [name for name, each in FAMILIES.items() if each.kind in LAYOUTS])
def test_every_family_has_the_shapes_of_its_own_model(name):
    with torch.device("meta"):
        model = build_backbone(BackboneSettings(name=name, patch_size=16), 14)
    published = model.layout.to_original(model.state_dict())
    state, facts = foundation.recognise_backbone(published, name)
    assert facts.name == name
    foundation.require_whole(state, facts, name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dinov2_s", lambda state: state | {"head.weight": torch.empty(9, 384), "head.bias": torch.empty(9)}),
        ("resnet50", lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}),
        ("resnet50", lambda state: {n: v.half() for n, v in state.items()}),
    ],
    ids=["classifier", "no counters", "all in half precision"],
)
def test_what_files_have_more_or_less_of_is_no_fault(name, change):
    with torch.device("meta"):
        model = build_backbone(BackboneSettings(name=name, patch_size=14), 14)
        state, facts = foundation.recognise_backbone(
            change(model.layout.to_original(model.state_dict())), name
        )
    assert facts.name == name
    foundation.require_whole(state, facts, name)


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "pos_embed"])
@pytest.mark.parametrize("shape", [(), (0, 3, 8, 8), (192, 3, 0, 0), (1, 0, 192)])
def test_a_tensor_without_content_is_one_sentence(tmp_path, monkeypatch, name, shape):
    monkeypatch.chdir(tmp_path)
    write_file(Path("cut.pth"), dict(read_file(shipped_path(FAMILIES["mini"]))) | {name: torch.zeros(shape)})
    said = told("convert-weights", "cut.pth", "out.pth", "--height", "128", "--patch", "8", code=1)
    assert f"{name} has the shape {list(shape)}." in said
    assert "Traceback" not in said
