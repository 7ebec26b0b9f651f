"""`rein demo` as a whole, with few iterations."""

from __future__ import annotations

import json

import cv2
import pytest
from terminal import rein


@pytest.mark.slow
def test_the_whole_path_and_a_second_run(tmp_path):
    out = tmp_path / "first demo"
    first = rein("demo", "--out", out, "--iters", "3")
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores["domains"]) == ["cityscapes", "night", "fog", "rain", "snow"]
    assert scores["mean"]["domains"] == ["night", "fog", "rain", "snow"]
    assert all(domain["images"] > 0 for domain in scores["domains"].values())
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert min(sheet.shape[:2]) > 1000
    assert len(list((out / "show").glob("*.png"))) == 5
    for word in ("contact sheet", "rein prepare-data", "--preset gta2citys"):
        assert word in first.output

    checkpoint = out / "work_dirs" / "demo" / "last.pth"
    before = checkpoint.read_bytes()
    second = rein("demo", "--out", out, "--iters", "3")
    assert "Nothing left to do" in second.output
    assert checkpoint.read_bytes() == before
    assert json.loads((out / "scores.json").read_text())["domains"] == scores["domains"]

    other = rein("demo", "--out", out, "--iters", "5", code=2)
    assert "holds a demo of 3 iterations; now 5" in other.output
