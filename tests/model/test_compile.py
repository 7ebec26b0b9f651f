"""torch.compile takes the whole model in one piece, and equal sizes compile once."""

from __future__ import annotations

import logging

import pytest
import tiny
import torch
from torch._dynamo.testing import CompileCounter

from reincli.data.labels import CITYSCAPES
from reincli.model.mask_decoder import Predictions
from reincli.model.plain_decoder import MaskDraws
from reincli.prediction.predict import Predictor


@pytest.fixture(autouse=True)
def _forget(caplog):
    caplog.set_level(logging.CRITICAL, logger="torch.__trace")  # thousands of lines for another tool
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def close(ours: Predictions, plain: Predictions) -> None:
    for name in ("class_logits", "mask_embeddings", "mask_features"):
        torch.testing.assert_close(getattr(ours, name), getattr(plain, name), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_is_one_graph_compiled_once_a_size():
    """`fullgraph` refuses any break. The second batch of a size, and of other numbers, compiles nothing."""
    model = tiny.model(tiny.settings()).train()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, dynamic=False, fullgraph=True)
    for seed, size in enumerate([(64, 64), (64, 64), (32, 64), (64, 64), (32, 64)]):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
        ours = compiled(images)
        close(ours, model(images))
    assert counter.frame_count == 2
    ours.class_logits.sum().backward()
    assert model.rein.tokens_a.grad is not None


@pytest.mark.parametrize("head", ["mask2former", "plain"])
def test_inference_is_one_graph_compiled_once_a_size(monkeypatch, head):
    chosen = tiny.settings(f"model.head.kind={head}")
    plain = Predictor(tiny.model(chosen), CITYSCAPES, chosen, torch.device("cpu"), "fp32")
    counter, compiler = CompileCounter(), torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: compiler(model, backend=counter, fullgraph=True, **options)
    )
    fused = tiny.settings(f"model.head.kind={head}", "test.compile=true")
    predictor = Predictor(tiny.model(chosen), CITYSCAPES, fused, torch.device("cpu"), "fp32")
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(
            0, 256, (3, 64, 107), dtype=torch.uint8, generator=generator
        )  # two windows of 64
        expected = plain.class_maps(image)
        torch.testing.assert_close(predictor.class_maps(image), expected, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_the_plain_head_trains_in_one_graph_while_its_masks_change():
    model = tiny.model(tiny.settings("model.head.kind=plain")).train()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, dynamic=False, fullgraph=True)
    for seed in range(3):
        torch.manual_seed(seed)
        draws = MaskDraws(torch.rand(6, 2, 12) > 0.5, torch.tensor(0.5 + seed))
        images = torch.randn(2, 3, 64, 64)
        close(compiled(images, draws=draws), model(images, draws=draws))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_recomputed_activations_compile_in_one_piece_too():
    model = tiny.model(tiny.settings()).train()
    model.recompute = True
    compiled = torch.compile(model, backend="eager", dynamic=False, fullgraph=True)
    images = torch.randn(1, 3, 64, 64)
    close(compiled(images), model(images))


@pytest.mark.slow
def test_a_backbone_that_timm_runs_stays_as_it_is_and_the_head_compiles_once():
    chosen = tiny.settings("model.backbone={name='resnet10t'}", "test.compile=true")
    predictor = Predictor(tiny.model(chosen), CITYSCAPES, chosen, torch.device("cpu"), "fp32")
    counter = CompileCounter()
    predictor.network = torch.compile(predictor.model, backend=counter, dynamic=False)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        found = [predictor._scores(images) for _ in range(3)]
        counted = counter.frame_count
        predictor.network = predictor.model
        torch.testing.assert_close(found[-1], predictor._scores(images), rtol=1e-4, atol=1e-4)
    assert counted <= 2  # what lies before the backbone, and what lies behind it


def test_models_are_compiled_where_the_settings_say_so_alone(monkeypatch):
    seen: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: seen.append(model) or model)
    chosen = tiny.settings()
    Predictor(tiny.model(chosen), CITYSCAPES, chosen, torch.device("cpu"), "fp32")
    assert not seen
    fused = tiny.settings("test.compile=true")
    Predictor(tiny.model(chosen), CITYSCAPES, fused, torch.device("cpu"), "fp32", in_training=True)
    assert not seen  # weights that train on would be compiled anew at every validation
    Predictor(tiny.model(chosen), CITYSCAPES, fused, torch.device("cpu"), "fp32")
    assert len(seen) == 1
