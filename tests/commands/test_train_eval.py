"""Whole commands on toy data: train, resume, evaluate, visualise, convert."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from terminal import told

from reincli.config import Settings
from reincli.errors import ReinError
from reincli.settings_files import build_settings, to_toml
from reincli.toml_files import read_toml
from reincli.training import train as engine
from reincli.training.run import prepare_run
from reincli.training.run_folder import refuse_existing, settings_of_run


@pytest.fixture
def toy(tmp_path) -> Path:
    """Toy data, a backbone file, and settings that use them."""
    tiny.write_toy(tmp_path / "toy", ("train", "val", "dusk"))
    settings = tiny.settings(data=tiny.own_data(tmp_path / "toy", ("train", "val", "dusk")))
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings))
    return tmp_path


def train(toy: Path, *words: object, code: int = 0) -> str:
    return told(
        "train", "--config", toy / "toy.toml", "--backbone", toy / "backbone.pth", "--work-dir", toy / "run",
        "--device", "cpu", *words, code=code,
    )  # fmt: skip


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_train_evaluate_and_visualise(toy):
    output = train(toy)
    assert "Mean of val, dusk" in output
    run = toy / "run"
    assert {path.name for path in run.iterdir()} == {
        "settings.toml", "log.jsonl", "iter_3.pth", "iter_6.pth", "last.pth", "best.pth", "best.json", "samples",
        "curves.png", "report.html",
    }  # fmt: skip
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["iteration"] for entry in entries if entry["kind"] == "step"] == [2, 4, 6]
    assert entries[-1]["kind"] == "validation"
    assert entries[2]["lr"] == 0.0  # exactly 0 at the last iteration

    report = toy / "scores.json"
    output = told("eval", run / "last.pth", "--device", "cpu", "--json", report, "--out", toy / "predictions")
    assert "slide 64/43, fp32" in output
    scores = json.loads(report.read_text())
    assert scores["complete"] is True
    assert list(scores["domains"]) == ["val", "dusk"]
    assert scores["domains"]["val"]["images"] == 3
    assert scores["domains"]["val"]["mIoU"] == pytest.approx(entries[-1]["domains"]["val"]["mIoU"], abs=1e-9)
    predicted = cv2.imread(str(toy / "predictions" / "val" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert predicted.shape == (64, 96)
    assert predicted.max() < 3

    told("visualize", toy / "toy" / "images" / "dusk", "--checkpoint", run / "last.pth", "--out", toy / "show",
         "--labels", "--device", "cpu")  # fmt: skip
    label = cv2.imread(str(toy / "show" / "0_labelTrainIds.png"), cv2.IMREAD_UNCHANGED)
    evaluated = cv2.imread(str(toy / "predictions" / "dusk" / "0.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(label, evaluated)
    assert cv2.imread(str(toy / "show" / "0.png")).shape[1] == 96


@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(toy, monkeypatch, signal_sent):
    train(toy)
    straight = state(toy / "run" / "last.pth")
    (toy / "run").rename(toy / "straight")

    calls = 0
    step = engine.train_step

    def interrupted(*args):
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal_sent)
        return step(*args)

    monkeypatch.setattr(engine, "train_step", interrupted)
    output = train(toy, code=143 if signal_sent == signal.SIGTERM else 130)
    assert "Saved at iteration 4" in output
    assert "--resume" in output
    monkeypatch.setattr(engine, "train_step", step)
    told("train", "--resume", toy / "run", "--device", "cpu")
    resumed = state(toy / "run" / "last.pth")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    output = told("train", "--resume", toy / "run", "--device", "cpu")
    assert "Nothing left to do" in output


def test_splits_of_own_data_have_any_names(tmp_path):
    tiny.write_toy(tmp_path / "toy", ("day", "dusk"))
    settings = tiny.settings(
        "train.iterations=2", "published={dusk=5.0}", data=tiny.own_data(tmp_path / "toy", ("day", "dusk"))
    )
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings))
    assert "dusk" in train(tmp_path)
    assert "dusk" in told("eval", tmp_path / "run" / "last.pth", "--data", "toy:day", "--data", "toy:dusk", "--device",
                          "cpu")  # fmt: skip


def test_training_lowers_the_loss(toy):
    train(toy, "--set", "train.iterations=60", "--set", "train.log_every=10", "--set", "optim.lr=5e-3",
          "--set", "model.train_backbone=true", "--set", "train.points=512",
          "--set", "data.augment.photometric=false")  # fmt: skip
    entries = [json.loads(line) for line in (toy / "run" / "log.jsonl").read_text().splitlines()]
    losses = [entry["losses"]["loss"] for entry in entries if entry["kind"] == "step"]
    assert losses[-1] < 0.8 * losses[0]


def test_what_does_not_train_does_not_change(toy):
    before = torch.load(toy / "backbone.pth", weights_only=True)
    weights = {"model.backbone.weights": str(toy / "backbone.pth")}
    settings = build_settings(read_toml(toy / "toy.toml"), (), weights)
    run = prepare_run(settings, toy / "run", device=torch.device("cpu"), precision="fp32")
    (toy / "run").mkdir()
    engine.train(run)
    for name, value in run.model.backbone.body.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in run.model.backbone.parameters())


def test_existing_runs_are_not_overwritten(toy):
    train(toy)
    before = (toy / "run" / "last.pth").read_bytes()
    assert "There is a run in" in train(toy, code=2)
    assert (toy / "run" / "last.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--preset", "gta2cities"], "Did you mean 'gta2citys"),
        (["--preset", "gta2citys", "--set", "optim.learning=1"], "no setting 'optim.learning'"),
        (["--preset", "gta2citys", "--set", "optim.lr=fast"], "'optim.lr' cannot be 'fast'"),
        ([], "Neither --preset nor --config"),
        (["--resume", "nowhere"], "no run in 'nowhere'"),
        (["--preset", "gta2citys", "--device", "tpu"], "No device is called 'tpu'"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = told("train", *words, code=2)
    assert says in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ended_before_its_first_checkpoint_is_not_to_be_resumed(tmp_path):
    """As where memory ran out in its first step."""
    (tmp_path / "settings.toml").touch()
    with pytest.raises(ReinError, match="which has no checkpoint yet") as caught:
        refuse_existing(tmp_path)
    assert "--resume" not in caught.value.hint
    (tmp_path / "iter_2.pth").touch()
    with pytest.raises(ReinError, match="There is a run in") as caught:
        refuse_existing(tmp_path)
    assert "--resume" in caught.value.hint


def test_what_to_resume_is_named_where_its_neighbour_was(tmp_path):
    run = tmp_path / "work dirs" / "night"
    run.mkdir(parents=True)
    (run / "settings.toml").touch()
    (run / "last.pth").touch()
    for named, says in (
        (run / "last.pth", f"Give the folder of the run: --resume '{run}'"),
        (run / "lost.pth", f"Give the folder of the run: --resume '{run}'"),
        (run.parent, f"Runs in it: '{run}'."),
        (run.parent / "nigth", f"Did you mean '{run}'?"),
    ):
        with pytest.raises(ReinError, match="There is no run") as caught:
            settings_of_run(named)
        assert says in caught.value.hint


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ("resnet50", "pretrain/third_party/resnet50_v1c-2cccc1ad.pth"),
        ("dinov2_l", "No weights of the backbone"),
        ("dino", "No backbone is"),
    ],
)
def test_what_cannot_be_built_says_so(toy, backbone, says, monkeypatch):
    monkeypatch.chdir(toy)
    output = told("train", "--config", "toy.toml", "--set", f"model.backbone={{name='{backbone}'}}", "--device", "cpu",
                  "--work-dir", "x", code=2 if backbone == "dino" else 1)  # fmt: skip
    assert says in output
    assert not (toy / "x").exists()


def test_missing_data_is_said_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = told("train", "--preset", "gta2citys", "--device", "cpu", code=1)
    assert "data/gta" in output
    assert list(tmp_path.iterdir()) == []


def test_labels_out_of_range_are_found_before_training(toy):
    path = toy / "toy" / "labels" / "train" / "1.png"
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    label[0, 0] = 9
    cv2.imwrite(str(path), label)
    output = train(toy, code=1)
    assert "1.png" in output
    assert "9" in output
    assert not (toy / "run" / "last.pth").exists()


def test_image_that_cannot_be_decoded_is_named(toy):
    (toy / "toy" / "images" / "val" / "2.png").write_bytes(b"no picture")
    train(toy, "--set", "data.val=[]")
    output = told("eval", toy / "run" / "last.pth", "--data", "toy:val", "--device", "cpu", code=1)
    assert "2.png" in output


def test_random_weights_behind_a_frozen_backbone_are_refused(toy):
    output = told(
        "train", "--config", toy / "toy.toml", "--backbone", "random", "--work-dir", toy / "r", code=2
    )
    assert "nothing would keep them" in output


def test_convert_weights(toy, monkeypatch):
    monkeypatch.chdir(toy)
    raw = tiny.settings("data.augment.crop=126", "model.backbone.patch_size=14")
    tiny.write_backbone(toy / "raw.pth", raw)
    output = told("convert-weights", "raw.pth", "--height", "128", "--width", "256")
    assert "checkpoints/vit_converted_128x256.pth" in output
    converted = torch.load(toy / "checkpoints" / "vit_converted_128x256.pth", weights_only=True)
    assert converted["pos_embed"].shape == (1, 1 + 8 * 16, 32)
    assert converted["patch_embed.proj.weight"].shape[-1] == 16
    assert "is there already" in told(
        "convert-weights", "raw.pth", "--height", "128", "--width", "256", code=2
    )
    told("convert-weights", "raw.pth", "x.safetensors", "--height", "128", "--width", "256")
    from safetensors.torch import load_file

    same = load_file(toy / "x.safetensors")
    assert all(torch.equal(same[name], value) for name, value in converted.items())
    assert "does not divide" in told("convert-weights", "raw.pth", "--height", "100", code=2)
    assert "Download https://" in told("convert-weights", code=1)
    assert "is vit, not dinov2_l" in told("convert-weights", "raw.pth", "y.pth", "--kind", "dinov2_l", code=2)


def test_settings_of_a_run_are_those_it_was_started_with(toy):
    train(toy, "--set", "optim.lr=3e-4")
    written = settings_of_run(toy / "run")
    assert isinstance(written, Settings)
    assert written.optim.lr == 3e-4
    assert written.model.backbone.weights == str(toy / "backbone.pth")


@pytest.mark.parametrize("tune", ["rein", "frozen", "full"])
def test_a_trained_model_is_written_back_and_predicts_the_same(toy, tune):
    train(toy, "--set", f"model.tune={tune}", "--set", "train.iterations=2")
    last, original = toy / "run" / "last.pth", toy / "original.pth"
    told("convert-weights", last, original, "--kind", "original")
    content = torch.load(original, weights_only=True)
    assert set(content) == {"meta", "state_dict"}
    assert content["meta"]["iter"] == 2
    assert ("backbone.mask_token" in content["state_dict"]) == (tune != "rein")
    scores = []
    for checkpoint in (last, original):
        told("eval", checkpoint, "--config", toy / "toy.toml", "--set", f"model.tune={tune}", "--backbone",
             toy / "backbone.pth", "--device", "cpu", "--json", toy / "s.json")  # fmt: skip
        scores.append(json.loads((toy / "s.json").read_text())["domains"])
    assert scores[0] == scores[1]
