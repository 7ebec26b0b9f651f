"""`rein visualize` and unknown objects: the style, the maps, for images and videos, in both modes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from terminal import rein, told

import reincli
from reincli.media.images import read_image, write_png
from reincli.media.video import Video
from reincli.ops.anomaly import anomaly, from_16_bit
from reincli.prediction.predict import Predictor

MAPS = Path("work_dirs/show")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A checkpoint, a picture and a video in the current folder."""
    monkeypatch.chdir(tmp_path)
    settings = tiny.settings("model.backbone.weights='backbone.pth'")
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    tiny.write_checkpoint(tmp_path / "head.pth", settings)
    rng = np.random.default_rng(0)
    write_png(Path("street.png"), rng.integers(0, 255, (70, 150, 3), np.uint8))
    writer = cv2.VideoWriter("drive.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    return tmp_path


def show(*words):
    return rein("visualize", *words, "--checkpoint", "head.pth", "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def seg():
    return reincli.load_segmentor("head.pth", device="cpu", precision="fp32")


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_maps_are_those_of_the_scores_at_the_pictures_size(seg, mode):
    show("street.png", "--anomaly", "npy", "--mode", mode)
    found = np.load(MAPS / "street_anomaly.npy")
    image = torch.from_numpy(read_image(Path("street.png")).transpose(2, 0, 1).copy())
    expected = anomaly(seg.class_maps(image, mode)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    show("street.png", "--anomaly", "png", "--mode", mode)
    stored = cv2.imread(str(MAPS / "street_anomaly.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    np.testing.assert_allclose(from_16_bit(stored, 19), expected, atol=19 / 65535)


def test_no_second_pass(monkeypatch):
    passes = []
    plain = Predictor._forward
    monkeypatch.setattr(Predictor, "_forward", lambda self, w: passes.append(len(w)) or plain(self, w))
    show("street.png", "--style", "anomaly", "--anomaly", "png", "--mode", "whole")
    assert passes == [1]


def test_the_style_draws_heat_a_scale_and_an_outline(seg):
    image = read_image(Path("street.png"))
    middle = float(np.median(seg.predict(image).anomaly()))
    show("street.png", "--style", "anomaly", "--threshold", middle)
    drawing = read_image(MAPS / "street.png")
    assert drawing.shape[1] == 150
    assert drawing.shape[0] > 80  # the scale below
    np.testing.assert_allclose(
        drawing.astype(int), seg.predict(image).draw("anomaly", threshold=middle), atol=1
    )
    without = seg.predict(image).draw("anomaly", legend=False)
    assert without.shape == (70, 150, 3)
    assert (without != drawing[:70]).any(-1).mean() > 0.02  # the outline


def test_a_video_has_a_folder_of_maps():
    show("drive.avi", "--style", "anomaly", "--anomaly", "npy")
    assert sorted(p.name for p in (MAPS / "drive_anomaly").iterdir()) == [f"00000{n}.npy" for n in range(3)]
    assert Video(MAPS / "drive.mp4").frames == 3
    assert np.load(MAPS / "drive_anomaly" / "000001.npy").shape == (48, 64)


def test_maps_that_are_missing_are_made_and_whole_ones_kept():
    show("street.png")
    show("street.png", "--anomaly", "npy")
    path = MAPS / "street_anomaly.npy"
    written = path.stat().st_mtime_ns
    show("street.png", "--anomaly", "npy")
    assert path.stat().st_mtime_ns == written


def test_a_map_of_somebody_elses_is_not_replaced():
    MAPS.mkdir(parents=True)
    np.save(MAPS / "street_anomaly.npy", np.zeros(3))
    done = told("visualize", "street.png", "--checkpoint", "head.pth", "--anomaly", "npy", code=2)
    assert "rein visualize did not write it" in done
    assert np.load(MAPS / "street_anomaly.npy").shape == (3,)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threshold", "-0.5"], "--threshold outlines in the style anomaly"),
        (["--style", "anomaly", "--threshold", "0.5"], "is above every anomaly"),
        (["--style", "anomaly", "--threshold", "nan"], "is above every anomaly"),
        (["--style", "anomaly", "--gt", "street.png"], "rein eval CHECKPOINT --anomaly"),
        (["--style", "anomaly", "--compare", "head.pth"], "do not go together"),
        (["--style", "anomaly", "--confidence"], "--confidence has nothing to draw faintly"),
    ],
)
def test_what_makes_no_sense_is_told(words, said):
    assert said in told("visualize", "street.png", "--checkpoint", "head.pth", *words, code=2)
