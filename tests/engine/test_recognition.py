"""Which preset an original's checkpoint was trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
import reference
import torch

from reincli.engine.checkpoint import Checkpoint, original_state, settings_for
from reincli.engine.weight_files import write_file
from reincli.errors import ReinError
from reincli.model import weights

RECOGNISED = {
    "rein_dinov2_s_512": "gta2citys-vit_s", "rein_clip_l_512": "gta2citys-clip_l",
    "rein_sam_h_512": "gta2citys-sam_h", "rein_resnet50_512": "gta2citys-resnet50",
    "rein_resnet101_512": "gta2citys-resnet101", "rein_convnext_l_512": "gta2citys-convnext_l",
    "frozen_clip_l_512": "gta2citys-clip_l-frozen",
}  # fmt: skip


def originals(variant: str, path: Path, *, whole: bool = False) -> Checkpoint:
    """A checkpoint of the original's, as read, without numbers."""
    model = reference.on_meta(variant)
    state = original_state(model) if whole else model.trained_state()
    return Checkpoint(path, weights.from_original(state) if whole else state, None, None, None)


SLOWLY = ("rein_clip_l_512", "rein_convnext_l_512", "rein_resnet101_512", "frozen_clip_l_512")


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=[pytest.mark.slow] * (v in SLOWLY)) for v in RECOGNISED]
)
def test_the_setting_of_an_originals_checkpoint_is_recognised(variant):
    read = originals(variant, Path("x.pth"))
    assert settings_for(read, None).name == RECOGNISED[variant]


def test_families_of_one_shape_are_told_apart_by_the_backbone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frozen = originals("frozen_dinov2_l_512", Path("x.pth"))
    notes: list[str] = []
    assert (
        settings_for(frozen, None, notes=notes).name == "gta2citys-frozen"
    )  # its backbone is asked for next
    assert "it fits gta2citys-eva02_l-frozen too. --preset NAME takes another" in notes[0]
    with pytest.raises(ReinError, match=r"gta2citys-frozen .*; gta2citys-eva02_l-frozen") as caught:
        settings_for(frozen, None, scored=[])
    assert caught.value.usage
    inside = originals("frozen_dinov2_l_512", Path("x.pth"), whole=True)
    assert settings_for(inside, None).name == "gta2citys-frozen"
    names = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.23.attn.q_bias",
             "blocks.0.attn.q_bias", "blocks.0.mlp.w1.weight")  # fmt: skip
    numbers = [int(name.split(".")[1]) for name in names if name.startswith("blocks.")]
    state = {
        name: torch.zeros(1, 257, 8) if name == "pos_embed" else torch.zeros(1024, 3, 1, 1) for name in names
    }
    state |= {f"blocks.{number}.norm1.weight": torch.zeros(1) for number in range(max(numbers) + 1)}
    write_file(tmp_path / "eva.pth", {"model": state})
    found = settings_for(frozen, None, tmp_path / "eva.pth")
    assert found.name == "gta2citys-eva02_l-frozen"


def large_dinov2(side: int, patch: int = 16) -> dict[str, torch.Tensor]:
    """Names and shapes by which a file of the large model is known."""
    state = {f"blocks.{number}.ls1.gamma": torch.zeros(1) for number in range(24)}
    names = ("cls_token", "blocks.0.attn.qkv.weight")
    return state | {name: torch.zeros(1) for name in names} | {
        "pos_embed": torch.zeros(1, side * side + 1, 1),
        "patch_embed.proj.weight": torch.zeros(1024, 1, patch, patch),
    }  # fmt: skip


RAW, SMALL, LARGE = "dinov2_vitl14_pretrain.pth", "dinov2_converted.pth", "dinov2_converted_1024x1024.pth"
FILES = {RAW: large_dinov2(37, 14), SMALL: large_dinov2(32), LARGE: large_dinov2(64)}


@pytest.mark.parametrize(
    ("files", "preset"),
    [
        ([RAW], "gta2citys"),
        ([SMALL], "gta2citys"),
        ([RAW, SMALL], "gta2citys"),
        ([SMALL, LARGE], "gta2citys"),
        ([RAW, LARGE], "citys2acdc"),
        ([LARGE], "citys2acdc"),
    ],
)
def test_files_in_their_usual_places_decide_family_and_size(tmp_path, monkeypatch, files, preset):
    """Where they leave it open, the main setting is taken, and a line says so."""
    monkeypatch.chdir(tmp_path)
    for name in files:
        write_file(tmp_path / "checkpoints" / name, FILES[name])
    notes: list[str] = []
    found = settings_for(originals("rein_dinov2_l_512", Path("x.pth")), None, notes=notes)
    assert (found.name, found.model.backbone.name) == (preset, "dinov2_l")
    assert f"taken for {preset}, dinov2_l at " in notes[0]
    assert files[0] in notes[0]
    assert "--preset NAME" in notes[0]


@pytest.mark.parametrize(
    ("file", "data", "preset"),
    [
        (RAW, [], "gta2citys"),
        (SMALL, ["cityscapes:val"], "gta2citys"),
        (SMALL, ["acdc:night"], "citys2acdc-512"),
        (LARGE, ["acdc:val", "cityscapes:val"], "citys2acdc"),
        (LARGE, ["cityscapes-c:severity3"], "citys2citysc"),
        (LARGE, ["cityscapes:val"], "citys2acdc"),
        (RAW, ["bdd100k:val"], "gta2citys"),
    ],
)
def test_scoring_takes_the_preset_that_tests_on_the_data(tmp_path, monkeypatch, file, data, preset):
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path / "checkpoints" / file, FILES[file])
    assert settings_for(originals("rein_dinov2_l_512", Path("x")), None, scored=data).name == preset


def test_scoring_asks_where_sizes_differ(tmp_path, monkeypatch):
    """The raw file fits both recipes, which score Cityscapes at different sizes."""
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path / "checkpoints" / RAW, FILES[RAW])
    read = originals("rein_dinov2_l_512", Path("x.pth"))
    with pytest.raises(ReinError, match=r"cityscapes at 1024x512.*cityscapes at 2048x1024") as caught:
        settings_for(read, None, scored=["cityscapes:val"])
    assert caught.value.usage
    assert "--preset gta2citys" in caught.value.hint
