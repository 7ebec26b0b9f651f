"""The whole forward pass against the reference figures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F

from reincli.model.necks import MultiLevelNeck
from reincli.model.segmentor import Segmentor, class_maps

BOUND = 1e-5

QUICK = [("rein_dinov2_s_512", 256, 256), ("rein_dinov2_s_512", 256, 384)]
FULL_SIZE = [
    ("rein_dinov2_s_512", 512, 512),
    ("rein_dinov2_b_512", 512, 512),
    ("rein_dinov2_l_512", 512, 512),
    ("frozen_dinov2_l_512", 512, 512),
    ("rein_dinov2_l_1024", 1024, 1024),
    ("rein_eva02_l_512", 512, 512),
    ("rein_clip_l_512", 512, 512),
    ("rein_clip_l_512", 384, 512),
    ("frozen_clip_l_512", 512, 512),
    ("frozen_clip_l_512", 384, 512),
    ("rein_convnext_l_512", 512, 512),
    ("rein_resnet50_512", 512, 512),
    ("rein_resnet101_512", 512, 512),
    ("rein_resnet50_512_released", 512, 512),
    ("rein_resnet101_512_released", 512, 512),
    ("rein_sam_h_512", 512, 512),
]
LOOSE = {"rein_sam_h_512": 1e-4}
"""The original's own float32 is off by 1.7e-5 there in the maps, and by 6e-5 in the mask logits."""


def encode(model: Segmentor, height: int, width: int, folded: bool) -> dict:
    """Input, backbone maps, link and pixel features: everything before the first attention mask."""
    seen: dict = {}
    model.pixel_decoder.register_forward_hook(lambda module, given, out: seen.update(given=given, pixels=out))
    model.backbone.register_forward_hook(lambda module, given, out: seen.update(maps=out))
    with torch.inference_mode():
        images = model.normalise(reference.image(height, width, 12345)[None])
        rein = model.fold() if folded else model.rein
        model(images, model.fold() if folded else None, every_round=True)
        link = rein.queries() if rein is not None else None
    return {"images": images, "link": link, **seen}


def decode(model: Segmentor, encoded: dict, height: int, width: int) -> dict[str, torch.Tensor]:
    """Every tensor that the figures name."""
    with torch.inference_mode():
        pixels = encoded["pixels"]
        predictions = model.mask_decoder(pixels, encoded["link"], True)
        result = {
            "input_normalised": encoded["images"],
            "mask_features": predictions.mask_features,
            "seg_logits": class_maps(predictions, (height, width)),
        }
        if model.rein is not None:
            result["link_queries"] = model.rein.queries()
        for level, (memory, shape) in enumerate(zip(pixels.memories, pixels.shapes, strict=True)):
            result[f"memory{level}"] = memory.transpose(1, 2).unflatten(2, shape)
        for level, (maps, size) in enumerate(zip(*encoded["given"], strict=True)):
            same = tuple(maps.shape[2:]) == size
            scaled = maps if same else F.interpolate(maps, size, mode="bilinear", align_corners=False)
            frozen = isinstance(model.neck, MultiLevelNeck)  # where the neck is no part of the backbone
            result[f"backbone_feat{level}"] = encoded["maps"][level] if frozen else scaled
            result[f"neck_feat{level}"] = maps
        for index in range(len(predictions.class_logits)):
            result[f"cls_logits{index}"] = predictions.class_logits[index]
            result[f"mask_logits{index}"] = predictions.mask_logits(index)
    return result


def compare(oracle: Path, variant: str, height: int, width: int, folded: bool, monkeypatch) -> None:
    name, bound = f"fwd_{variant}_in{height}x{width}", LOOSE.get(variant, BOUND)
    oracle = oracle if (oracle / f"{name}.npz").exists() else oracle / "more"
    stored, notes = reference.load(oracle, name)
    model = reference.build(variant).eval()
    encoded = encode(model, height, width, folded)
    ties = reference.Ties(monkeypatch)
    errors: dict[str, float] = {}
    ours: dict[str, torch.Tensor] = {}

    def run() -> float:
        ours.update(decode(model, encoded, height, width))
        for key, facts in notes["tensors"].items():
            full = ours[key].numpy()
            assert list(full.shape) == facts["shape"], key
            errors[key] = reference.relative_error(reference.cut(full, facts["slice"]), stored[key])
        return max(errors.values())

    worst = ties.settle(run, bound)
    print(f"{name}: largest relative error {worst:.1e} of {len(errors)}, {len(ties.found)} ties, "
          f"{len(ties.flipped)} turned round")  # fmt: skip
    assert worst < bound, errors
    labels = ours["seg_logits"][0].argmax(0).numpy()
    expected = cv2.imread(str(oracle / f"{name}_argmax.png"), cv2.IMREAD_UNCHANGED)
    assert (labels != expected).mean() <= 1e-4
    centred = ours["seg_logits"][0] - ours["seg_logits"][0].mean((1, 2), keepdim=True)
    varied = cv2.imread(str(oracle / f"{name}_argmax_centred.png"), cv2.IMREAD_UNCHANGED)
    assert (centred.argmax(0).numpy() != varied).mean() <= 1e-4
    assert len(np.unique(varied)) > 3


@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize(("variant", "height", "width"), QUICK)
def test_every_tensor_of_the_forward_pass(oracle, variant, height, width, folded, monkeypatch):
    compare(oracle, variant, height, width, folded, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "height", "width"), FULL_SIZE)
def test_every_tensor_at_full_size(oracle, variant, height, width, monkeypatch):
    compare(oracle, variant, height, width, True, monkeypatch)
