"""Training minor directions: groups and schedules against the reference figures, averages, resuming to the bit."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from test_train import equal, files, start, weights  # noqa: F401  # `files` is a fixture
from torch import nn

from reincli.config import BackboneSettings, ModelSettings, OptimSettings
from reincli.engine.device import DTYPES
from reincli.errors import ReinError
from reincli.model.minor import WHOLE
from reincli.model.minor_files import written_for_soma
from reincli.model.segmentor import Segmentor
from reincli.model.weights import to_original
from reincli.settings_files import load_settings
from reincli.training import train as loop
from reincli.training.ema import Ema
from reincli.training.optim import (
    build_optimizer,
    learning_rate,
    parameter_groups,
    set_schedules,
    weight_decay,
)
from reincli.training.train import train

SOMA = ("model.tune=soma", "model.minor.rank=2", "optim.factors.backbone=0.5", "optim.weight_decay_end=1e-5")
RECIPES = {"gta": "gta2citys-soma", "acdc": "citys2acdc-soma", "c2bm": "citys2bdd_mapillary-soma"}


# --- against the figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "recipe"), [("s", "gta"), ("s", "acdc"), ("l", "gta")])
def test_rate_and_decay_of_every_parameter(oracle, size, recipe):
    path = oracle / "more" / "ext" / f"optim_soma_dinov2_{size}_512_{recipe}.json"
    expected = json.loads(path.read_text())["params"]
    expected.pop("backbone.model.mask_token")  # nothing reads it
    with torch.device("meta"):
        backbone = BackboneSettings(name=f"dinov2_{size}")
        model = Segmentor(ModelSettings(tune="soma", backbone=backbone), 19, 32)
    model.minor.form = WHOLE
    values = {
        id(parameter): {"lr": group["lr"], "weight_decay": group["weight_decay"]}
        for group in parameter_groups(model, load_settings(RECIPES[recipe]).optim)
        for parameter in group["params"]
    }
    assert len(values) == len(list(model.trained()))
    found = {}
    for each in model.trained():
        if each.part == "backbone":  # one tensor here is three there
            assert values[id(each.parameter)] == {"lr": 5e-5, "weight_decay": 0.05}
        else:
            (original,) = to_original({each.name: each.parameter}, model.backbone.layout)
            found[original] = values[id(each.parameter)]
    inside = [name for name in written_for_soma(model)[0] if name.startswith("backbone.")]
    found |= {name: {"lr": 5e-5, "weight_decay": 0.05} for name in inside}
    assert found == expected


def test_every_recorded_value_of_the_schedules(oracle):
    recorded = json.loads((oracle / "more" / "ext" / "soma_schedules.json").read_text())["values"]
    assert set(recorded) == set(RECIPES)
    for recipe, values in recorded.items():
        settings = load_settings(RECIPES[recipe])
        starts = ((1.0, 0.05), (0.5, 0.05), (1.0, 0.0))
        groups = [
            {"params": [nn.Parameter(torch.zeros(1))], "factor": factor, "start": decay}
            for factor, decay in starts
        ]
        optimizer = torch.optim.AdamW(groups, lr=1.0)
        assert len(values) > 10
        for iteration, expected in values.items():
            number = (
                int(iteration) if iteration.isdigit() else settings.train.iterations - 1
            )  # "after 40000": as left
            set_schedules(optimizer, settings.optim, number, settings.train.iterations)
            for group, value in zip(optimizer.param_groups, expected, strict=True):
                assert group["lr"] == pytest.approx(value["lr"], rel=1e-9, abs=1e-20), (recipe, iteration)
                # a difference from 0 of 1e-14 is the sum of rounded steps there
                assert group["weight_decay"] == pytest.approx(value["weight_decay"], rel=1e-9, abs=1e-16)


def test_averages_are_the_recorded_ones(oracle):
    recorded = json.loads((oracle / "more" / "ext" / "ema.json").read_text())["runs"]
    assert len(recorded) >= 3
    for run in recorded:
        begin, momentum = run["settings"].get("begin_iter", 0), run["settings"].get("momentum", 0.0002)
        parameter = nn.Parameter(torch.zeros(()))
        ema = Ema({"w": parameter}, 1 - momentum, begin)
        for entry in run["after_each_iteration"]:
            parameter.data += 1
            ema.update(entry["iteration"])
            assert parameter.item() == entry["weight"]
            assert ema.average["w"].item() == pytest.approx(entry["average"], rel=2e-7)
        seen = run["weight_seen_at_validation_after_each_iteration"][-1]
        with ema.applied():
            assert parameter.item() == pytest.approx(seen, rel=2e-7)


def test_pairs_of_recycle_never_decay_and_what_has_no_end_stays():
    chosen = tiny.settings("model.tune=recycle", "model.minor.rank=4", "optim.factors.sub=0.5",
                           "optim.weight_decay_end=1e-5")  # fmt: skip
    model = tiny.model(chosen)
    optimizer = build_optimizer(model, chosen.optim)
    main = {id(p) for layer in model.minor.layers() for p in (layer.main.a, layer.main.b)}
    sub = {id(p) for layer in model.minor.layers() for p in (layer.sub.a, layer.sub.b)}
    set_schedules(optimizer, chosen.optim, 3, 6)
    for group in optimizer.param_groups:
        ids = {id(p) for p in group["params"]}
        rate = learning_rate(chosen.optim, 3, 6) * (0.5 if ids & sub else 1.0)
        assert group["lr"] == pytest.approx(rate)
        if ids & (main | sub):
            assert ids <= main or ids <= sub
            assert group["weight_decay"] == 0.0
        else:
            assert group["weight_decay"] == weight_decay(group["start"], 1e-5, 3, 6) > 0
    plain = build_optimizer(model, OptimSettings())
    before = [group["weight_decay"] for group in plain.param_groups]
    set_schedules(plain, OptimSettings(), 3, 6)
    assert [group["weight_decay"] for group in plain.param_groups] == before


# --- runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tune", ["soma", "recycle", "rein+soma"])
def test_a_resumed_run_is_the_same_to_the_bit(files, tmp_path, tune, precision, monkeypatch):  # noqa: F811
    sets = (*SOMA, f"model.tune={tune}", "train.ema_decay=0.9", "train.ema_from=2", "optim.lr=5e-3")
    straight = start(files, tmp_path / "a", *sets, precision=precision)
    begun = weights(straight)
    train(straight)
    step, done = loop.train_step, []

    def killed(run, slices):
        done.append(run.iteration)
        if len(done) > 4:
            raise RuntimeError("killed")
        return step(run, slices)

    monkeypatch.setattr(loop, "train_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(start(files, tmp_path / "b", *sets, precision=precision))
    monkeypatch.setattr(loop, "train_step", step)
    resumed = start(files, tmp_path / "b", *sets, resume=True, precision=precision)
    assert resumed.iteration == 3
    train(resumed)
    assert equal(weights(resumed), weights(straight))
    assert equal(resumed.ema.average, straight.ema.average)
    assert equal(resumed.model.backbone.state_dict(), straight.model.backbone.state_dict())
    moved = {name for name, value in weights(straight).items() if not torch.equal(value, begun[name])}
    inside = {name for name in begun if name.startswith("minor.")}
    assert {name for name in inside if "start_" not in name} == inside & moved


def test_what_trains_is_in_fp32_and_the_frozen_matrices_are_not(files, tmp_path):  # noqa: F811
    run = start(files, tmp_path / "a", *SOMA, precision="bf16")
    assert {parameter.dtype for parameter in run.trained} == {torch.float32}
    block = run.model.backbone.body.blocks[3]
    assert block.attn.qkv.weight.dtype == DTYPES["bf16"]
    assert block.attn.qkv.bias.dtype == torch.float32
    assert not block.ls1.gamma.requires_grad  # and not merged: what stands beside the weight trains


def test_weights_of_the_backbone_do_not_change_in_training(files, tmp_path):  # noqa: F811
    run = start(files, tmp_path / "a", *SOMA)
    trained = {id(each.parameter) for each in run.model.trained()}
    before = {n: p.clone() for n, p in run.model.backbone.named_parameters() if id(p) not in trained}
    train(run)
    after = dict(run.model.backbone.named_parameters())
    assert len(before) > 20
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_other_factors_when_going_on_are_a_sentence(files, tmp_path):  # noqa: F811
    train(start(files, tmp_path / "a", *SOMA, "train.iterations=3"))
    with pytest.raises(ReinError, match="other groups"):
        start(files, tmp_path / "a", "model.tune=soma", "model.minor.rank=2", resume=True)


def test_going_on_without_a_checkpoint_is_a_sentence(files, tmp_path):  # noqa: F811
    start(files, tmp_path / "a", *SOMA)
    with pytest.raises(ReinError, match="no checkpoint yet"):
        start(files, tmp_path / "a", *SOMA, resume=True)


def test_an_average_that_begins_needs_a_decay():
    with pytest.raises(ReinError, match="ema_decay is not set"):
        tiny.settings("train.ema_from=3")
