"""What may be a target: datasets, folders, videos; labels stay closed; what is no target is said."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from reincli.data.targets import (
    draw_frames,
    find_targets,
    frame_samples,
    frames_folder,
    looks_like_label,
    require_apart,
    require_targets,
)
from reincli.errors import ReinError
from reincli.media.images import write_png


@pytest.fixture
def toy(tmp_path) -> Path:
    tiny.write_toy(tmp_path / "toy", ("train", "dusk"), count=4)
    return tmp_path


def data(toy: Path):
    return tiny.settings(data=tiny.own_data(toy / "toy", ("train", "dusk"))).data


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for number in range(frames):
        writer.write(np.full((64, 96, 3), 10 * number, np.uint8))
    writer.release()


def test_a_split_brings_its_images_and_no_label(toy):
    found = find_targets(["toy:dusk"], data(toy))
    assert [sample.name for sample in found.samples] == ["0.png", "1.png", "2.png", "3.png"]
    assert all(sample.label is None for sample in found.samples)
    assert found.notes == ["Labels of 'toy:dusk' are not read: it is a target."]


def test_labels_of_a_split_may_be_anything(toy):
    for path in (toy / "toy" / "labels" / "dusk").iterdir():
        path.unlink()
        path.mkdir()  # whoever opens it, fails
    assert len(find_targets(["toy:dusk"], data(toy)).samples) == 4
    (toy / "toy" / "labels" / "dusk").rename(toy / "elsewhere")
    found = find_targets(["toy:dusk"], data(toy))
    assert (len(found.samples), found.notes) == (4, [])


def test_a_folder_is_walked_and_labels_beside_the_images_are_left_out(toy):
    folder = toy / "drive"
    for name in (
        "a/0.png",
        "a/1.jpg",
        "0_labelTrainIds.png",
        "labels/0.png",
        "gtFine/x/1.png",
        "1_color.png",
    ):
        write_png(folder / name, np.zeros((8, 8, 3), np.uint8))
    found = find_targets([str(folder)], data(toy))
    assert [sample.name for sample in found.samples] == ["a/0.png", "a/1.jpg"]
    assert len(found.notes) == 1
    assert "4 files below" in found.notes[0]
    assert "left out" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("x/munster_000_gtFine_labelIds.png", True),
        ("GT/0.png", True),
        ("x/0_mask.png", True),
        ("x/maskable.png", False),
        ("x/0_leftImg8bit.png", False),
        ("labelled_by_hand.png", False),
    ],
)
def test_names_of_labels(name, label):
    assert looks_like_label(Path(name)) is label


def test_an_image_named_twice_is_taken_once(toy):
    folder = str(toy / "toy" / "images" / "dusk")
    assert len(find_targets(["toy:dusk", folder, folder], data(toy)).samples) == 4


def test_frames_of_a_video_are_drawn_evenly_and_once(toy):
    write_video(toy / "drive.mp4", 20)
    found = find_targets([str(toy / "drive.mp4")], data(toy))
    assert found.videos == [toy / "drive.mp4"]
    folder = frames_folder(toy / "run", 0, toy / "drive.mp4")
    draw_frames(toy / "drive.mp4", folder, 5)
    samples = frame_samples(folder)
    assert [sample.image.stem for sample in samples] == [
        "0000000",
        "0000004",
        "0000008",
        "0000012",
        "0000016",
    ]
    levels = [cv2.imread(str(sample.image)).mean() for sample in samples]
    assert np.abs(np.asarray(levels) - [0, 40, 80, 120, 160]).max() < 4
    before = samples[0].image.stat().st_mtime_ns
    draw_frames(toy / "drive.mp4", folder, 5)
    assert frame_samples(folder)[0].image.stat().st_mtime_ns == before
    assert sorted(path.name for path in (toy / "run" / "frames").iterdir()) == ["0_drive"]


def test_frames_that_were_half_drawn_are_drawn_again(toy):
    write_video(toy / "drive.mp4", 4)
    folder = frames_folder(toy / "run", 0, toy / "drive.mp4")
    left = folder.with_name(f".{folder.name}.tmp")
    left.mkdir(parents=True)
    (left / "9999999.jpg").write_bytes(b"of a run that was killed")
    draw_frames(toy / "drive.mp4", folder, 5)
    assert len(frame_samples(folder)) == 4
    assert not left.exists()


def nothing(toy: Path) -> str:
    (toy / "empty").mkdir()
    return str(toy / "empty")


def labels_alone(toy: Path) -> str:
    write_png(toy / "only" / "a_labelIds.png", np.zeros((8, 8), np.uint8))
    return str(toy / "only")


def no_colours(toy: Path) -> str:
    (toy / "strange").mkdir()
    for index in range(4):
        (toy / "strange" / f"{index}.tif").write_bytes(b"II*\0" + bytes(60))
    return str(toy / "strange")


def few(toy: Path) -> str:
    write_png(toy / "few" / "a.png", np.zeros((8, 8, 3), np.uint8))
    return str(toy / "few")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing, "No image or video was found at"),
        (labels_alone, "holds labels alone"),
        (lambda toy: str(toy / "toy" / "labels"), "holds labels alone"),
        (few, "has 1 image, fewer than a batch takes"),
        (no_colours, "a TIFF: it is damaged, or of a kind that OpenCV does not read"),
        (lambda toy: "camera:0", "is a camera"),
        (lambda toy: "toy:night", "has no split 'night'"),
        (lambda toy: str(toy / "nowhere"), "No image or video was found at"),
    ],
)
def test_what_is_no_target(toy, make, message):
    with pytest.raises(ReinError, match=message) as caught:
        require_targets([make(toy)], data(toy), 2)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("target", "run", "refused"),
    [
        ("drive", "drive", True),
        ("drive", "drive/../drive/runs/a", True),
        (".", "work_dirs/a", True),
        ("link", "drive/a", True),
        ("drive/**/*.png", "drive/runs/a", True),
        ("run/*.png", "run", True),
        ("drive", "driven", False),
        ("*.png", "work_dirs/a", False),
        ("drive/a", "drive", False),
        ("toy:dusk", "toy:dusk", False),
    ],
)
def test_a_run_does_not_lie_in_its_target(tmp_path, monkeypatch, target, run, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drive" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("drive")
    with pytest.raises(ReinError, match="its own pictures would be adapted to") if refused else nullcontext():
        require_apart([target], Path(run))


def test_grey_images_are_taken_and_told(toy):
    for index in range(3):
        write_png(toy / "grey" / f"{index}.png", np.full((8, 8), 50 * index, np.uint8))
    assert require_targets([str(toy / "grey")], data(toy), 2) == [
        "The target's images are grey: they are taken as colour images without colour."
    ]
