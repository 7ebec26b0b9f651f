"""Learning rates, decay groups and three steps of the optimiser against the reference figures."""

from __future__ import annotations

import json

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from reincli.config import OptimSettings
from reincli.model.criterion import mask2former_loss, targets_of
from reincli.model.weights import to_original
from reincli.training.optim import build_optimizer, learning_rate, set_learning_rate

RECIPES = {
    "rein_dinov2_l_512": OptimSettings(),
    "rein_dinov2_l_1024": OptimSettings(lr=6e-5, warmup_iterations=10_000),
}


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_learning_rate_of_every_recorded_iteration(oracle, recipe):
    recorded = json.loads((oracle / "lr_schedules.json").read_text())[recipe]["lr"]
    assert len(recorded) > 80
    for iteration, value in recorded.items():
        ours = learning_rate(RECIPES[recipe], int(iteration), 40_000)
        assert ours == pytest.approx(value, rel=1e-9, abs=1e-20), iteration


@given(st.integers(2, 500), st.integers(0, 499), st.floats(1e-6, 1e-2))
def test_learning_rate_stays_between_zero_and_the_base(iterations, iteration, base):
    settings = OptimSettings(lr=base, warmup_iterations=iterations // 3)
    assert 0 <= learning_rate(settings, min(iteration, iterations - 1), iterations) <= base * (1 + 1e-12)
    assert learning_rate(settings, iterations - 1, iterations) == pytest.approx(0, abs=base * 1e-6)


VARIANTS = [
    "rein_dinov2_l_512", "frozen_dinov2_l_512", "full_dinov2_l_512",
    "rein_eva02_l_512", "frozen_clip_l_512", "rein_resnet50_512",
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_decay_of_every_parameter(oracle, variant):
    recorded = json.loads((oracle / f"optim_{variant}.json").read_text())
    table = next(value for value in recorded.values() if isinstance(value, dict) and len(value) > 100)
    model = reference.on_meta(variant)
    original = reference.original_names(model)
    ours = {original[name]: 0.05 if decays else 0.0 for name, _, decays in model.decays()}
    expected = {name: entry["weight_decay"] for name, entry in table.items()}
    expected.pop("backbone.mask_token", None)  # nothing reads it, so this model does not have it
    assert ours == expected
    assert {entry["lr"] for entry in table.values()} == {OptimSettings().lr}


@pytest.mark.slow
def test_three_steps_of_training(oracle):
    notes = json.loads((oracle / "train_trace_rein_dinov2_s_256.json").read_text())
    model = reference.build("rein_dinov2_s_512").train()
    settings = OptimSettings()
    optimizer = build_optimizer(model, settings)
    start = to_original(model.trained_state(), model.backbone.layout)
    before = {name: value.clone() for name, value in start.items()}
    images = torch.stack([reference.image(256, 256, 777), reference.image(256, 256, 778)])
    targets = targets_of(torch.stack([reference.label(256, 256, 501), reference.label(256, 256, 502)]), 19)
    for step in notes["steps"]:
        set_learning_rate(optimizer, learning_rate(settings, step["iter"], 40_000))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(step["lr"][0], rel=1e-12)
        points = reference.points(600_000 + 1000 * step["iter"], 2, True)
        losses, _ = mask2former_loss(model(model.normalise(images)), targets, points)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        bound = [1e-4, 1e-3, 1e-2][step["iter"]]  # rounding grows step by step
        for name, value in step["logs"].items():
            if name != "loss":
                assert losses[name.removeprefix("decode.")].item() == pytest.approx(value, rel=bound), name
    after = to_original(model.trained_state(), model.backbone.layout)
    deltas = {name: (after[name] - before[name]).norm().item() for name in after}
    for name, value in notes["param_delta_l2_after_3_steps"].items():
        assert deltas[name] == pytest.approx(value, rel=2e-2, abs=1e-9), name
