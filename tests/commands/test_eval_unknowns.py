"""`rein eval --anomaly` as a user runs it: figures, JSON, the page, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from terminal import rein, told

import reincli
from reincli.media.images import read_image, read_label, write_png
from reincli.ops.pooled import Pool
from reincli.prediction import unknowns as engine


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A checkpoint and two folders of labelled unknown objects in the current folder."""
    monkeypatch.chdir(tmp_path)
    settings = tiny.settings("model.backbone.weights='backbone.pth'")
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    tiny.write_checkpoint(tmp_path / "head.pth", settings)
    rng = np.random.default_rng(0)
    for name in ("cargo", "animals"):
        for index in range(3):
            image = rng.integers(0, 255, (48, 80, 3), np.uint8)
            label = np.zeros((48, 80), np.uint8)
            label[:4] = 255
            if index:
                label[10:30, 20:50] = 1
            write_png(Path(name) / "images" / f"{index}.png", image)
            write_png(Path(name) / "labels" / f"{index}.png", label)


def score(*words):
    return rein("eval", "head.pth", *words, "--device", "cpu", "--precision", "fp32")


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_figures_are_those_of_all_pixels_together(mode):
    done = score("--anomaly", "cargo", "--anomaly", "animals", "--json", "s.json", "--mode", mode)
    result = json.loads(Path("s.json").read_text())
    seg = reincli.load_segmentor("head.pth", device="cpu", precision="fp32")
    for name in ("cargo", "animals"):
        pool, unsure = Pool(), Pool()
        for index in range(3):
            found = seg.predict(read_image(Path(f"{name}/images/{index}.png")), mode=mode, keep_scores=True)
            pool.add(found.anomaly(), read_label(Path(f"{name}/labels/{index}.png")))
            unsure.add(-found.confidence(), read_label(Path(f"{name}/labels/{index}.png")))
        assert result["unknown"][name]["confidence"]["AP"] == pytest.approx(
            100 * unsure.figures().ap, abs=0.1
        )
        expected, scored = pool.figures(), result["unknown"][name]
        assert scored["pixels"] == {"known": 3 * 44 * 80 - 1200, "unknown": 1200}
        for key, value in (("AP", expected.ap), ("AUROC", expected.auroc), ("FPR95", expected.fpr95)):
            assert scored[key] == pytest.approx(100 * value, abs=0.1)
            assert f"{scored[key]:.2f}" in done.stdout
        assert scored["chance_AP"] == pytest.approx(100 * 1200 / (3 * 44 * 80))
        assert (scored["images"], scored["with_unknown"]) == (3, 2)
        assert set(scored["per_image"]) == {"0.png", "1.png", "2.png"}
        assert scored["per_image"]["0.png"]["AP"] is None
        assert max(scored["uncertainty"].values()) < 1
    assert result["complete"] is True
    assert result["protocol"]["mode"] == mode


def test_the_page_shows_curves_and_images():
    score("--anomaly", "cargo", "--report", "r.html")
    page = Path("r.html").read_text()
    assert page.count("<svg") == 2
    assert page.count("<figcaption><b>AP") == 2  # of the images that have an unknown pixel
    assert "cargo: worst" in page
    assert "nan" not in re.sub(r'base64,[^"]*', "", page)
    score("--anomaly", "cargo", "--report", "r.html")  # its own file is written again


@pytest.mark.slow
def test_processes_share_the_images():
    script = "import sys; from reincli.cli import app; app(sys.argv[1:])"
    words = ("eval", "head.pth", "--anomaly", "cargo", "--device", "cpu", "--precision", "fp32")
    score("--anomaly", "cargo", "--json", "one.json")
    world = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"}
    started = [
        subprocess.Popen([sys.executable, "-c", script, *words, "--json", "two.json", "--report", "r.html"],
                         env={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]  # fmt: skip
    assert [each.wait(timeout=120) for each in started] == [0, 0]
    one, two = (json.loads(Path(f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert Path("r.html").read_text().count("<figcaption><b>AP") == 2


def test_interrupted_figures_are_partial(monkeypatch):
    plain = engine._scored

    def stops(*words):
        for count, each in enumerate(plain(*words)):
            if count == 2:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(engine, "_scored", stops)
    done = rein("eval", "head.pth", "--anomaly", "cargo", "--json", "s.json", "--report", "r.html", code=130)
    assert "PARTIAL" in done.stdout
    assert "2 of 3 images were scored" in done.stderr
    assert json.loads(Path("s.json").read_text())["complete"] is False
    assert not Path("r.html").exists()


def test_wrong_labels_end_before_the_model_is_loaded():
    write_png(Path("cargo/labels/2.png"), np.full((48, 80), 3, np.uint8))
    assert "value 3" in told("eval", "missing.pth", "--preset", "demo", "--anomaly", "cargo", code=1)
    for index in range(3):
        write_png(Path(f"animals/labels/{index}.png"), np.zeros((48, 80), np.uint8))
    said = told("eval", "missing.pth", "--preset", "demo", "--anomaly", "animals", code=1)
    assert "has an unknown pixel" in said


def test_a_label_of_another_size_is_named():
    write_png(Path("cargo/labels/2.png"), np.ones((40, 80), np.uint8))
    assert "is 80x40, but its image is 80x48" in told("eval", "head.pth", "--anomaly", "cargo", code=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--anomaly", "nothing"], "is no set of labelled unknown objects"),
        (["--anomaly", "cargo", "--data", "cityscapes:val"], "--data is about the classes"),
        (["--anomaly", "cargo", "--tta"], "--tta is about the classes"),
        (["--anomaly", "cargo", "--json", "cargo/labels/1.png"], "would be written over a file"),
    ],
)
def test_what_makes_no_sense_is_told(words, said):
    assert said in told("eval", "head.pth", *words, code=2)
