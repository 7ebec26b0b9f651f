"""Killed runs, folders given wrongly, read-only disks, pairs known to be odd, and a second run of 25,000 files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
from layouts import Expected

from reincli.commands.prepare_data import run
from reincli.config import DataSettings
from reincli.data.labels import CITYSCAPES, MAPILLARY
from reincli.data.loading import load_label, open_pair
from reincli.data.sources import find_samples, label_table
from reincli.errors import ReinError
from reincli.media.images import read_image_like, with_turn, write_png
from reincli.prepare.convert import half_size
from reincli.prepare.corruption import choose
from reincli.prepare.planning import plan
from reincli.prepare.prepare import is_whole, run_jobs


def gta(root: Path, count: int, side: int = 8) -> None:
    for i in range(count):
        write_png(root / f"images/{i:05}.png", np.full((side, side, 3), 90, np.uint8))
        write_png(root / f"labels/{i:05}.png", np.full((side, side), 26, np.uint8))


# --- stopped and killed ------------------------------------------------------------------------------------

STOPPED = [
    "gta",  # threads that convert labels
    pytest.param("cityscapes", marks=pytest.mark.slow),  # processes that draw polygons
    pytest.param("mapillary", marks=pytest.mark.slow),  # threads that also shrink photographs
    pytest.param("cityscapes-c", marks=pytest.mark.slow),  # processes that corrupt
]


TIMES = {"cityscapes": 210, "cityscapes-c": 20}
"""Files of each kind: so many that none is done before it is stopped. From 200 polygons on processes draw them."""


def many(dataset: str, root: Path) -> Expected:
    """A dataset of a few hundred files: one of each kind, and links to it under other names."""
    made_from = "cityscapes" if dataset == "cityscapes-c" else dataset
    place = root.parent / made_from
    expected = layouts.write(made_from, place, (384, 192) if dataset != "cityscapes-c" else (64, 32), count=1)
    times = TIMES.get(dataset, 500)
    for path in [path for path in place.rglob("*") if path.is_file()]:
        for number in range(times):
            os.link(path, path.with_name(f"{number:03}-{path.name}"))
    return expected


def heeds_ctrl_c() -> None:
    """A shell that runs the tests in the background has told them to ignore it, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop(dataset: str, root: Path, how: Callable[[int], None]) -> tuple[int, str, int]:
    """Start the command, stop it when a first file is there; exit code, what it said, and its process group."""
    words = [sys.executable, "-m", "reincli", "prepare-data", dataset, str(root), "--workers", "2"]
    words += ["--corruption", "fog", "--corruption", "brightness"] if dataset == "cityscapes-c" else []
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=heeds_ctrl_c,
    )  # fmt: skip
    targets = [
        job.writes for job in plan(dataset, root) if job.corruption is None or job.corruption.name == "fog"
    ]
    deadline = time.monotonic() + 120
    while not any(map(os.path.exists, targets)) and time.monotonic() < deadline:
        time.sleep(0.002)
    how(process.pid)
    _, said = process.communicate(timeout=120)
    return process.returncode, said.decode(), process.pid


