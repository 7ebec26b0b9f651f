"""Calibration as a user meets it: `eval --calibration`, `rein calibrate`, `visualize --abstain`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from terminal import rein, told

import reincli
from reincli.commands import calibrate as command
from reincli.engine.checkpoint import read_checkpoint
from reincli.engine.weight_files import read_file, write_file
from reincli.media.images import read_image, read_label, write_png
from reincli.prediction.calibrate import draw_pixels, halves
from reincli.prediction.evaluate import val_samples
from reincli.settings_files import build_settings, to_toml

CPU = ("--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Toy data and a checkpoint for it."""
    folder = tmp_path_factory.mktemp("made")
    splits = ("train", "val", "dusk")
    tiny.write_toy(folder / "toy", splits, count=4)
    data = {**tiny.own_data(folder / "toy", splits), "root": "toy"}
    data["own"]["toy"]["root"] = "toy"
    settings = tiny.settings("model.backbone.weights='backbone.pth'", data=data)
    tiny.write_backbone(folder / "backbone.pth", settings)
    tiny.write_checkpoint(folder / "head.pth", settings)
    return folder


@pytest.fixture(autouse=True)
def toy(made, tmp_path, monkeypatch) -> Path:
    """A copy of it as the current folder."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def seg(path="head.pth"):
    return reincli.load_segmentor(path, device="cpu", precision="fp32")


def kept(path="head.pth"):
    return read_checkpoint(Path(path)).calibration


# --- eval --calibration ------------------------------------------------------------------------------------


def test_calibration_and_coverage_by_domain():
    done = rein("eval", "head.pth", "--calibration", "--json", "s.json", "--report", "r.html", *CPU)
    result = json.loads(Path("s.json").read_text())
    model = seg()
    for name in ("val", "dusk"):
        domain = result["domains"][name]
        sure, right = [], []
        for index in range(4):
            found = model.predict(read_image(Path(f"toy/images/{name}/{index}.png")), keep_scores=True)
            sure.append(found.confidence().ravel())
            right.append((found.label == read_label(Path(f"toy/labels/{name}/{index}.png"))).ravel())
        sure, right = np.concatenate(sure), np.concatenate(right)
        place = np.ceil(sure.astype(np.float64) * 15).astype(int)
        error = sum(abs(right[place == b].sum() - sure[place == b].sum()) for b in range(1, 16)) / len(sure)
        assert domain["calibration"]["ECE"] == pytest.approx(100 * error, abs=1e-2)
        assert domain["calibration"]["confidence"] == pytest.approx(100 * sure.mean(), abs=1e-3)
        assert sum(each["pixels"] for each in domain["calibration"]["bins"]) == len(sure)
        curve = domain["coverage"]
        assert curve["mIoU"][0] == pytest.approx(domain["mIoU"])
        assert (curve["threshold"][0], curve["coverage"][0]) == (0, 100)
        assert curve["coverage"] == sorted(curve["coverage"], reverse=True)
    errors = [result["domains"][name]["calibration"]["ECE"] for name in ("val", "dusk")]
    assert result["mean"]["ECE"] == pytest.approx(np.mean(errors))
    assert f"Mean ECE {result['mean']['ECE']:.2f} at temperature 1." in done.stdout
    assert Path("r.html").read_text().count("<svg") == 3


def test_scores_are_the_same_with_and_without():
    rein("eval", "head.pth", "--json", "a.json", *CPU)
    rein("eval", "head.pth", "--calibration", "--json", "b.json", *CPU)
    plain, more = (json.loads(Path(f"{name}.json").read_text()) for name in "ab")
    assert plain["per_image"] == more["per_image"]
    assert "calibration" not in plain["domains"]["val"]
    assert "temperature" not in plain["protocol"]


def test_views_have_no_calibration():
    said = told("eval", "head.pth", "--calibration", "--tta", code=2)
    assert "--calibration is about single predictions" in said


# --- calibrate ---------------------------------------------------------------------------------------------


def test_every_second_image_of_a_domain_is_held_out():
    fitted, held_out = halves(val_samples(read_checkpoint(Path("head.pth")).settings))
    assert [(each.domain, each.name) for each in fitted] == [
        ("val", "0.png"), ("val", "2.png"), ("dusk", "0.png"), ("dusk", "2.png"),
    ]  # fmt: skip
    assert [(each.domain, each.name) for each in held_out] == [
        ("val", "1.png"), ("val", "3.png"), ("dusk", "1.png"), ("dusk", "3.png"),
    ]  # fmt: skip


def test_drawn_pixels_have_their_own_scores_and_labels():
    maps = torch.rand(3, 5, 7)
    label = np.where(np.random.default_rng(0).random((130, 20)) < 0.3, 255, 1).astype(np.uint8)
    label[100:] = 2
    whole = torch.nn.functional.interpolate(maps[None], size=(130, 20), mode="bilinear")[0]
    expected = (whole / whole.sum(0).clamp(min=1)).flatten(1).T.numpy()
    found, labels = draw_pixels(maps, label, 10**6, np.random.default_rng(0))
    np.testing.assert_array_equal(labels, label[label != 255])
    np.testing.assert_allclose(found[:, :3], expected[label.ravel() != 255], atol=1e-5)
    some, few = draw_pixels(maps, label, 50, np.random.default_rng(0))
    assert some.shape == (50, 4)
    assert set(few) <= {1, 2}
    nothing, none = draw_pixels(maps, np.full((130, 20), 255, np.uint8), 50, np.random.default_rng(0))
    assert (nothing.shape, len(none)) == ((0, 4), 0)


def test_a_temperature_is_fitted_kept_and_used():
    image = read_image(Path("toy/images/val/1.png"))
    before = seg().predict(image, keep_scores=True)
    content = read_file(Path("head.pth"))
    done = rein("calibrate", "head.pth", *CPU)
    found = kept()
    assert found.temperature != 1
    assert (found.sources, found.fitted, found.held_out) == (("toy:val", "toy:dusk"), 4, 4)
    assert f"Temperature {found.temperature:.4f}, fitted on 4 images" in done.stdout
    assert f"{100 * found.before:.2f} -> {100 * found.after:.2f} %" in done.stdout
    assert found.after < found.before
    model = seg()
    assert model.temperature == found.temperature
    after = model.predict(image, keep_scores=True)
    np.testing.assert_array_equal(after.label, before.label)
    assert not np.allclose(after.confidence(), before.confidence(), atol=1e-3)
    np.testing.assert_allclose(after.probabilities().max(0), after.confidence(), atol=1e-6)
    np.testing.assert_array_equal(after.anomaly(), before.anomaly())
    written = read_file(Path("head.pth"))
    assert set(written["rein"]) == set(content["rein"]) | {"calibration"}
    assert all(torch.equal(each, written["state_dict"][name]) for name, each in content["state_dict"].items())


def test_eval_uses_the_temperature_and_scores_stay():
    rein("eval", "head.pth", "--calibration", "--json", "a.json", *CPU)
    rein("calibrate", "head.pth", *CPU)
    rein("eval", "head.pth", "--calibration", "--json", "b.json", *CPU)
    plain, fitted = (json.loads(Path(f"{name}.json").read_text()) for name in "ab")
    assert plain["per_image"] == fitted["per_image"]
    assert fitted["protocol"]["temperature"] == kept().temperature
    assert fitted["mean"]["ECE"] < plain["mean"]["ECE"]


def test_what_is_calibrated_is_replaced_only_on_request():
    rein("calibrate", "head.pth", *CPU)
    said = told("calibrate", "head.pth", *CPU, code=2)
    assert f"is calibrated already: temperature {kept().temperature:.4f}" in said
    assert "--replace" in said
    rein("calibrate", "head.pth", "--data", "toy:train", "--replace", *CPU)
    assert kept().sources == ("toy:train",)


def test_out_leaves_the_checkpoint_as_it_is():
    before = Path("head.pth").read_bytes()
    rein("calibrate", "head.pth", "--out", "warm.pth", *CPU)
    assert Path("head.pth").read_bytes() == before
    assert kept("warm.pth") is not None
    said = told("calibrate", "head.pth", "--out", "warm.pth", *CPU, code=2)
    assert "is there already" in said
    assert "--replace" in said
    rein("calibrate", "head.pth", "--out", "warm.pth", "--replace", *CPU)


def test_weights_that_a_training_writes_meanwhile_are_not_given_the_temperature_of_others(monkeypatch):
    newer = read_file(Path("head.pth"))
    newer["state_dict"] = {name: each + 1 for name, each in newer["state_dict"].items()}
    write_file(Path("newer.pth"), newer)
    plain = command.fit

    def fit(*words, **options):
        found = plain(*words, **options)
        Path("newer.pth").replace("head.pth")
        return found

    monkeypatch.setattr(command, "fit", fit)
    newest = Path("newer.pth").read_bytes()
    for words in ((), ("--out", "warm.pth")):
        Path("newer.pth").write_bytes(newest)
        said = told("calibrate", "head.pth", *words, *CPU, code=1)
        assert "'head.pth' was written anew while the temperature was fitted" in said
        assert Path("head.pth").read_bytes() == newest
    assert not Path("warm.pth").exists()


def test_a_checkpoint_of_the_originals_is_not_turned_into_ours():
    content = read_file(Path("head.pth"))
    Path("toy.toml").write_text(to_toml(build_settings(content.pop("rein")["settings"])))
    write_file(Path("original.pth"), content)
    words = ("calibrate", "original.pth", "--config", "toy.toml", *CPU)
    assert "would become one of ours" in told(*words, code=2)
    rein(*words, "--out", "warm.pth")
    assert read_checkpoint(Path("warm.pth")).settings.name == "tiny"
    assert seg("warm.pth").temperature != 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["head.onnx"], "a file for another runtime"),
        (["head.pth", "--out", "a.safetensors"], "holds tensors alone"),
        (["head.pth", "--data", "toy:none"], "has no split 'none'"),
    ],
)
def test_what_cannot_be_calibrated_is_told(words, said):
    assert said in told("calibrate", *words, *CPU, code=2)


def test_one_image_is_too_few():
    for index in (1, 2, 3):
        for kind in ("images", "labels"):
            Path(f"toy/{kind}/val/{index}.png").unlink()
    assert "needs two labelled images" in told("calibrate", "head.pth", "--data", "toy:val", *CPU, code=2)


def test_no_labelled_pixel_is_told():
    for index in range(4):
        write_png(Path(f"toy/labels/val/{index}.png"), np.full((64, 96), 255, np.uint8))
    assert "has a class" in told("calibrate", "head.pth", "--data", "toy:val", *CPU, code=1)
    assert kept() is None


@pytest.mark.parametrize("found", [3, {"temperature": 0}, "zero"])
def test_a_damaged_calibration_is_told(found):
    content = read_file(Path("head.pth"))
    fields = {"temperature": 0.0, "sources": [], "fitted": 1, "held_out": 1, "before": 0.1, "after": 0.1}
    content["rein"]["calibration"] = fields if found == "zero" else found
    write_file(Path("head.pth"), content)
    assert "damaged" in told("eval", "head.pth", *CPU, code=1)


# --- leaving out -------------------------------------------------------------------------------------------


def test_abstain_leaves_out_what_is_less_sure():
    found = seg().predict(read_image(Path("toy/images/val/0.png")), keep_scores=True)
    threshold = float(np.median(found.confidence()))
    rein("visualize", "toy/images/val/0.png", "--checkpoint", "head.pth", "--abstain", threshold, "--labels",
         "--style", "mask", "--no-legend", *CPU)  # fmt: skip
    label = read_label(Path("work_dirs/show/0_labelTrainIds.png"))
    left_out = found.confidence() < threshold
    assert 0.2 < left_out.mean() < 0.8
    np.testing.assert_array_equal(label, np.where(left_out, 255, found.label))
    assert (read_image(Path("work_dirs/show/0.png"))[left_out] == 0).all()


def test_what_is_left_out_is_no_mistake():
    right = seg().predict(read_image(Path("toy/images/val/0.png"))).label
    write_png(Path("truth.png"), (right + 1) % 3)  # all of it is wrong
    words = ("visualize", "toy/images/val/0.png", "--checkpoint", "head.pth", "--gt", "truth.png", "--style", "error",
             "--no-legend", *CPU)  # fmt: skip

    def mistakes():
        drawing = read_image(Path("work_dirs/show/0.png")).astype(int)
        return (drawing[..., 0] - drawing[..., 2] > 60).sum()

    rein(*words)
    assert mistakes() > 100
    rein(*words, "--abstain", "0.999")
    assert mistakes() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--abstain", "1.5"], "is no confidence between 0 and 1"),
        (["--abstain", "nan"], "is no confidence between 0 and 1"),
        (["--abstain", "0.9", "--style", "anomaly"], "--abstain and --style anomaly"),
        (["--abstain", "0.9", "--compare", "head.pth"], "--abstain and --compare"),
    ],
)
def test_what_makes_no_sense_is_told(words, said):
    assert said in told("visualize", "toy/images/val/0.png", "--checkpoint", "head.pth", *words, code=2)
