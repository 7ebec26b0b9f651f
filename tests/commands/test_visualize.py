"""`rein visualize` with a predictor that needs no weights: which images, what is written, what is said."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from terminal import rein

from reincli.commands import visualize, visualize_pictures, visualize_request
from reincli.commands.console import configure
from reincli.data.labels import CITYSCAPES
from reincli.errors import ReinError
from reincli.media.images import read_image, read_label, write_png
from reincli.media.video import Video
from reincli.prediction.predict import Prediction


class FakePredictor:
    """Predicts class 8 where a pixel is mostly green, class 0 elsewhere."""

    classes = CITYSCAPES
    settings = tiny.settings()
    notes = ["Backbone: 'random'."]
    doubts = []
    image_batch = 1

    def __init__(self):
        self.asked = []
        self.before_predict = lambda image: None

    def predict(self, images, *, size="native", mode=None, keep_scores=False):
        return [self.one(image, size, mode) for image in images]

    def require_scores(self):
        pass

    def one(self, image, size, mode):
        self.asked.append((image.shape, size, mode))
        self.before_predict(image)
        label = np.where(image[..., 1] > image[..., 0], np.uint8(8), np.uint8(0))

        def scores():
            found = torch.zeros(19, *label.shape)
            found[0], found[8] = torch.from_numpy(label == 0) * 0.6, torch.from_numpy(label == 8) * 3.0
            return found

        return Prediction(image, label, CITYSCAPES, scores)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working folder with one finished run."""
    monkeypatch.chdir(tmp_path)
    checkpoint = Path("work_dirs/mine/last.pth")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    yield tmp_path
    configure(quiet=False)


@pytest.fixture(autouse=True)
def predictor(monkeypatch):
    fake = FakePredictor()
    fake.loaded = []

    def load_segmentor(checkpoint, **options):
        fake.loaded.append((checkpoint, options))
        return fake

    monkeypatch.setattr("reincli.prediction.opening.open_segmentor", load_segmentor)
    return fake


def picture(path, width=40, height=30):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = (200, 0, 0)
    image[:, width // 2 :] = (0, 200, 0)
    write_png(Path(path), image)
    return image


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
    assert "Kept as drawn already: 3 pictures" in capsys.readouterr().err
    visualize.run(["drive"], labels=True)
    assert len(predictor.asked) == 6
    visualize.run(["drive"], force=True)
    assert len(predictor.asked) == 9


def test_one_broken_file_does_not_stop_the_rest(predictor):
    for index in range(9):
        picture(f"drive/{index}.png")
    Path("drive/4.png").write_bytes(b"no image")
    done = rein("visualize", "drive", "absent.png", code=1)
    assert done.stdout == "8 pictures drawn into 'work_dirs/show'.\n"
    assert "drive/4.png" in done.stderr
    assert "There is no image, video or folder at 'absent.png'" in done.stderr
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
    done = rein("visualize", "drive", code=130)
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
    Path("other.pth").write_bytes(b"")
    visualize.run(["a.png"], checkpoint=Path("other.pth"), force=True)
    assert predictor.loaded[1][0] == Path("other.pth")


# --- styles that need more ---------------------------------------------------------------------------------


def reds(path):
    drawing = read_image(Path(path)).astype(int)
    return (drawing[..., 0] - drawing[..., 2] > 60).sum()


def test_error_against_labels_found_by_name(capsys):
    for name in ("drive/sub/a.png", "drive/b_leftImg8bit.png", "drive/c.png"):
        picture(name)
    truth = np.zeros((30, 40), np.uint8)
    truth[:, 20:] = 8
    write_png(Path("gt/sub/a.png"), truth)
    write_png(Path("gt/b_gtFine_labelTrainIds.png"), 8 - truth)
    with pytest.raises(ReinError, match="1 of 3"):
        visualize.run(["drive"], truth=Path("gt"), style="error", legend=False)
    assert reds("work_dirs/show/sub/a.png") == 0
    assert reds("work_dirs/show/b_leftImg8bit.png") == 30 * 40
    assert "'drive/c.png' has no label under 'gt'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        (np.full((30, 40), 33, np.uint8), "value 33"),
        (np.zeros((15, 20), np.uint8), "is 20x15, its image 40x30"),
    ],
)
def test_labels_that_do_not_fit_are_named(truth, words, capsys):
    picture("a.png")
    write_png(Path("gt.png"), truth)
    with pytest.raises(ReinError, match="1 of 1"):
        visualize.run(["a.png"], truth=Path("gt.png"), style="error")
    assert words in capsys.readouterr().err


