"""Killed runs, folders given wrongly, read-only disks, pairs known to be odd, and a second run of 25,000 files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from reincli.commands.prepare_data import run
from reincli.config import DataSettings
from reincli.data.images import read_label, write_png
from reincli.data.planning import plan
from reincli.data.prepare import clear_leftovers, is_whole, run_jobs
from reincli.data.sources import find_samples
from reincli.errors import ReinError


def gta(root: Path, count: int, side: int = 8) -> None:
    for i in range(count):
        write_png(root / f"images/{i:05}.png", np.full((side, side, 3), 90, np.uint8))
        write_png(root / f"labels/{i:05}.png", np.full((side, side), 26, np.uint8))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    gta(tmp_path, 60, side=300)
    code = "from pathlib import Path; from reincli.commands.prepare_data import run; "
    code += f"run('gta', Path({str(tmp_path)!r}), workers=2)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("labels/*TrainIds.png")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = list(tmp_path.glob("labels/*TrainIds.png"))
    assert made
    assert all(is_whole(path) and (read_label(path) == 13).all() for path in made)
    states = [outcome.state for outcome in run_jobs(plan("gta", tmp_path))]
    assert states.count("kept") == len(made)
    assert states.count("written") == 60 - len(made)


def test_unfinished_files_of_a_killed_run_are_removed_but_not_young_ones(tmp_path: Path) -> None:
    gta(tmp_path, 1)
    old, young = tmp_path / "labels/.a.png.1.tmp", tmp_path / "labels/.b.png.2.tmp"
    old.touch()
    young.touch()
    os.utime(old, (1e9, 1e9))
    assert clear_leftovers(plan("gta", tmp_path)) == 1
    assert not old.exists()
    assert young.exists()


@pytest.mark.slow
def test_a_second_run_over_25000_files_opens_and_writes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gta(tmp_path, 1)
    for kind in ("images", "labels"):
        data = (tmp_path / kind / "00000.png").read_bytes()
        for i in range(25_000):
            (tmp_path / kind / f"{i:05}.png").write_bytes(data)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    run("gta", tmp_path, workers=2)
    capsys.readouterr()

    def refuse(*given: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("reincli.data.images.cv2.imread", refuse)
    monkeypatch.setattr("reincli.data.images.cv2.imdecode", refuse)
    begun = time.time_ns()
    run("gta", tmp_path, workers=1)
    assert "Nothing to do: 0 files written, 25000 were there" in capsys.readouterr().out
    assert all(file.stat().st_mtime_ns < begun for file in os.scandir(tmp_path / "labels"))


# --- folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("..", "one level deeper, in "),
        ("../..", "It lies deeper, in "),
        ("labels", "one level higher, in "),
        ("images/sub", "It lies higher, in "),
    ],
)
def test_a_wrong_level_is_recognised(tmp_path: Path, given: str, told: str) -> None:
    root = tmp_path / "over/data/gta"
    gta(root, 1)
    (root / "images/sub").mkdir()
    with pytest.raises(ReinError) as caught:
        run("gta", (root / given).resolve(), workers=1)
    assert told in caught.value.hint
    assert str(root) in caught.value.hint


def test_a_missing_download_is_named_with_address_and_place(tmp_path: Path) -> None:
    (tmp_path / "cityscapes/leftImg8bit/train").mkdir(parents=True)
    with pytest.raises(ReinError) as caught:
        run("cityscapes", tmp_path / "cityscapes", workers=1)
    for told in (
        "gtFine_trainvaltest.zip",
        "https://www.cityscapes-dataset.com",
        str(tmp_path / "cityscapes"),
    ):
        assert told in caught.value.hint


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "01_images.zip").touch()
    with pytest.raises(ReinError, match="is a file, not the folder"):
        run("gta", tmp_path / "01_images.zip")


def test_a_read_only_folder_is_one_error_and_out_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a read-only disk is made up: tests may run as root, whom no mode stops."""
    gta(tmp_path / "disk", 3)
    real = os.replace

    def replace(source: str, target: str) -> None:
        if str(target).startswith(str(tmp_path / "disk")):
            raise OSError(30, "Read-only file system")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ReinError, match=r"Cannot write .*Read-only file system") as caught:
        run("gta", tmp_path / "disk", workers=1)
    assert "another folder" in caught.value.hint
    run("gta", tmp_path / "disk", out=tmp_path / "out", workers=1)
    assert len(list((tmp_path / "out/labels").iterdir())) == 3
    assert not list((tmp_path / "disk").rglob("*.tmp"))


def test_spaces_other_scripts_and_links(tmp_path: Path) -> None:
    gta(tmp_path / "wirklich da/データ", 2)
    (tmp_path / "gta").symlink_to(tmp_path / "wirklich da/データ")
    run("gta", tmp_path / "gta", workers=1)
    assert len(find_samples("gta", DataSettings(root=str(tmp_path)))) == 2


# --- BDD100K -----------------------------------------------------------------------------------------------


def test_bdd_pairs_that_are_odd_as_released_are_reported_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "bdd100k"
    images, labels = root / "images/10k/val", root / "labels/sem_seg/masks/val"
    for name, shape in (("a", (72, 128)), ("b", (128, 72)), ("80a9e37d-e4548ac1", (72, 128))):
        write_png(images / f"{name}.jpg", np.zeros((*shape, 3), np.uint8))
    for name in ("a_train_id", "b", "ff7b98c7-3cb964ac"):
        write_png(labels / f"{name}.png", np.zeros((72, 128), np.uint8))
    run("bdd100k", root, workers=1)
    assert "2 files were released without a partner" in capsys.readouterr().err
    run("bdd100k", root, workers=1, check=True)
    text = capsys.readouterr().out
    assert "val, sides exchanged: b.jpg is 72x128, its label 128x72" in text
    assert len(find_samples("bdd100k", DataSettings(root=str(tmp_path)))) == 2
    write_png(images / "c.jpg", np.zeros((72, 128, 3), np.uint8))
    with pytest.raises(ReinError, match=r"1 of 3 images have no label: c\.jpg"):
        run("bdd100k", root, workers=1)


# --- compact copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lossless", [False, True])
def test_compact_copies_are_written_once(
    tmp_path: Path, lossless: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    gta(tmp_path, 2)
    run("gta", tmp_path, workers=1, cache=True, lossless=lossless)
    assert "2 compact copies written" in capsys.readouterr().out
    run("gta", tmp_path, workers=1, cache=True, lossless=lossless)
    assert "Nothing to do" in capsys.readouterr().out
    run("gta", tmp_path, workers=1, cache=True, lossless=not lossless)
    assert "2 compact copies written" in capsys.readouterr().out
    with pytest.raises(ReinError, match="--lossless"):
        run("gta", tmp_path, lossless=True)