def is_alone(group: int) -> bool:
    """Whether nothing of a process group is left, after a while."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
@pytest.mark.parametrize("way", ["Ctrl-C", "kill -9"])
@pytest.mark.parametrize("dataset", STOPPED)
def test_a_stopped_run_leaves_whole_files_and_goes_on(tmp_path: Path, dataset: str, way: str) -> None:
    if dataset == "cityscapes-c":
        pytest.importorskip("imagecorruptions", reason="the extra [corruptions] is not installed")
    root = tmp_path / dataset
    expected = many(dataset, root)
    if way == "Ctrl-C":
        code, said, group = stop(dataset, root, lambda pid: os.killpg(pid, signal.SIGINT))
        assert code == 130
        there = sum(job.target.exists() for job in plan(dataset, root))
        assert f"{there} of " in said
        assert "The same command goes on from there." in said
        assert "Traceback" not in said
        assert not list(root.rglob("*.tmp"))
    else:
        code, said, group = stop(dataset, root, lambda pid: os.kill(pid, signal.SIGKILL))
        assert code == -signal.SIGKILL
    assert is_alone(group), "a process outlives the run"
    chosen = choose(["fog", "brightness"], [], 0)
    jobs = plan(dataset, root, None, chosen)
    made = [job for job in jobs if job.target.exists()]
    assert 0 < len(made) < len(jobs)
    assert all(is_whole(job.target) for job in made)
    states = [outcome.state for outcome in run_jobs(jobs, workers=2)]
    assert states.count("kept") == len(made)
    assert states.count("written") == len(jobs) - len(made)
    if dataset == "cityscapes-c":
        return
    for source, labels in expected.items():
        (wanted,) = labels.values()
        samples = find_samples(source, DataSettings(root=str(tmp_path)))
        assert len(samples) == TIMES.get(dataset, 500) + 1
        for sample in samples:
            np.testing.assert_array_equal(load_label(sample, label_table(dataset, DataSettings())), wanted)


def test_a_label_that_is_a_link_to_its_raw_file_is_no_label(tmp_path: Path) -> None:
    gta(tmp_path, 1)
    jobs = plan("gta", tmp_path)
    Path(jobs[0].writes).symlink_to(jobs[0].reads)
    raw = Path(jobs[0].reads).read_bytes()
    with pytest.raises(ReinError, match="the same file"):
        list(run_jobs(jobs, force=True))
    assert Path(jobs[0].reads).read_bytes() == raw


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

    monkeypatch.setattr("reincli.media.images.cv2.imread", refuse)
    monkeypatch.setattr("reincli.media.images.cv2.imdecode", refuse)
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


def test_names_with_spaces_of_any_script_and_links_to_files(tmp_path: Path) -> None:
    gta(tmp_path / "elsewhere", 1)
    root = tmp_path / "gta"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        shutil.copy(tmp_path / f"elsewhere/{kind}/00000.png", root / kind / "eine Straße, 通り.png")
        (root / kind / "link.png").symlink_to(tmp_path / f"elsewhere/{kind}/00000.png")
    run("gta", root, workers=2)
    samples = find_samples("gta", DataSettings(root=str(tmp_path)))
    assert [sample.name for sample in samples] == ["eine Straße, 通り.png", "link.png"]
    assert all((load_label(sample, label_table("gta", DataSettings())) == 13).all() for sample in samples)
    assert len(list((tmp_path / "elsewhere/labels").iterdir())) == 1  # written beside the link, not behind it


@pytest.mark.parametrize(
    "dataset", ["cityscapes", "gta", "synthia", "urbansyn", "mapillary", "bdd100k", "acdc"]
)
def test_every_dataset_is_found_one_level_too_high_or_too_low(tmp_path: Path, dataset: str) -> None:
    root = tmp_path / "data" / dataset
    layouts.write(dataset, root, count=1)
    below = next(path for path in sorted(root.iterdir()) if path.is_dir())
    ways = [(root.parent, "one level deeper, in"), (below, "one level higher, in")]
    if dataset == "bdd100k":  # its archives may lie in folders of their own
        run(dataset, ways.pop(0)[0], workers=1)
    for given, told in ways:
        with pytest.raises(ReinError) as caught:
            run(dataset, given, workers=1)
        assert told in caught.value.hint
        assert f"'{root}'" in caught.value.hint


@pytest.mark.parametrize("kind", ["colour", "alpha", "16 bit", "text"])
def test_labels_of_another_kind_are_named_and_the_others_are_made(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gta(tmp_path, 3)
    path = tmp_path / "labels/00001.png"
    stored = {
        "colour": np.full((8, 8, 3), 90, np.uint8),
        "alpha": np.full((8, 8, 4), 90, np.uint8),
        "16 bit": np.full((8, 8), 900, np.uint16),
    }
    if kind == "text":
        path.write_text("not here")
    else:
        cv2.imwrite(str(path), stored[kind])
    with pytest.raises(ReinError, match=r"1 of 3 labels could not be prepared: .*00001\.png"):
        run("gta", tmp_path, workers=2)
    assert "00001.png" in capsys.readouterr().err
    assert len(list((tmp_path / "labels").glob("*_labelTrainIds.png"))) == 2


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (2, 3)])
def test_tiny_images_are_prepared_and_checked(tmp_path: Path, size: tuple[int, int]) -> None:
    gta(tmp_path, 1)
    write_png(tmp_path / "images/00000.png", np.zeros((*size, 3), np.uint8))
    write_png(tmp_path / "labels/00000.png", np.full(size, 26, np.uint8))
    run("gta", tmp_path, workers=1)
    run("gta", tmp_path, workers=1, check=True)
    assert half_size(*size) == (max(size[0] // 2, 1), max(size[1] // 2, 1))


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("as_stored", [True, False])
def test_a_turned_photograph_keeps_its_turn_at_half_size(tmp_path: Path, turn: int, as_stored: bool) -> None:
    """Vistas photographs with a note on how the camera was held; the label lies as stored, or as turned."""
    layouts.write("mapillary", tmp_path / "mapillary", count=1)
    (image,) = (tmp_path / "mapillary/validation/images").iterdir()
    (raw,) = (tmp_path / "mapillary/validation/v1.2/labels").iterdir()
    indices = layouts.street(3, (129, 65))[2]
    upright = {1: indices, 3: indices[::-1, ::-1], 6: np.rot90(indices, -1), 8: np.rot90(indices)}[turn]
    layouts.jpeg(image, CITYSCAPES.palette()[indices])
    image.write_bytes(with_turn(image.read_bytes(), turn))
    label = np.ascontiguousarray(indices if as_stored else upright)
    first_id = {index: stored for stored, (_, index) in reversed(list(enumerate(MAPILLARY)))}
    layouts.palette_png(raw, np.vectorize(first_id.get)(label).astype(np.uint8))
    run("mapillary", tmp_path / "mapillary", workers=1)
    (sample,) = find_samples("mapillary", DataSettings(root=str(tmp_path)))
    pair = open_pair(sample, label_table("mapillary", DataSettings()))
    assert pair.shape == pair.label.shape == (label.shape[0] // 2, label.shape[1] // 2)
    shown = read_image_like(sample.image, pair.shape).astype(int)
    if turn == 3 and as_stored:
        return  # upside down, the sizes do not tell: the note is believed
    assert np.abs(shown - CITYSCAPES.palette()[pair.label]).mean() < 20


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