def test_compare_draws_both(predictor):
    picture("a.png")
    Path("other.pth").write_bytes(b"")
    visualize.run(["a.png"], compare=Path("other.pth"), compare_backbone=Path("b.pth"), compare_preset="demo")
    assert len(predictor.asked) == 2
    assert predictor.loaded[1][1]["backbone"] == Path("b.pth")
    assert predictor.loaded[1][1]["settings"] == "demo"
    assert read_image(Path("work_dirs/show/a.png")).shape[1] > 80


def test_titles_tell_two_checkpoints_apart():
    assert visualize.titles_of(Path("w/rein/last.pth"), Path("w/frozen/last.pth")) == ("rein", "frozen")
    assert visualize.titles_of(Path("w/rein/a.pth"), Path("w/rein/b.pth")) == ("a", "b")
    assert visualize.titles_of(Path("v/rein/a.pth"), Path("w/rein/a.pth"))[0] == "v/rein/a.pth"


def test_confidence_fades_what_is_unsure():
    picture("a.png")
    visualize.run(["a.png"], style="mask", legend=False, confidence=True)
    drawing = read_image(Path("work_dirs/show/a.png")).astype(int)
    assert (drawing[5, 35] == CITYSCAPES.colors[8]).all()  # 3 of 3: sure
    assert drawing[5, 5].min() > CITYSCAPES.colors[0][1] + 30  # 0.6 of 1: paler


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"style": "error"}, "--gt"),
        ({"style": "compare"}, "second checkpoint"),
        ({"style": "mask", "compare": Path("b.pth")}, "do not go together"),
        ({"truth": Path("absent")}, "absent"),
        ({"start": "soon"}, "--start 'soon' is no time"),
        ({"start": "10", "end": "5"}, "not after"),
    ],
)
def test_contradicting_options_are_wrong_use(options, words, predictor):
    picture("a.png")
    with pytest.raises(ReinError, match=words) as caught:
        visualize.run(["a.png"], **options)
    assert caught.value.usage
    assert not predictor.loaded


@pytest.mark.parametrize(
    ("named", "follow"),
    [
        ("a.png last.pth", "a.png --checkpoint last.pth"),
        ("last.pth a.png m.onnx", "a.png --checkpoint last.pth"),
        ("last.pth m.onnx", "FOLDER --checkpoint last.pth"),
        ("m.bin a.png", "a.png --checkpoint m.xml"),
        ("m.xml m.bin a.png", "a.png --checkpoint m.xml"),
    ],
)
def test_checkpoints_among_pictures_lead_to_a_command_without_them(tmp_path, monkeypatch, named, follow):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "last.pth", "m.onnx", "m.xml", "m.bin"):
        Path(name).touch()
    with pytest.raises(ReinError) as caught:
        visualize_request.require_pictures(named.split())
    assert caught.value.hint == f"rein visualize {follow}"
    visualize_request.require_pictures(["a.png"])


def test_times_are_seconds_minutes_or_hours():
    assert [visualize_request.seconds(t, "--end") for t in (None, "90", "1:30", "0:01:30.5")] == [
        None,
        90,
        90,
        90.5,
    ]


# --- sheets and ranks --------------------------------------------------------------------------------------


