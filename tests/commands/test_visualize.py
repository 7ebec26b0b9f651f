"""`rein visualize` with a predictor that needs no weights: which images, what is written, what is said."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from reincli.cli import app
from reincli.commands import visualize
from reincli.commands.visualize import find_pictures
from reincli.data.images import read_image, read_label, write_png
from reincli.data.labels import CITYSCAPES
from reincli.errors import ReinError


class FakePredictor:
    """Predicts class 8 where a pixel is mostly green, class 0 elsewhere."""

    classes = CITYSCAPES
    notes = ["Backbone: 'random'."]

    def __init__(self):
        self.asked = []
        self.before_predict = lambda image: None

    def predict(self, image, *, size="native", mode=None):
        self.asked.append((image.shape, size, mode))
        self.before_predict(image)
        return np.where(image[..., 1] > image[..., 0], np.uint8(8), np.uint8(0))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working folder with one finished run."""
    monkeypatch.chdir(tmp_path)
    checkpoint = Path("work_dirs/mine/last.pth")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    return tmp_path


@pytest.fixture(autouse=True)
def predictor(monkeypatch):
    fake, module = FakePredictor(), types.ModuleType("reincli.engine.predict")
    fake.loaded = []

    def load_predictor(checkpoint, **options):
        fake.loaded.append((checkpoint, options))
        return fake

    module.load_predictor = load_predictor
    monkeypatch.setitem(sys.modules, "reincli.engine.predict", module)
    return fake


