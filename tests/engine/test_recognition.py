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


def test_families_of_one_shape_are_told_apart_by_the_backbone(tmp_path):
    frozen = originals("frozen_dinov2_l_512", Path("x.pth"))
    with pytest.raises(ReinError, match="fits gta2citys-eva02_l-frozen, gta2citys-frozen") as caught:
        settings_for(frozen, None)
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
        settings_for(read, None)
    write_file(usual / "dinov2_converted.pth", large_dinov2(32))
    found = settings_for(read, None)
    assert (found.data.augment.crop, found.model.backbone.name) == (512, "dinov2_l")
    (usual / "dinov2_converted.pth").unlink()
    write_file(usual / "dinov2_converted_1024x1024.pth", large_dinov2(64))
    with pytest.raises(ReinError, match="fits citys16th2citys, citys2acdc, citys2citysc, gta_synthia_urb"):
        settings_for(read, None)  # these differ in their test sizes
