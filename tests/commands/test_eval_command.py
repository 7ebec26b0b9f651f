"""`rein eval` and `rein compare` as a user runs them, on toy data."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from terminal import rein, told

from reincli.commands import evaluate as command
from reincli.data import submission
from reincli.data.labels import LABEL_IDS
from reincli.data.layouts import CORRUPTIONS
from reincli.media.images import write_png
from reincli.prediction import evaluate as engine
from reincli.settings_files import to_toml

SPLITS = ("train", "val", "dusk")
SUBMIT = ("eval", "head.pth", "--submit", "acdc.zip", "--size", "96x54")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Toy data, a checkpoint for it, and two results on the same images, the second with other windows."""
    folder = tmp_path_factory.mktemp("made")
    tiny.write_toy(folder / "toy", SPLITS)
    data = {**tiny.own_data(folder / "toy", SPLITS), "root": "toy"}
    data["own"]["toy"]["root"] = "toy"
    settings = tiny.settings("model.backbone.weights='backbone.pth'", data=data)
    tiny.write_backbone(folder / "backbone.pth", settings)
    tiny.write_checkpoint(folder / "head.pth", settings)
    (folder / "toy.toml").write_text(to_toml(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rein("eval", "head.pth", "--json", "a.json")
        rein("eval", "head.pth", "--json", "b.json", "--set", "test.window=32", "--set", "test.stride=32")
    return folder


@pytest.fixture
def toy(made, tmp_path, monkeypatch) -> Path:
    """A copy of it as the current folder."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def streets(tmp_path, monkeypatch) -> Path:
    """A checkpoint with the 19 classes in the current folder."""
    monkeypatch.chdir(tmp_path)
    settings = tiny.settings("model.backbone.weights='backbone.pth'")
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    tiny.write_checkpoint(tmp_path / "head.pth", settings)
    return tmp_path


# --- scores ------------------------------------------------------------------------------------------------


def test_table_json_and_label_maps(toy):
    done = rein("eval", "head.pth", "--json", "s.json", "--out", "maps")
    assert "slide 64/43, fp32; test size: val at native, dusk at native" in done.stdout
    scores = json.loads(Path("s.json").read_text())
    assert {"preset", "checkpoint", "protocol", "domains", "mean", "per_image"} <= set(scores)
    assert {"mode", "window", "stride", "precision", "tta"} <= set(scores["protocol"])
    val = scores["domains"]["val"]
    assert {"images", "test_size", "mIoU", "mAcc", "aAcc", "IoU", "Acc"} <= set(val)
    assert list(val["IoU"]) == ["road", "sky", "wall"]
    both = [scores["domains"][name]["mIoU"] for name in ("val", "dusk")]
    assert scores["mean"]["mIoU"] == pytest.approx(sum(both) / 2, abs=1e-12)
    assert f"Mean of val, dusk: mIoU {scores['mean']['mIoU']:.2f}" in done.stdout
    wrong = right = 0
    for index in range(3):
        label = cv2.imread(f"toy/labels/val/{index}.png", cv2.IMREAD_UNCHANGED)
        found = cv2.imread(f"maps/val/{index}.png", cv2.IMREAD_UNCHANGED)
        right, wrong = right + (found == label).sum(), wrong + (found != label).sum()
    assert val["aAcc"] == pytest.approx(100 * right / (right + wrong), abs=1e-12)


def test_protocol_is_chosen_by_options_and_printed(toy):
    first = rein("eval", "head.pth", "--mode", "whole", "--size", "48x32", "--data", "toy:val").stdout
    assert "whole, fp32; test size: val at 48x32" in first
    second = rein(
        "eval", "head.pth", "--tta", "--set", "test.tta_scales=[0.5,1.0]", "--data", "toy:val"
    ).stdout
    assert "slide 64/43, views at 0.5, 1 and mirrored, fp32" in second


def test_interrupted_results_are_shown_as_partial(toy, monkeypatch):
    def stops_in_dusk(predictor, samples, **options):
        seen = options["on_image"]

        def on_image(scored):
            seen(scored)
            if scored.domain == "dusk":
                raise KeyboardInterrupt

        return engine.evaluate(predictor, samples, **{**options, "on_image": on_image})

    monkeypatch.setattr(command, "evaluate", stops_in_dusk)
    done = rein("eval", "head.pth", "--json", "s.json", "--report", "r.html", code=130)
    assert "PARTIAL, interrupted: slide" in done.stdout
    assert "Interrupted. 4 of 6 images were scored." in done.stderr
    scores = json.loads(Path("s.json").read_text())
    assert scores["complete"] is False
    assert {name: d["images"] for name, d in scores["domains"].items()} == {"val": 3, "dusk": 1}
    assert not Path("r.html").exists()


def test_an_unreadable_image_ends_with_its_name_and_what_was_scored(toy):
    Path("toy/images/dusk/2.png").write_bytes(b"no picture")
    done = rein("eval", "head.pth", code=1)
    assert "toy/images/dusk/2.png" in done.stderr
    assert "PARTIAL" in done.stdout


def test_missing_labels_are_counted_and_left_out_only_where_allowed(toy):
    Path("toy/labels/val/1.png").unlink()
    done = rein("eval", "head.pth", code=1)
    assert "1 of 3 images of 'toy' have no label" in done.stderr
    assert "--allow-missing" in done.stderr
    done = rein("eval", "head.pth", "--allow-missing", "--json", "s.json")
    assert "LEFT OUT of toy:val for want of image or label: 1 files." in done.stdout
    scores = json.loads(Path("s.json").read_text())
    assert scores["left_out"] == {"toy:val": 1}
    assert scores["domains"]["val"]["images"] == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: write_png(Path("toy/labels/val/1.png"), np.zeros((9, 9), np.uint8)), "1.png' is 9x9"),
        (lambda: write_png(Path("toy/labels/val/1.png"), np.full((64, 96), 7, np.uint8)), "has value 7"),
        (lambda: Path("toy/labels/val/1.png").write_bytes(b"x"), "Cannot decode the label"),
        (lambda: shutil.rmtree("toy/labels/val"), "there is no folder"),
    ],
)
def test_labels_that_do_not_fit_are_named(toy, change, says):
    change()
    done = rein("eval", "head.pth", code=1)
    assert says in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--size", "big"], 2, "neither 'native' nor"),
        (["--data", "toi:val"], 2, "No dataset is named 'toi'"),
        (["--data", "cityscapes:val"], 1, "'cityscapes' is not in place"),
        (["--data", "acdc:test"], 2, "--submit FILE.zip"),
        (["--submit", "x.tar"], 2, "does not end with .zip"),
        (["--submit", "x.zip", "--data", "toy:val"], 2, "acdc:test"),
        (["--config", "toy.toml", "--set", "model.backbone.width=48"], 1, "width"),
        (["--config", "toy.toml", "--set", "data.val=[]"], 2, "nothing to score"),
        (["--preset", "gta2citys"], 1, "data/cityscapes"),
    ],
)
def test_wrong_use_is_one_sentence(toy, words, code, says):
    before = set(toy.rglob("*"))
    done = rein("eval", "head.pth", *words, code=code)
    assert says in done.stderr
    assert "Traceback" not in done.output
    assert set(toy.rglob("*")) == before


def test_checkpoint_and_data_of_other_classes(streets):
    tiny.write_toy(streets / "toy", SPLITS)
    chosen = tiny.settings(
        "model.backbone.weights='backbone.pth'", data=tiny.own_data(streets / "toy", SPLITS)
    )
    (streets / "toy.toml").write_text(to_toml(chosen))
    done = rein("eval", "head.pth", "--config", "toy.toml", code=2)
    assert "The model has 19 classes (road, sidewalk, building, …), the dataset 'toy' has 3" in done.stderr


# --- the page ----------------------------------------------------------------------------------------------


def test_the_page_holds_everything_in_one_file(toy):
    rein("eval", "head.pth", "--report", "r.html", "--json", "s.json")
    text = Path("r.html").read_text("utf-8")
    scores = json.loads(Path("s.json").read_text())
    assert f"{scores['mean']['mIoU']:.2f}" in text
    for name in ("road", "sky", "wall", "val", "dusk"):
        assert name in text
    assert "rgb(70,130,180)" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    pictures = re.findall(r'src="data:image/(png|jpeg);base64,', text)
    assert len(pictures) == 2 * 3 * 4  # two domains, three images, four pictures each
    assert "worst" in text
    assert "best" in text
    assert re.search(r"road as (sky|wall): [\d.]+%, [\d,]+ pixels", text)


def test_names_cannot_break_the_page(toy):
    for kind in ("images", "labels"):
        (toy / "toy" / kind / "val" / "0.png").rename(toy / "toy" / kind / "val" / "a<b>&.png")
    rein("eval", "head.pth", "--report", "r.html")
    text = Path("r.html").read_text("utf-8")
    assert "a&lt;b&gt;&amp;.png" in text
    assert "a<b>" not in text


# --- benchmarks of the field -------------------------------------------------------------------------------


def small(monkeypatch, benchmark, images: dict[str, int]) -> None:
    """A benchmark that takes few and small images."""
    less = dataclasses.replace(benchmark, images=images, size=(54, 96))
    monkeypatch.setitem(submission.BENCHMARKS, benchmark.source, less)


def street(path: Path, number: int) -> None:
    write_png(path, np.random.default_rng(number).integers(0, 255, (54, 96, 3)).astype(np.uint8))


@pytest.fixture
def acdc(streets, monkeypatch) -> list[str]:
    """Two test images a condition, of the right size; the names that the zip should hold."""
    small(monkeypatch, submission.ACDC, dict.fromkeys(submission.ACDC.images, 2))
    names = []
    for number, condition in enumerate(submission.ACDC.images):
        for index, drive in enumerate((f"GOPR047{number}", f"GP01047{number}")):
            name = f"{drive}_frame_00004{index}_rgb_anon.png"
            street(streets / "data/acdc/rgb_anon" / condition / "test" / drive / name, 2 * number + index)
            names.append(name)
    return names


@pytest.fixture
def berlin(streets, monkeypatch) -> list[str]:
    """Test images of two cities of Cityscapes; the names that the zip should hold."""
    small(monkeypatch, submission.CITYSCAPES_TEST, {"berlin": 2, "bonn": 1})
    names = [
        f"{city}_00000{n}_000019_leftImg8bit.png" for city, n in (("berlin", 0), ("berlin", 1), ("bonn", 0))
    ]
    for number, name in enumerate(names):
        street(streets / "data/cityscapes/leftImg8bit/test" / name.split("_")[0] / name, number)
    return names


def stored(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_submission_of_acdc(acdc):
    done = rein(*SUBMIT, "--out", "maps")
    assert (
        "Submission: 8 files in 'acdc.zip' (slide 64/43, fp32; test size: acdc:test at 96x54)" in done.stdout
    )
    kept = {path.name: path for path in Path("maps").rglob("*.png")}
    assert Path("maps/night/test/GOPR0470/GOPR0470_frame_000040_rgb_anon.png").exists()
    assert sorted(kept) == sorted(acdc)
    with zipfile.ZipFile("acdc.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"labelTrainIds/{name}" for name in acdc)
        for name in acdc:
            label = stored(archive, f"labelTrainIds/{name}")
            assert label.shape == (54, 96)
            assert label.dtype == np.uint8
            assert label.max() < 19
            np.testing.assert_array_equal(label, cv2.imread(str(kept[name]), cv2.IMREAD_UNCHANGED))
    assert not list(Path().glob(".acdc*"))


def test_the_submission_of_cityscapes_is_of_label_ids(berlin):
    words = ("eval", "head.pth", "--data", "cityscapes:test", "--size", "96x54")
    done = rein(*words, "--submit", "c.zip", "--out", "maps")
    assert "Submission: 3 files in 'c.zip'" in done.stdout
    assert "cityscapes:test at 96x54" in done.stdout
    rein(*words, "--out", "ids", "--label-ids")
    with zipfile.ZipFile("c.zip") as archive:
        assert sorted(archive.namelist()) == sorted(berlin)
        seen = set()
        for name in berlin:
            label = stored(archive, name)
            below = f"cityscapes/{name.split('_')[0]}/{name}"
            indices = cv2.imread(f"maps/{below}", cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(label, np.array(LABEL_IDS)[indices])
            np.testing.assert_array_equal(label, cv2.imread(f"ids/{below}", cv2.IMREAD_UNCHANGED))
            seen |= set(label.ravel().tolist())
        assert seen <= set(LABEL_IDS)
    assert len(list(Path("maps").rglob("*.png"))) == len(berlin)


def test_what_a_run_that_was_killed_has_left_does_no_harm(berlin):
    write_png(Path(".c.zip.parts/other.png"), np.zeros((54, 96), np.uint8))
    words = ("--data", "cityscapes:test", "--size", "96x54", "--submit", "c.zip")
    assert "3 files" in rein("eval", "head.pth", *words).stdout


def test_a_submission_that_would_be_refused_is_not_written(acdc, streets):
    extra = streets / "data/acdc/rgb_anon/fog/test/S1/x_rgb_anon.png"
    write_png(extra, np.zeros((54, 90, 3), np.uint8))
    assert "fog 3 of 2" in rein(*SUBMIT, code=1).stderr
    first = next((streets / "data/acdc/rgb_anon/fog/test").rglob("GOPR*.png"))
    name = first.name
    first.unlink()
    assert "1 test images of ACDC are not called as they were released" in rein(*SUBMIT, code=1).stderr
    extra.replace(extra.with_name(name))
    assert "is 90x54; the benchmark takes 96x54" in rein(*SUBMIT, code=1).stderr
    assert not list(Path().glob("*acdc*"))
    assert not list(Path().glob(".acdc*"))


def test_a_submission_that_is_interrupted_tells_how_far_it_was(berlin, monkeypatch):
    add = submission.Submission.add

    def stops_after_two(self, sample, label):
        add(self, sample, label)
        if self.collected() >= 2:  # writers are several: another may have added the third
            raise KeyboardInterrupt

    monkeypatch.setattr(submission.Submission, "add", stops_after_two)
    done = rein(
        "eval", "head.pth", "--data", "cityscapes:test", "--size", "96x54", "--submit", "c.zip", code=130
    )
    # others may be written by threads that had begun
    assert re.search("[23] of 3 label maps were there; a submission is whole or none", done.stderr)
    assert not list(Path().glob("*c.zip*"))


def test_a_city_that_is_missing_is_named(berlin, streets):
    shutil.rmtree(streets / "data/cityscapes/leftImg8bit/test/bonn")
    words = ("eval", "head.pth", "--data", "cityscapes:test", "--submit", "c.zip")
    done = rein(*words, code=1)
    assert "berlin 2 of 2, bonn 0 of 1" in done.stderr
    assert "leftImg8bit_trainvaltest.zip" in done.stderr


def test_files_are_checked_before_the_zip_is_written(acdc, monkeypatch):
    add = submission.Submission.add
    lost = "GP010470_frame_000041_rgb_anon.png"
    monkeypatch.setattr(
        submission.Submission,
        "add",
        lambda self, sample, label: None if sample.name.endswith(lost) else add(self, sample, label),
    )
    done = rein(*SUBMIT, code=1)
    assert f"1 files missing and 0 that do not belong: {lost}" in done.stderr
    monkeypatch.setattr(
        submission.Submission,
        "add",
        lambda self, sample, label: add(self, sample, np.full_like(label, 19)),
    )
    assert "and holds 19; expected 96x54 and 0 to 18" in rein(*SUBMIT, code=1).stderr
    assert not Path("acdc.zip").exists()


def test_the_benchmarks_want_all_of_their_images():
    assert sum(submission.ACDC.images.values()) == 2000
    assert submission.ACDC.size == (1080, 1920)
    assert sum(submission.CITYSCAPES_TEST.images.values()) == 1525
    assert submission.CITYSCAPES_TEST.size == (1024, 2048)


def test_one_zip_is_for_one_benchmark_and_files_do_not_meet(toy):
    both = ("--data", "acdc:test", "--data", "cityscapes:test")
    done = rein("eval", "head.pth", *both, "--submit", "x.zip", code=2)
    assert "acdc:test and cityscapes:test" in done.stderr
    assert "Give --out DIR" in rein("eval", "head.pth", "--label-ids", code=2).stderr
    assert "labelIds are of the 19" in rein("eval", "head.pth", "--out", "m", "--label-ids", code=2).stderr
    same = ("--set", "data.own.toy.splits.dusk.domain='val'")
    rein("eval", "head.pth", *same, "--out", "m")
    found = {path.relative_to("m").as_posix() for path in Path("m").rglob("*.png")}
    assert found == {f"val-{split}/{number}.png" for split in ("val", "dusk") for number in range(3)}


def test_corruptions_by_severity_and_their_mean(streets):
    rng = np.random.default_rng(0)
    for severity in (4, 5):
        for corruption in CORRUPTIONS:
            image = rng.integers(0, 255, (32, 64, 3), np.uint8)
            path = streets / f"data/cityscapes-c/{corruption}/{severity}/a/a_1_leftImg8bit.png"
            write_png(path, image)
    label = rng.integers(0, 19, (32, 64)).astype(np.uint8)
    write_png(streets / "data/cityscapes/gtFine/val/a/a_1_gtFine_labelTrainIds.png", label)
    options = ["--size", "native", "--json", "s.json", "--set", "published={'cityscapes-c' = 60.0}"]
    done = rein("eval", "head.pth", "--data", "cityscapes-c", "--report", "r.html", *options)
    assert "Mean of 16 corruptions at severity 5" in done.stdout
    assert "(published: mIoU 60.0)" in done.stdout
    headline = json.loads(Path("s.json").read_text())
    assert set(headline["domains"]) == {f"{name}/5" for name in CORRUPTIONS}
    done = rein(
        "eval", "head.pth", "--data", "cityscapes-c:severity4", "--data", "cityscapes-c:severity5", *options
    )
    both = json.loads(Path("s.json").read_text())
    assert len(both["domains"]) == 32
    assert both["mean"] == headline["mean"]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["mIoU", "%", "severity", "4", "severity", "5"] in rows
    fog = [f"{both['domains'][f'fog/{severity}']['mIoU']:.2f}" for severity in (4, 5)]
    assert ["fog", *fog] in rows
    assert any(row[:3] == ["mean", "of", "16"] for row in rows)
    assert "motion_blur/1" in rein("eval", "head.pth", "--data", "cityscapes-c:all", code=1).stderr


def test_several_datasets_at_their_own_sizes_and_at_full_size(streets):
    """The three targets of the GTA setting: each at its own test size, by one option at the size of the file."""
    settings = tiny.settings(
        "model.backbone.weights='backbone.pth'",
        "published={cityscapes = 66.7, bdd100k = 60.0, mapillary = 66.1}",
    )
    tiny.write_checkpoint(Path("head.pth"), settings)
    places = {
        "cityscapes": ("leftImg8bit/val/a/a_1_leftImg8bit.png", "gtFine/val/a/a_1_gtFine_labelTrainIds.png"),
        "bdd100k": ("images/10k/val/x.jpg", "labels/sem_seg/masks/val/x.png"),
        "mapillary": ("half/val_img/x.jpg", "half/val_label/x.png"),
    }
    for dataset, (image, label) in places.items():
        path = streets / "data" / dataset / image
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.full((40, 70, 3), 90, np.uint8))
        write_png(streets / "data" / dataset / label, np.full((40, 70), 3, np.uint8))
    own = rein(
        "eval", "head.pth", "--set", "test.sizes={cityscapes='64x32', mapillary='64x32', bdd100k='90x45'}"
    ).stdout
    assert "test size: cityscapes at 64x32 (ratio kept: 56x32), bdd100k at 90x45 (ratio kept: 79x45)" in own
    assert "Mean of cityscapes, bdd100k, mapillary: " in own
    assert "(published: mIoU 64.3)" in own
    assert "published scores are of the setting's own test sizes" in own
    full = rein("eval", "head.pth", "--size", "native").stdout
    assert "test size: cityscapes at native, bdd100k at native, mapillary at native" in full


# --- comparison --------------------------------------------------------------------------------------------


def test_compare_names_differences_and_intervals(toy):
    done = rein("compare", "a.json", "b.json", "--draws", "300", "--json", "d.json")
    a, b = (json.loads(Path(f"{name}.json").read_text()) for name in "ab")
    told = json.loads(Path("d.json").read_text())
    assert list(told["domains"]) == ["val", "dusk"]
    for name, found in told["domains"].items():
        expected = b["domains"][name]["mIoU"] - a["domains"][name]["mIoU"]
        assert found["mIoU"]["difference"] == pytest.approx(expected, abs=1e-9)
        assert found["mIoU"]["low"] <= found["mIoU"]["high"]
        for key, iou in found["IoU"].items():
            assert iou["a"] == pytest.approx(a["domains"][name]["IoU"][key], abs=1e-9)
    assert told["mean"]["mIoU"]["b"] == pytest.approx(b["mean"]["mIoU"], abs=1e-9)
    assert "The protocols differ" in done.stderr
    assert "slide 32/32" in done.stderr
    assert "mean of val, dusk" in done.stdout
    assert f"{told['mean']['mIoU']['difference']:+.2f}" in done.stdout
    again = rein("compare", "a.json", "b.json", "--draws", "300").stdout
    assert again == done.stdout


def test_a_result_against_itself_is_all_zero(toy):
    done = rein("compare", "a.json", "a.json", "--draws", "100", "--json", "d.json")
    told = json.loads(Path("d.json").read_text())
    assert told["mean"]["mIoU"]["difference"] == 0
    assert not told["mean"]["mIoU"]["beyond_chance"]
    assert done.stderr == ""


def test_what_is_no_file_is_said_and_nobody_is_told_to_write_it_anew(tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    (tmp_path / "m.json").mkdir()
    for named, says in (
        ("m.json", "is a folder: give a file"),
        ("scores.json/x.json", "is a file, not a folder"),
        ("score.json", "scores.json'?"),
    ):
        said = told("compare", tmp_path / named, tmp_path / "scores.json", code=1)
        assert says in said
        assert "anew" not in said


def test_scores_of_a_changed_file_are_told_of_in_a_comparison(toy):
    """As an exported file that was damaged: the JSON says so."""
    raw = json.loads((toy / "b.json").read_text())
    (toy / "doubtful.json").write_text(json.dumps(raw | {"doubts": ["'m.onnx' is not as it was written."]}))
    done = rein("compare", "a.json", "doubtful.json", "--draws", "100")
    assert "'doubtful.json' is of a model that was damaged or changed" in done.stderr
    assert "damaged" not in rein("compare", "a.json", "b.json", "--draws", "100").stderr


def test_only_shared_images_and_domains_are_compared(toy):
    rein("eval", "head.pth", "--data", "toy:val", "--json", "c.json")
    done = rein("compare", "a.json", "c.json", "--draws", "100")
    assert "Only in one of the two, left out: dusk." in done.stderr
    for kind in ("images", "labels"):
        Path(f"toy/{kind}/val/1.png").unlink()
    rein("eval", "head.pth", "--data", "toy:val", "--json", "c.json")
    done = rein("compare", "a.json", "c.json", "--draws", "100")
    assert "val: compared on the 2 images that both have (A 3, B 2)." in done.stderr


def test_one_image_has_no_interval(toy):
    for number in "01":
        for kind in ("images", "labels"):
            Path(f"toy/{kind}/val/{number}.png").unlink()
    rein("eval", "head.pth", "--data", "toy:val", "--json", "c.json")
    done = rein("compare", "b.json", "c.json", "--draws", "100", "--json", "d.json")
    assert "val: one image has no interval" in done.stderr
    assert "*" not in done.stdout.partition("Intervals:")[0]
    found = json.loads(Path("d.json").read_text())["domains"]["val"]["mIoU"]
    assert (found["low"], found["high"], found["beyond_chance"]) == (None, None, False)


@pytest.mark.parametrize("names", [["0", "0", "0"], [["0"], "1", "2"], [0, 1, 2]])
def test_images_without_names_of_their_own_are_not_compared(toy, names):
    scores = json.loads(Path("a.json").read_text())
    scores["per_image"]["val"]["names"] = names
    Path("c.json").write_text(json.dumps(scores))
    assert "'c.json' is damaged: per_image.val.names" in rein("compare", "a.json", "c.json", code=1).stderr
    scores["mean"]["domains"] = [["val"]]
    Path("c.json").write_text(json.dumps(scores))
    assert "'c.json' is damaged: mean.domains" in rein("compare", "c.json", "a.json", code=1).stderr


def test_results_of_other_classes_or_domains_are_not_compared(toy):
    scores = json.loads(Path("a.json").read_text())
    for domain in scores["domains"].values():
        domain["IoU"] = {f"{name}s": value for name, value in domain["IoU"].items()}
    Path("c.json").write_text(json.dumps(scores))
    assert "3 classes" in rein("compare", "a.json", "c.json", code=2).stderr
    scores = json.loads(Path("a.json").read_text())
    for key in ("domains", "per_image"):
        scores[key] = {f"{name} 2": value for name, value in scores[key].items()}
    Path("c.json").write_text(json.dumps(scores))
    assert "have no domain in common" in rein("compare", "a.json", "c.json", code=2).stderr
    scores = json.loads(Path("a.json").read_text())
    for kept in scores["per_image"].values():
        kept["names"] = [f"x{name}" for name in kept["names"]]
    Path("c.json").write_text(json.dumps(scores))
    assert "no image in common" in rein("compare", "a.json", "c.json", code=1).stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "There is no file"),
        ("x", "cannot be read as JSON"),
        ("[]", "is no result of rein eval"),
        ('{"domains": {"val": {"IoU": {}}}, "protocol": {}}', "holds no scores of single images"),
        ('{"domains": {"val": {"IoU": {"a": 1}}}, "protocol": {}, "per_image": {}}', "is damaged"),
    ],
)
def test_files_that_cannot_be_compared(tmp_path, text, says):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    done = rein("compare", path, path, code=1)
    assert says in done.stderr


# --- several processes -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun_gives_the_numbers_of_one_process(toy):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "reincli"]
    words = ["eval", "head.pth", "--device", "cpu", "--out", "maps", "--report", "r.html", "--json"]
    done = subprocess.run([*launch, *words, "two.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Mean of val, dusk") == 1
    assert len(list(Path("maps").rglob("*.png"))) == 6
    assert Path("r.html").read_text().count("data:image") == 24
    rein(*words, "one.json")
    one, two = (json.loads(Path(f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two


def test_own_images_of_the_same_classes_are_scored_instead(toy):
    described = (
        (toy / "toy.toml").read_text().replace("toy:", "mine:").replace("data.own.toy", "data.own.mine")
    )
    (toy / "mine.toml").write_text(described)
    rein("eval", "head.pth", "--own", "mine.toml", "--json", "c.json")
    ours, mine = (json.loads((toy / name).read_text())["domains"] for name in ("a.json", "c.json"))
    assert [each["IoU"] for each in mine.values()] == [each["IoU"] for each in ours.values()]


@pytest.mark.parametrize("text", ["[data]\nval = ['mine:val']\n", "[data.own.mine]\nclasses = []\n", ""])
def test_a_file_that_describes_no_own_images_is_refused(toy, text):
    (toy / "mine.toml").write_text(text)
    assert "says of no own dataset what to score" in told("eval", "head.pth", "--own", "mine.toml", code=2)


def test_own_images_are_looked_for_where_the_help_says(toy):
    """Below `data/` or `--data-root`, not below the data root that the model was trained with."""
    described = re.sub(r"^root = .*\n", "", (toy / "toy.toml").read_text(), flags=re.M)
    described = described.replace("toy:", "mine:").replace("data.own.toy", "data.own.mine")
    (toy / "mine.toml").write_text(described)
    for words, folder in (([], "data/mine"), (["--data-root", "elsewhere"], "elsewhere/mine")):
        done = rein("eval", "head.pth", "--own", "mine.toml", *words, code=1)
        assert f"no folder '{folder}/images/val'" in done.stderr
        shutil.copytree("toy", folder)
        rein("eval", "head.pth", "--own", "mine.toml", "--json", "c.json", *words)
        assert len(json.loads(Path("c.json").read_text())["domains"]) == 2