def picture(path, width=40, height=30):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = (200, 0, 0)
    image[:, width // 2 :] = (0, 200, 0)
    write_png(Path(path), image)
    return image


def targets(inputs, out="out", **options):
    return [p.target.relative_to(out).as_posix() for p in find_pictures(inputs, Path(out), **options)[0]]


# --- which images ------------------------------------------------------------------------------------------


def test_folders_keep_relative_paths_and_skip_what_is_no_image():
    for name in ("b.png", "a.JPG", "sub/c.png", "sub/deep/d.jpeg", ".hidden.png", ".git/e.png"):
        picture(Path("drive", name).with_suffix(".png"))
        Path("drive", name).with_suffix(".png").rename(Path("drive", name))
    Path("drive/notes.txt").write_text("no image")
    assert targets(["drive"]) == ["a.png", "b.png", "sub/c.png", "sub/deep/d.png"]


def test_suffix_and_match_choose_within_folders():
    for name in ("fog/a_rgb.png", "fog/a_depth.png", "night/b_rgb.png"):
        picture(Path("drive", name))
    assert targets(["drive"], suffix="_rgb.png") == ["fog/a_rgb.png", "night/b_rgb.png"]
    assert targets(["drive"], match="fog/*") == ["fog/a_depth.png", "fog/a_rgb.png"]
    assert targets(["drive"], match="b_*") == ["night/b_rgb.png"]
    with pytest.raises(ReinError, match=r"ending with '_left\.png' matching 'fog\*' was found at 'drive'"):
        targets(["drive"], suffix="_left.png", match="fog*")


def test_globs_keep_what_is_below_the_fixed_part():
    for name in ("x/1.png", "y/2.png", "y/z/3.png"):
        picture(Path("drive", name))
    assert targets(["drive/*/*.png"]) == ["x/1.png", "y/2.png"]
    assert targets(["drive/**/*.png"]) == ["x/1.png", "y/2.png", "y/z/3.png"]
    assert targets(["drive/y/*.png", "drive/x/1.png"]) == ["2.png", "1.png"]


def test_brackets_in_a_name_are_a_name():
    picture("drive [1]/a[0].png")
    assert targets(["drive [1]"]) == ["a[0].png"]
    assert targets(["drive [1]/a[0].png"]) == ["a[0].png"]


def test_an_image_named_twice_is_drawn_once():
    picture("drive/a.png")
    assert targets(["drive", "drive/a.png", "drive/*.png"]) == ["a.png"]


def test_no_two_images_share_a_drawing():
    for name in ("one/a.png", "two/a.png", "two/b.png"):
        picture(name)
    Path("two/b.png").rename("two/b.jpg")
    picture("two/b.png")
    assert targets(["one", "two"]) == ["one/a.png", "two/a.png", "two/b.jpg.png", "two/b.png.png"]


def test_drawings_inside_the_input_folder_are_not_read_again():
    picture("drive/a.png")
    picture("drive/shown/a.png")
    assert targets(["drive"], "drive/shown") == ["a.png"]
    assert targets(["drive/**/*.png"], "drive/shown") == ["a.png"]


@pytest.mark.parametrize(
    ("inputs", "out"), [(["drive"], "drive"), (["drive/a.png"], "drive"), (["a.png"], ".")]
)
def test_an_input_is_never_replaced(inputs, out):
    picture("drive/a.png")
    picture("a.png")
    with pytest.raises(ReinError, match="input") as caught:
        find_pictures(inputs, Path(out))
    assert caught.value.usage


@pytest.mark.parametrize("inputs", [["absent.png"], ["absent/*.png"], ["empty"]])
def test_nothing_to_read_is_wrong_use(inputs):
    Path("empty").mkdir()
    with pytest.raises(ReinError, match=inputs[0].replace("*", r"\*")) as caught:
        find_pictures(inputs, Path("out"))
    assert caught.value.usage


# --- what is written ---------------------------------------------------------------------------------------


def test_a_drawing_and_a_label_map(predictor, capsys):
    image = picture("street.png")
    visualize.run(["street.png"], labels=True)
    label = read_label(Path("work_dirs/show/street_labelTrainIds.png"))
    assert (label == np.where(image[..., 1] > 0, 8, 0)).all()
    drawing = read_image(Path("work_dirs/show/street.png"))
    assert drawing.shape[1] == 40
    assert drawing.shape[0] > 30  # the legend below
    assert np.abs(drawing[5, 5].astype(int) - [164, 32, 64]).max() <= 1  # half image, half the colour of road
    assert capsys.readouterr().out == "1 picture drawn into 'work_dirs/show'.\n"


@pytest.mark.parametrize("style", ["overlay", "side", "mask", "boundary"])
def test_styles_without_legend(style):
    picture("street.png")
    visualize.run(["street.png"], style=style, legend=False)
    drawing = read_image(Path("work_dirs/show/street.png"))
    assert drawing.shape[0] == 30
    assert drawing.shape[1] == (40 if style != "side" else drawing.shape[1])
    if style == "mask":
        assert {tuple(map(int, c)) for c in drawing.reshape(-1, 3)} == {
            CITYSCAPES.colors[0],
            CITYSCAPES.colors[8],
        }


def test_size_and_mode_reach_the_predictor(predictor):
    picture("street.png")
    visualize.run(
        ["street.png"], size="64x32", mode="whole", device="cpu", precision="fp32", preset="gta2citys"
    )
    assert predictor.asked == [((30, 40, 3), "64x32", "whole")]
    checkpoint, options = predictor.loaded[0]
    assert checkpoint == Path("work_dirs/mine/last.pth")
    assert options["settings"].name == "gta2citys"
    assert (options["device"], options["precision"], options["backbone"]) == ("cpu", "fp32", None)


def test_a_wrong_size_is_told_before_anything_is_loaded(predictor):
    picture("street.png")
    with pytest.raises(ReinError, match="--size: size 'big'"):
        visualize.run(["street.png"], size="big")
    assert not predictor.loaded


def test_what_is_drawn_is_kept_unless_forced(predictor, capsys):
    for name in "abc":
        picture(f"drive/{name}.png")
    visualize.run(["drive"])
    visualize.run(["drive"])
    assert len(predictor.asked) == 3
    assert len(predictor.loaded) == 1  # with nothing to do, nothing is loaded
    assert "3 pictures already drawn are kept" in capsys.readouterr().err
    visualize.run(["drive"], labels=True)
    assert len(predictor.asked) == 6
    visualize.run(["drive"], force=True)
    assert len(predictor.asked) == 9


def test_one_broken_file_does_not_stop_the_rest(predictor):
    for index in range(9):
        picture(f"drive/{index}.png")
    Path("drive/4.png").write_bytes(b"no image")
    done = CliRunner().invoke(app, ["visualize", "drive", "absent.png"])
    assert done.exit_code == 1
    assert done.stdout == "8 pictures drawn into 'work_dirs/show'.\n"
    assert "drive/4.png" in done.stderr
    assert "There is no image or folder at 'absent.png'" in done.stderr
    assert "2 of 10 inputs could not be drawn" in done.stderr
    assert len(list(Path("work_dirs/show").glob("*.png"))) == 8


def test_an_image_that_cannot_be_predicted_is_counted_too(predictor, capsys):
    picture("a.png")
    picture("b.png", width=41)

    def refuse(image):
        if image.shape[1] == 41:
            raise ReinError("Too wide.")

    predictor.before_predict = refuse
    with pytest.raises(ReinError, match="1 of 2 inputs"):
        visualize.run(["a.png", "b.png"])
    assert "b.png: Too wide." in capsys.readouterr().err
    assert Path("work_dirs/show/a.png").exists()


def test_interrupted_says_how_far_it_came(predictor):
    for index in range(9):
        picture(f"drive/{index}.png")

    def stop(image):
        if len(predictor.asked) == 6:
            raise KeyboardInterrupt

    predictor.before_predict = stop
    done = CliRunner().invoke(app, ["visualize", "drive"])
    assert done.exit_code == 130
    assert "Interrupted. 5 of 9 pictures are in 'work_dirs/show'." in done.stderr
    assert len(list(Path("work_dirs/show").glob("*.png"))) == 5
    assert not list(Path("work_dirs/show").glob(".*"))


# --- which checkpoint --------------------------------------------------------------------------------------


def test_the_newest_run_is_taken_and_named(predictor, capsys):
    newer = Path("work_dirs/newer/last.pth")
    newer.parent.mkdir()
    newer.write_bytes(b"")
    os.utime("work_dirs/mine/last.pth", (1, 1))
    picture("a.png")
    visualize.run(["a.png"])
    assert predictor.loaded[0][0] == newer
    err = capsys.readouterr().err
    assert str(newer) in err
    assert "Backbone: 'random'." in err


def test_without_a_run_the_released_checkpoint_is_taken(predictor):
    Path("work_dirs/mine/last.pth").unlink()
    picture("a.png")
    with pytest.raises(ReinError, match=r"no checkpoint.*rein demo"):
        visualize.run(["a.png"])
    Path("checkpoints").mkdir()
    Path("checkpoints/dinov2_rein_and_head.pth").write_bytes(b"")
    visualize.run(["a.png"])
    assert predictor.loaded[0][0] == Path("checkpoints/dinov2_rein_and_head.pth")
    visualize.run(["a.png"], checkpoint=Path("other.pth"), force=True)
    assert predictor.loaded[1][0] == Path("other.pth")
