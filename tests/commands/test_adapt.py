"""The whole command on toy data: adapt, resume, score; what is not at hand; wrong input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from terminal import told

from reincli.commands.adapt_page import verdict
from reincli.engine.checkpoint import read_checkpoint
from reincli.settings_files import to_toml
from reincli.training.run_folder import read_log, settings_of_run

SPLITS = ("train", "val", "dusk")


@pytest.fixture
def toy(tmp_path) -> Path:
    """Toy data, and a checkpoint that was trained on it."""
    tiny.write_toy(tmp_path / "toy", SPLITS, count=4)
    settings = tiny.settings(
        f"model.backbone.weights='{tmp_path / 'backbone.pth'}'", "data.val=['toy:val']", "train.points=64",
        data=tiny.own_data(tmp_path / "toy", SPLITS),
    )  # fmt: skip
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    tiny.write_checkpoint(tmp_path / "start.pth", settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings))
    return tmp_path


def adapt(toy: Path, *words: object, code: int = 0) -> str:
    return told("adapt", toy / "start.pth", "--work-dir", toy / "run", "--device", "cpu", *words, code=code)


@pytest.mark.rendered
def test_adapt_score_and_go_on(toy):
    output = adapt(toy, "--target", "toy:dusk", "--set", "adapt.look_every=3")
    assert "Labels of 'toy:dusk' are not read" in output
    assert "pseudo-labels: weight" in output
    run = toy / "run"
    assert {"settings.toml", "log.jsonl", "last.pth", "best.pth", "report.html", "curves.png"} <= {
        path.name for path in run.iterdir()
    }
    kinds = [entry["kind"] for entry in read_log(run)]
    assert kinds.count("look") == 3
    assert kinds.count("pseudo") == 3
    assert kinds.count("validation") == 2  # the start and the end
    settings = settings_of_run(run)
    assert (settings.name, settings.adapt.target) == ("tiny-adapt", ("toy:dusk",))
    report = (run / "report.html").read_text()
    assert "target 1" in report
    assert "Pseudo-labels over time" in report
    assert "Adapted to toy:dusk" in report

    small, start = (path.stat().st_size for path in (run / "last.pth", toy / "start.pth"))
    held = torch.load(run / "last.pth", weights_only=True)
    assert held["state_dict"].keys() == torch.load(toy / "start.pth", weights_only=True)["state_dict"].keys()
    assert small < 8 * start  # with the student's weights and two moments
    told("eval", run / "last.pth", "--device", "cpu", "--json", toy / "scores.json")
    scores = json.loads((toy / "scores.json").read_text())
    last = [entry for entry in read_log(run) if entry["kind"] == "validation"][-1]
    assert scores["domains"]["val"]["mIoU"] == pytest.approx(last["domains"]["val"]["mIoU"], abs=1e-9)

    output = told("train", "--resume", run, "--device", "cpu", "--set", "train.iterations=8")
    assert "pseudo-labels: weight" in output
    assert read_checkpoint(run / "last.pth").iteration == 8


def scored(*values: float | None) -> list[dict]:
    return [{"kind": "validation", "iteration": 5 * n, "mean": {"mIoU": v}} for n, v in enumerate(values)]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (scored(10.0, 14.0, 12.0), "Mean mIoU 10.0 at the start, 14.0 at iteration 5: best.pth."),
        (scored(10.0, 9.0, 9.5), "gained nothing: mean mIoU 10.0 at the start, 9.5 at best (iteration 10)"),
        (scored(10.0), None),
        (scored(None, 3.0), None),
        ([], None),
    ],
)
def test_what_came_of_it(entries, said):
    found = verdict(entries)
    assert found is None if said is None else said in found


def test_a_video_is_a_target(toy):
    writer = cv2.VideoWriter(str(toy / "drive.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for number in range(9):
        writer.write(np.full((64, 96, 3), 20 * number, np.uint8))
    writer.release()
    adapt(toy, "--target", toy / "drive.mp4", "--set", "adapt.video_frames=3", "--set", "train.iterations=2")
    frames = sorted((toy / "run" / "frames" / "0_drive").iterdir())
    assert [path.name for path in frames] == ["0000000.jpg", "0000003.jpg", "0000006.jpg"]
    before = [path.stat().st_mtime_ns for path in frames]
    told("train", "--resume", toy / "run", "--device", "cpu", "--set", "train.iterations=3")
    assert [path.stat().st_mtime_ns for path in frames] == before


def test_a_folder_is_a_target(toy):
    output = adapt(toy, "--target", toy / "toy" / "images" / "dusk", "--set", "train.validate_every=0", "--set",
                   "train.validate_first=false")  # fmt: skip
    assert "Trained:" in output
    assert "mIoU" not in output


def test_without_labelled_images_the_target_alone_is_trained_on(toy):
    for path in (toy / "toy" / "labels" / "train").iterdir():
        path.unlink()
    output = adapt(toy, "--target", "toy:dusk")
    assert "Without labelled images" in output
    assert "weaker" in output
    assert settings_of_run(toy / "run").adapt.source is False
    told("train", "--resume", toy / "run", "--device", "cpu", "--set", "train.iterations=7")


def test_scored_sources_that_are_not_there_are_left_out_and_said(toy):
    for path in (toy / "toy" / "labels" / "val").iterdir():
        path.unlink()
    output = adapt(toy, "--target", "toy:dusk")
    assert "Not scored, as it is not at hand: toy:val" in output
    assert not [entry for entry in read_log(toy / "run") if entry["kind"] == "validation"]


def test_a_source_that_is_named_must_be_there(toy):
    output = adapt(toy, "--target", "toy:dusk", "--source", "toy:night", code=2)
    assert "has no split 'night'" in output


def test_labels_of_the_target_are_never_read(toy):
    """Neither while training nor before: they are no files at all."""
    for path in (toy / "toy" / "labels" / "dusk").iterdir():
        path.unlink()
        path.mkdir()
    assert "Trained:" in adapt(toy, "--target", "toy:dusk")


def test_images_that_are_adapted_to_and_scored_are_told(toy):
    assert "toy:val is adapted to and scored (4 of 4 images)" in adapt(toy, "--target", "toy:val")


def test_images_are_known_by_their_files(toy):
    (toy / "some").symlink_to(toy / "toy" / "images")
    output = " ".join(adapt(toy, "--target", toy / "some").split())
    assert "toy:val is adapted to and scored (4 of 4 images)" in output
    assert "toy:train is adapted to and learnt with labels (4 of 4 images)" in output


def test_a_name_that_is_no_text_is_told_before_anything_is_built(toy):
    strange = Path(os.fsdecode(os.fsencode(toy) + b"/\xff"))
    strange.symlink_to(toy / "toy" / "images" / "dusk")
    output = " ".join(adapt(toy, "--target", strange, code=2).split())
    assert "a name in them is not UTF-8" in output
    assert not (toy / "run").exists()


def test_a_setting_that_adapts_begins_with_a_checkpoint(toy):
    changed = to_toml(tiny.settings("adapt.target=['toy:dusk']", data=tiny.own_data(toy / "toy", SPLITS)))
    (toy / "mine.toml").write_text(changed)
    output = told(
        "train", "--config", toy / "mine.toml", "--work-dir", toy / "run", "--device", "cpu", code=2
    )
    assert "begins with a trained checkpoint" in output
    assert f"rein adapt CHECKPOINT --config {toy / 'mine.toml'}" in output.replace("\n", " ")
    output = adapt(toy, "--config", toy / "mine.toml", "--backbone", toy / "backbone.pth")
    assert "Trained:" in output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "No unlabelled images were named."),
        (("--target", "empty"), 2, "No image or video was found at"),
        (("--target", "toy:dusk", "--set", "train.batch_size=8"), 2, "has 4 images, fewer than a batch takes (8)"),
        (("--target", "."), 2, "lies in the target '.': its own pictures would be adapted to"),
        (("--target", "toy:dusk", "--work-dir", "toy.toml/run"), 2, "no folder; the run would be written below it"),
        (("--target", "toy:dusk", "--source", "other:train"), 2, "has 3 classes (road, sky, wall, …), its sources"),
        (("--target", "toy:dusk", "--set", "train.ema_decay=0.9"), 2, "the teacher of an adaptation is the moving"),
        (("--target", "toy:dusk", "--set", "adapt.masked_block=512"), 2, "is larger than data.augment.crop 64"),
        (
            ("--target", "toy:dusk", "--set", "adapt.border.bottom=0.6", "--set", "adapt.border.top=0.4"),
            2,
            "together leave out all of an image",
        ),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence(toy, monkeypatch, words, code, message):
    monkeypatch.chdir(toy)
    (toy / "empty").mkdir()
    if "other:train" in words:
        own = settings_with_another(toy)
        words = (*words, "--config", own)
    output = adapt(toy, *words, code=code)
    assert message in " ".join(output.split())
    assert "Traceback" not in output
    assert not (toy / "run" / "settings.toml").exists()


def settings_with_another(toy: Path) -> Path:
    """Own settings whose source has other classes than the checkpoint."""
    raw = tiny.own_data(toy / "toy", SPLITS)
    raw["own"]["other"] = raw["own"].pop("toy")
    for index, each in enumerate(raw["own"]["other"]["classes"]):
        each["name"] = f"thing {index}"
    raw |= {"train": ["other:train"], "val": []}
    (toy / "other.toml").write_text(to_toml(tiny.settings("adapt.target=['other:dusk']", data=raw)))
    return toy / "other.toml"
