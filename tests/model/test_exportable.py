"""What a file holds: the model's own answers, in operators that every runtime has."""

from __future__ import annotations

import pytest
import tiny
import torch

from reincli.model.exportable import Exportable
from reincli.model.segmentor import class_maps
from reincli.ops.deformable import sample_gathered, sample_plain
from reincli.settings_files import build_settings


def test_gathering_is_sampling():
    torch.manual_seed(0)
    shapes = [(3, 5), (7, 4)]
    value = torch.randn(2, 15 + 28, 2, 8)
    locations = torch.rand(2, 6, 2, 2, 3, 2) * 1.6 - 0.3
    weights = torch.rand(2, 6, 2, 2, 3)
    expected = sample_plain(value, shapes, locations, weights)
    torch.testing.assert_close(
        sample_gathered(value, shapes, locations, weights), expected, rtol=1e-4, atol=1e-5
    )


def model_of(*sets):
    torch.manual_seed(0)
    return tiny.model(tiny.settings(*sets)).eval()


@pytest.mark.parametrize("head", ["mask2former", "plain"])
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_the_answers_are_the_models(size, head):
    kind = f"model.head.kind={head}"
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        model = model_of(kind)
        scores = class_maps(model(model.normalise(images), every_round=False), size)
        found = Exportable(model_of(kind), size, "scores", "nchw")(images)
        torch.testing.assert_close(found, scores, rtol=1e-4, atol=1e-4)
        turned = Exportable(model_of(kind), size, "labels", "nhwc")(images.permute(0, 2, 3, 1))
        classes, masks = Exportable(model_of(kind), size, "queries", "nchw")(images)
    assert (turned == scores.argmax(1)).float().mean() > 0.999
    assert turned.dtype == torch.uint8
    assert classes.shape[:2] == masks.shape[:2] == (2, 12)


BACKBONES = {
    "dinov2": {},
    "frozen": {"tune": "frozen"},
    "plain": {"head": {**tiny.RAW["model"]["head"], "kind": "plain"}},
    "timm": {"backbone": {"name": "vit_tiny_patch16_224"}},
    "rotary": {"backbone": {"name": "eva02_tiny_patch14_224"}},
    "cnn": {"backbone": {"name": "resnet18"}},
    "sam": {"backbone": {"name": "samvit_base_patch16_224"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("changed", BACKBONES.values(), ids=BACKBONES.keys())
def test_a_program_has_no_operator_that_runtimes_lack(changed):
    torch.manual_seed(0)
    settings = build_settings({**tiny.RAW, "model": {**tiny.RAW["model"], **changed}})
    model = Exportable(tiny.model(settings), (64, 64), "scores", "nchw")
    images = model.example(2)
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    with torch.no_grad():
        program = torch.export.export(model, (images,), dynamic_shapes=dynamic, strict=False)
        expected = model(images[:1])
        torch.testing.assert_close(program.module()(images[:1]), expected, rtol=1e-4, atol=1e-4)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [
        name for name in names if "grid_sampler" in name or "sparse" in name or name.startswith("rein")
    ]