def test_sheet_shows_new_and_kept_drawings(capsys):
    for name in ("drive/a.png", "drive/sub/b & c.png"):
        picture(name)
    visualize.run(["drive"])
    visualize.run(["drive"], sheet=True, out=Path("work_dirs/show"))
    assert read_image(Path("work_dirs/show/contact-sheet.png")).shape[1] > 700
    page = Path("work_dirs/show/contact-sheet.html").read_text()
    assert 'src="sub/b%20%26%20c.png"' in page
    assert "sub/b &amp; c.png" in page
    assert "../../drive/a.png" in page
    assert "contact-sheet.html" in capsys.readouterr().out


def test_a_picture_of_the_sheets_name_is_not_replaced():
    drawing = picture("drive/contact-sheet.png")
    visualize.run(["drive"], sheet=True, legend=False, style="side", out=Path("shown"))
    assert (read_image(Path("shown/contact-sheet.png"))[:, :40] == drawing).all()
    assert Path("shown/contact-sheet-.png").exists()


def test_processes_share_a_folder(monkeypatch, predictor, capsys):
    for index in range(5):
        picture(f"drive/{index}.png")
    monkeypatch.setattr("reincli.engine.ranks.Rank.gather", lambda self, value: [value, (3, [])])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    visualize.run(["drive"])
    assert sorted(p.name for p in Path("work_dirs/show").glob("*.png")) == ["1.png", "3.png"]
    assert capsys.readouterr().out == ""  # the first process speaks for all
    monkeypatch.setenv("RANK", "0")
    visualize.run(["drive"])
    assert len(list(Path("work_dirs/show").glob("*.png"))) == 5
    assert capsys.readouterr().out.startswith("6 pictures drawn")


def test_a_full_disk_stops_and_is_said(monkeypatch):
    for index in range(4):
        picture(f"drive/{index}.png")

    def full(path, array, mark):
        raise ReinError(f"Cannot write '{path}': No space left on device.")

    monkeypatch.setattr(visualize_pictures, "write_drawing", full)
    with pytest.raises(ReinError, match="No space left"):
        visualize.run(["drive"])
    assert not list(Path("work_dirs/show").glob("**/*.png"))


# --- videos and cameras ------------------------------------------------------------------------------------


def film(path, count=12, rate=8.0):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (64, 48))
    for number in range(count):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, : 4 * (number + 1), 1] = 200  # green grows from the left
        frame[:, 4 * (number + 1) :, 2] = 200
        writer.write(frame)
    writer.release()


def greens(path):
    """Width of the green part of each frame of a mask video, in steps of the film."""
    video = Video(Path(path))
    return [
        int(
            np.rint(
                (np.abs(f[20].astype(int) - CITYSCAPES.colors[8]).sum(1) < 90).sum() / 4 * 64 / f.shape[1]
            )
        )
        for f in video.read(video.span())
    ]


def test_a_video_becomes_a_video_of_the_same_rate_and_length(predictor, capsys):
    film("drive/straße.mp4")
    visualize.run(["drive"], style="mask", labels=True)
    drawn = Video(Path("work_dirs/show/straße.mp4"))
    assert (drawn.rate, drawn.frames) == (8.0, 12)
    assert greens(drawn.path) == list(range(1, 13))
    assert len(list(Path("work_dirs/show/straße_labelTrainIds").glob("*.png"))) == 12
    assert not list(Path("work_dirs/show").glob(".*"))
    visualize.run(["drive"], style="mask", labels=True)
    assert len(predictor.asked) == 12  # kept


def test_part_of_a_video(predictor):
    film("a.mp4")
    visualize.run(["a.mp4"], style="mask", start="0.25", end="0:01.25", every=2)
    drawn = Video(Path("work_dirs/show/a.mp4"))
    assert (drawn.rate, drawn.frames) == (4.0, 4)  # plays as long as the part does
    assert greens(drawn.path) == [3, 5, 7, 9]


