"""What a run shows of itself."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from terminal import told

from reincli.commands import launching, run_report
from reincli.data.sources import find_samples
from reincli.settings_files import to_toml
from reincli.training.run_folder import append_log, read_log

pytestmark = pytest.mark.rendered


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of six iterations with three validations on two domains, one of them with a slash in its name."""
    tmp_path = tmp_path_factory.mktemp("report")
    tiny.write_toy(tmp_path / "toy", ("train", "val", "dusk"))
    data = tiny.own_data(tmp_path / "toy", ("train", "val", "dusk"))
    data["own"]["toy"]["splits"]["dusk"]["domain"] = "dusk/<wet>"
    settings = tiny.settings("train.validate_every=2", "train.points=64", "train.log_every=1", data=data)
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings))
    text = told("train", "--config", tmp_path / "toy.toml", "--backbone", tmp_path / "backbone.pth", "--work-dir",
                tmp_path / "run", "--device", "cpu")  # fmt: skip
    (tmp_path / "run" / "terminal.txt").write_text(text)
    return tmp_path / "run"


def test_a_validation_tells_how_far_it_is(run):
    text = (run / "terminal.txt").read_text()
    assert text.count("Validating: 6/6") == 3  # images of both domains, three times


def test_the_log_has_each_kind_of_loss_over_all_rounds(run):
    steps = [entry for entry in read_log(run) if entry["kind"] == "step"]
    assert len(steps) == 6
    for losses in (entry["losses"] for entry in steps):
        parts = [losses[f"all_{kind}"] for kind in ("cls", "mask", "dice")]
        assert sum(parts) == pytest.approx(losses["loss"], rel=1e-5)
        assert losses["all_cls"] > losses["loss_cls"] > 0  # four rounds and the last of them
    first = steps[0]["losses"]
    line = f"loss {first['loss']:.2f} (class {first['all_cls']:.2f} mask {first['all_mask']:.2f}"
    assert line in (run / "terminal.txt").read_text()


def test_curves_and_page(run):
    picture = cv2.imread(str(run / "curves.png"))
    assert picture.shape[0] > 500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    page = (run / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # opens with nothing beside it
    assert page.count("data:image/jpeg;base64,") == 6  # three validations of two domains
    assert "dusk/&lt;wet&gt;" in page
    assert "dusk/<wet>" not in page
    for text in ("<svg", "iteration <b>6</b> of 6", "peak memory", "road", "[train]"):
        assert text in page
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["2", "4", "6"]
    sample = cv2.imread(str(run / "samples" / "6" / "val.jpg"))
    assert sample.shape == (320, 480, 3)


def test_values_that_are_missing_or_not_finite_are_drawn_around(tmp_path):
    settings = tiny.settings()
    base = {
        "grad_norm": None,
        "skipped": 1,
        "lr": 1e-4,
        "seconds": 1.0,
        "images": 2.0,
        "waiting": 0.0,
        "memory": 1,
    }
    losses = {"loss": 3.0, "loss_cls": 1.0, "loss_mask": 1.0, "loss_dice": 1.0}
    append_log(tmp_path, {"kind": "step", "iteration": 1, "losses": losses, **base})
    append_log(
        tmp_path, {"kind": "step", "iteration": 2, "losses": {k: float("nan") for k in losses}, **base}
    )
    empty = {"mIoU": None, "IoU": {"road": None, "sky": 3.0}}
    append_log(
        tmp_path, {"kind": "validation", "iteration": 2, "domains": {"val": empty}, "mean": {"mIoU": None}}
    )
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()  # which is no JSON
    run_report.write(tmp_path, settings)
    page = (tmp_path / "report.html").read_text()
    assert "skipped steps <b>2</b>" in page
    assert "<td>road</td><td>-</td>" in page


def test_the_first_of_each_domain_is_shown(run):
    settings = tiny.settings(data=tiny.own_data(run.parent / "toy", ("train", "val", "dusk")))
    samples = [s for split in ("dusk", "val") for s in find_samples(f"toy:{split}", settings.data)]
    shown = run_report.first_of_each_domain(samples)
    assert [(sample.domain, sample.name) for sample in shown] == [("dusk", "0.png"), ("val", "0.png")]


def test_several_gpus_start_the_launcher_with_the_same_words(monkeypatch, tmp_path):
    started: list[list[str]] = []
    monkeypatch.setattr(launching.os, "execv", lambda program, words: started.append(words) or exit(0))
    told("train", "--preset", "gta2citys", "--gpus", "3", "--device", "cpu", "--set", "optim.lr=1e-5",
         "--set", "train.seed=7", "--work-dir", tmp_path / "r")  # fmt: skip
    (words,) = started
    assert words[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    assert words[5:8] == ["-m", "reincli", "train"]
    assert words[8:] == ["--preset", "gta2citys", "--work-dir", str(tmp_path / "r"), "--device", "cpu",
                         "--set", "optim.lr=1e-5", "--set", "train.seed=7"]  # fmt: skip


def test_more_gpus_than_there_are_is_said(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert "--gpus 2 was asked for, but PyTorch sees 1" in told(
        "train", "--preset", "gta2citys", "--gpus", "2", code=2
    )


def test_several_processes_on_one_gpu_are_refused():
    printed = told("train", "--preset", "gta2citys", "--gpus", "2", "--device", "cuda:1", code=2)
    assert "--gpus 2 is a process on each of 2 GPUs, and --device cuda:1 is one of them." in printed
