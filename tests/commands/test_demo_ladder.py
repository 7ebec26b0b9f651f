"""`rein demo --ladder`: trainings of each kind a seed from the same weights, and a table of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from terminal import told

from reincli.commands import demo, demo_ladder
from reincli.commands.demo_ladder import Scored, occurring, shown
from reincli.data.labels import CITYSCAPES
from reincli.data.sampling import rare_classes
from reincli.errors import ReinError
from reincli.generated.streets import write_scenes
from reincli.prepare.prepare import prepare
from reincli.settings_files import build_settings, read_preset
from reincli.training.batches import train_samples


def test_classes_without_a_label_have_no_say():
    scores = {
        "IoU": {"road": 80.0, "train": 0.0, "bus": None},
        "Acc": {"road": 90.0, "train": None, "bus": None},
    }
    assert occurring(scores) == 80.0


def test_mean_and_spread():
    assert shown([31.24]) == "31.2"
    assert shown([30.0, 32.0, 34.0]) == "32.0 ± 2.0"


def test_the_mean_is_that_of_the_four_targets():
    row = Scored(
        "rein", 0, {"cityscapes": 90.0, "night": 10.0, "fog": 20.0, "rain": 30.0, "snow": 40.0, "own": 1.0}
    )
    assert row.targets == 25.0


def test_a_training_of_another_length_is_refused_before_anything_begins(tmp_path):
    folder = tmp_path / "ladder" / "work_dirs" / "rein-42"
    folder.mkdir(parents=True)
    (folder / "settings.toml").write_text("[train]\niterations = 7\n")
    said = told("demo", "--ladder", "--out", tmp_path, "--iters", 9, code=2)
    assert "7 iterations" in said
    assert "9" in said
    assert not (tmp_path / "ladder" / "data").exists()


@pytest.mark.parametrize(
    ("text", "word", "code"),
    [
        ("[data]\n", "says of no own dataset", 2),
        (
            '[data]\nval = ["mine:val"]\n[data.own.mine]\nroot = "nowhere"\n'
            'classes = [{ name = "a", color = [0, 0, 0] }, { name = "b", color = [1, 0, 0] }]\n'
            '[data.own.mine.splits.val]\nimages = "i"\nlabels = "l"\n',
            "nowhere",
            1,
        ),
    ],
)
def test_own_images_that_cannot_be_scored_are_refused_before_anything_begins(tmp_path, text, word, code):
    own = tmp_path / "mine.toml"
    own.write_text(text)
    said = told("demo", "--ladder", "--out", tmp_path / "out", "--own", own, code=code)
    assert word in said
    assert not (tmp_path / "out").exists()


def test_classes_are_counted_once_so_that_rare_ones_can_be_drawn(tmp_path, monkeypatch):
    drawn = write_scenes(tmp_path / "data", train=2, val=1, targets=1, size=(96, 48), workers=0)
    assert drawn == 7
    prepare("cityscapes", tmp_path / "data" / "cityscapes")
    settings = build_settings(read_preset("demo"), demo_ladder.LONGER, {"data.root": str(tmp_path / "data")})
    samples = train_samples(settings)
    with pytest.raises(ReinError, match="needs the class statistics"):
        rare_classes(samples, settings.data)
    demo_ladder.count_classes(settings)
    rare = rare_classes(samples, settings.data)
    assert rare is not None
    assert {rare.draw(np.random.default_rng(seed))[0] for seed in range(20)} == {0, 1}

    def read_again(*_: object) -> None:
        raise AssertionError("a label that was counted is read again")

    monkeypatch.setattr("reincli.data.statistics.read_label", read_again)
    demo_ladder.count_classes(settings)


@pytest.mark.slow
def test_the_whole_ladder_and_a_second_run(tmp_path, monkeypatch):
    counts = {"train": 4, "val": 2, "targets": 1}
    monkeypatch.setattr(demo_ladder, "STREETS", counts)
    own = tmp_path / "mine.toml"
    demo.generate(tmp_path / "mine", **counts)
    own.write_text(described(tmp_path / "mine" / "data" / "cityscapes"))
    words = ("demo", "--ladder", "--out", tmp_path / "out", "--iters", 2, "--seeds", 1, "--own", own)
    text = told(*words)
    for word in ("full", "frozen", "rein", "soma", "recycle", "mean of four", "again"):
        assert word in text
    found = json.loads((tmp_path / "out" / "ladder.json").read_text())
    assert [run["tune"] for run in found["runs"]] == ["full", "frozen", "rein", "soma", "recycle"]
    for run in found["runs"]:
        assert run["again"] == pytest.approx(run["cityscapes"])  # the same streets under another name
    shown_there = cv2.imread(str(tmp_path / "out" / "ladder.png"))
    assert shown_there.shape[1] > 7 * 400  # image, label, and what each model sees
    before = (tmp_path / "out" / "ladder" / "work_dirs" / "rein-42" / "last.pth").read_bytes()
    assert "Nothing left to do" in told(*words)
    assert (tmp_path / "out" / "ladder" / "work_dirs" / "rein-42" / "last.pth").read_bytes() == before


def described(root: Path) -> str:
    """The validation streets as an own dataset of the Cityscapes classes."""
    classes = ", ".join(
        f'{{ name = "{name}", color = {list(color)} }}'
        for name, color in zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True)
    )
    return f"""
[data]
val = ["streets:val"]

[data.own.streets]
root = "{root}"
test_size = "320x160"
classes = [{classes}]

[data.own.streets.splits.val]
images = "leftImg8bit/val"
labels = "gtFine/val"
image_suffix = "_leftImg8bit.png"
label_suffix = "_gtFine_labelTrainIds.png"
domain = "again"
"""