def test_an_interrupted_video_leaves_none_and_is_gone_on_with(predictor, capsys):
    film("a.mp4")

    def stop(image):
        if len(predictor.asked) == 8:
            raise KeyboardInterrupt

    predictor.before_predict = stop
    with pytest.raises(KeyboardInterrupt, match=r"a\.mp4: \d+ of 12 frames are kept"):
        visualize.run(["a.mp4"], style="mask")
    assert not Path("work_dirs/show/a.mp4").exists()
    predictor.before_predict = lambda image: None
    visualize.run(["a.mp4"], style="mask")
    assert 12 < len(predictor.asked) < 20  # not all again
    assert greens("work_dirs/show/a.mp4") == list(range(1, 13))
    assert "from an earlier run" in capsys.readouterr().err
    assert not list(Path("work_dirs/show").glob(".*"))


def test_a_video_cut_short_is_drawn_as_far_as_it_goes(monkeypatch, capsys):
    film("a.avi")
    picture("b.png")
    monkeypatch.setattr(Video, "read", lambda self, span, read=Video.read: read(self, span[:7]))
    Path("c.mp4").write_bytes(b"no video")
    with pytest.raises(ReinError, match="2 of 3 inputs"):
        visualize.run(["a.avi", "c.mp4", "b.png"], style="mask")
    err = capsys.readouterr().err
    assert "7 of 12 frames could be read" in err
    assert "Cannot decode the video 'c.mp4'" in err
    assert greens("work_dirs/show/a.mp4") == list(range(1, 8))


def test_labels_go_with_images_only(capsys):
    film("a.mp4")
    Path("gt").mkdir()
    with pytest.raises(ReinError, match="1 of 1"):
        visualize.run(["a.mp4"], truth=Path("gt"), style="error")
    assert "is a video" in capsys.readouterr().err


def test_drawn_videos_inside_the_input_folder_are_not_read_again(predictor):
    film("drive/a.mp4")
    visualize.run(["drive"], out=Path("drive/shown"))
    visualize.run(["drive"], out=Path("drive/shown"), force=True)
    assert [p.name for p in Path("drive/shown").rglob("*") if p.is_file()] == ["a.mp4"]


def test_a_camera_that_is_not_there_is_said():
    done = rein("visualize", "camera:93", code=1)
    assert "There is no camera 93" in done.stderr


@pytest.mark.parametrize("stopped", [False, True])
def test_a_camera_is_recorded_in_real_time(monkeypatch, predictor, capsys, stopped):
    class Capture:
        def __init__(self, source):
            self.number = 0

        def isOpened(self):  # noqa: N802
            return True

        def get(self, what):
            return 20.0

        def read(self):
            time.sleep(0.05)
            self.number += 1
            return True, np.full((48, 64, 3), self.number % 200, np.uint8)

        def release(self):
            pass

    def slow(image):
        time.sleep(0.15)
        if stopped and len(predictor.asked) == 5:
            raise KeyboardInterrupt

    predictor.before_predict = slow
    with monkeypatch.context() as patch:
        patch.setattr("cv2.VideoCapture", Capture)
        visualize.run(["camera:3"], end=None if stopped else "1")
    (path,) = (p for p in Path("work_dirs/show").glob("camera-3-*.mp4"))
    video = Video(path)
    assert video.rate == 20.0
    assert 0.3 < video.frames / video.rate < 1.3  # not the number of frames that were predicted
    assert len(predictor.asked) < 9
    assert "frames predicted" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_of_torchrun_draw_a_folder_together(place):
    chosen = tiny.settings()
    tiny.write_backbone(Path("backbone.pth"), chosen)
    tiny.write_checkpoint(Path("head.pth"), chosen)
    for index in range(5):
        picture(f"drive/{index}.png")
    Path("drive/broken.png").write_bytes(b"no image")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "reincli"]
    options = [
        "--checkpoint",
        "head.pth",
        "--backbone",
        "backbone.pth",
        "--device",
        "cpu",
        "--out",
        "shown",
        "--sheet",
    ]
    done = subprocess.run([*launch, "visualize", "drive", *options], capture_output=True, text=True)
    assert done.returncode != 0  # one is broken
    assert "5 pictures drawn into 'shown'." in done.stdout
    assert "1 of 6 inputs could not be drawn" in done.stderr
    assert len(list(Path("shown").glob("*.png"))) == 6
