"""Each dataset's labels in their true file format, and what becomes of them, to the pixel."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from layouts import palette_png
from PIL import Image

from reincli.commands.prepare_data import run
from reincli.config import DataSettings
from reincli.data.check import class_pixels, inspect
from reincli.data.labels import LABEL_IDS, MAPILLARY, SYNTHIA_IDS, count_values
from reincli.data.missing import command_for, hint
from reincli.data.sources import Sample, find_samples, label_table
from reincli.errors import ReinError
from reincli.generated.streets import write_scenes
from reincli.media.images import read_image, read_label, write_png
from reincli.prepare.convert import from_label_ids, from_mapillary, from_polygons, from_synthia, half_size
from reincli.prepare.prepare import failure, is_whole, plan, prepare, run_jobs

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def ids(count: int, shape: tuple[int, int] = (12, 20)) -> np.ndarray:
    """Every value below `count`, over and over."""
    return np.resize(np.arange(count, dtype=np.uint8), shape)


def expected(stored: np.ndarray, by_class: tuple[int, ...]) -> np.ndarray:
    """The plain definition: search each value's class."""
    return np.vectorize(lambda v: by_class.index(v) if v in by_class else 255)(stored).astype(np.uint8)


def polygons(path: Path, *objects: tuple[str, list[list[int]]], deleted: tuple[str, ...] = ()) -> None:
    listed = [
        {"label": name, "polygon": points, **({"deleted": 1} if name in deleted else {})}
        for name, points in objects
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgWidth": 20, "imgHeight": 12, "objects": listed}))


def square(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


# --- converters --------------------------------------------------------------------------------------------


def test_gta_is_a_palette_png_of_label_ids(tmp_path: Path) -> None:
    stored = ids(35)
    palette_png(tmp_path / "00001.png", stored)
    np.testing.assert_array_equal(from_label_ids(tmp_path / "00001.png"), expected(stored, LABEL_IDS))


def test_synthia_keeps_its_class_in_the_last_of_three_16_bit_channels(tmp_path: Path) -> None:
    stored = ids(23).astype(np.uint16)
    channels = np.stack([np.full_like(stored, 9), np.full_like(stored, 700), stored], axis=-1)
    cv2.imwrite(str(tmp_path / "1.png"), channels)
    np.testing.assert_array_equal(from_synthia(tmp_path / "1.png"), expected(ids(23), SYNTHIA_IDS))
    channels[0, 0, 2] = 300
    cv2.imwrite(str(tmp_path / "1.png"), channels)
    assert from_synthia(tmp_path / "1.png")[0, 0] == 255


def test_mapillary_is_a_palette_png_of_66_ids(tmp_path: Path) -> None:
    stored = ids(66)
    palette_png(tmp_path / "x.png", stored)
    by_name = np.array([index for _, index in MAPILLARY], np.uint8)
    np.testing.assert_array_equal(from_mapillary(tmp_path / "x.png"), by_name[stored])


def test_the_tables_are_the_references(oracle: Path) -> None:
    tables = json.loads((oracle / "tables.json").read_text())
    assert [list(row) for row in MAPILLARY] == [row[1:] for row in tables["mapillary_rows"]]
    assert {str(stored): i for i, stored in enumerate(LABEL_IDS)} == tables["labelid_to_trainid"]


def test_polygons_are_drawn_in_order_over_one_another(tmp_path: Path) -> None:
    path = tmp_path / "a_gtFine_polygons.json"
    polygons(
        path,
        ("sky", square(0, 0, 19, 5)),
        ("road", square(0, 6, 19, 11)),
        ("cargroup", square(2, 4, 8, 9)),
        ("license plate", square(4, 7, 5, 8)),
        ("building", square(10, 0, 12, 11)),
        ("polegroup", square(12, 2, 14, 3)),
        ("person", square(15, 7, 18, 10)),
        deleted=("building",),
    )
    label = np.full((12, 20), 255, np.uint8)
    label[0:6] = 10
    label[6:12] = 0
    label[4:10, 2:9] = 13
    label[2:4, 12:15] = 255
    label[7:11, 15:19] = 11
    np.testing.assert_array_equal(from_polygons(path), label)


@pytest.mark.parametrize(
    "change",
    [
        {"imgWidth": float("inf")},
        {"imgWidth": -1},
        {"imgWidth": 99_999_999, "imgHeight": 99_999_999},
        {"objects": [3]},
        {"objects": [{"label": "road", "polygon": [["a", "b"], ["c", "d"]]}]},
        {"objects": [{"label": "road", "polygon": [[10**400, 0], [5, 5], [9, 1]]}]},
        {"objects": [{"label": "road", "polygon": [[float("nan"), 0], [5, 5], [9, 1]]}]},
        {"objects": [{"label": "road", "polygon": [[1e30, 0], [5, 5], [9, 1]]}]},
    ],
)
def test_polygon_files_with_impossible_numbers_are_named(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "a_gtFine_polygons.json"
    path.write_text(json.dumps({"imgWidth": 8, "imgHeight": 8, "objects": [], **change}))
    with pytest.raises(ReinError, match="not a polygon file"):
        from_polygons(path)


def test_a_polygon_file_that_nests_without_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a_gtFine_polygons.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ReinError, match="not a polygon file"):
        from_polygons(path)


def test_folders_in_commands_are_quoted_where_a_shell_needs_it() -> None:
    if os.name == "nt":
        return
    assert command_for("gta", Path("/disk/gta")) == "rein prepare-data gta /disk/gta"
    assert command_for("gta", Path("/my disk/gta")) == "rein prepare-data gta '/my disk/gta'"
    assert "rein download gta --to '/my disk/gta'" in hint("gta", Path("/my disk/gta"))


def test_what_is_no_polygon_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a_gtFine_polygons.json"
    polygons(path, ("spaceship", square(0, 0, 5, 5)))
    with pytest.raises(ReinError, match="spaceship"):
        from_polygons(path)
    path.write_text("[1, 2]")
    with pytest.raises(ReinError, match="not a polygon file"):
        from_polygons(path)


# --- whole datasets ----------------------------------------------------------------------------------------


def make(root: Path, dataset: str) -> dict[str, np.ndarray]:
    """A tiny dataset as downloaded; what the labels of its sources must become."""
    if dataset == "cityscapes":
        for split in ("train", "val"):
            write_png(root / f"leftImg8bit/{split}/a/a_1_leftImg8bit.png", IMAGE)
        polygons(root / "gtFine/train/a/a_1_gtFine_polygons.json", ("road", square(0, 0, 19, 11)))
        write_png(root / "gtFine/train/a/a_1_gtFine_labelIds.png", ids(34))  # polygons come first
        write_png(root / "gtFine/val/a/a_1_gtFine_labelIds.png", ids(34))
        train = np.zeros((12, 20), np.uint8)
        return {"cityscapes:train": train, "cityscapes:val": expected(ids(34), LABEL_IDS)}
    if dataset == "gta":
        write_png(root / "images/00001.png", IMAGE)
        palette_png(root / "labels/00001.png", ids(35))
        return {"gta": expected(ids(35), LABEL_IDS)}
    if dataset == "synthia":
        write_png(root / "RGB/1.png", IMAGE)
        (root / "GT/LABELS").mkdir(parents=True)
        stored = ids(23).astype(np.uint16)
        cv2.imwrite(str(root / "GT/LABELS/1.png"), np.stack([0 * stored, stored * 0 + 5, stored], -1))
        return {"synthia": expected(ids(23), SYNTHIA_IDS)}
    if dataset == "urbansyn":
        write_png(root / "rgb/rgb_0001.png", IMAGE)
        write_png(root / "ss/ss_0001.png", ids(20))
        return {"urbansyn": np.where(ids(20) == 19, 255, ids(20)).astype(np.uint8)}
    if dataset == "bdd100k":
        write_png(root / "images/10k/val/x.jpg", IMAGE)
        write_png(root / "labels/sem_seg/masks/val/x_train_id.png", ids(19))
        return {"bdd100k": ids(19)}
    if dataset == "acdc":
        write_png(root / "rgb_anon/fog/val/s/f_rgb_anon.png", IMAGE)
        for condition in ("night", "rain", "snow"):
            (root / f"rgb_anon/{condition}/val").mkdir(parents=True)
        write_png(root / "gt/fog/val/s/f_gt_labelIds.png", ids(34))
        return {}
    by_name = np.array([index for _, index in MAPILLARY], np.uint8)
    stored = ids(66, (13, 21))
    for split in ("training", "validation"):
        write_png(root / f"{split}/images/x.jpg", np.resize(IMAGE, (13, 21, 3)))
        palette_png(root / f"{split}/v1.2/labels/x.png", stored)
    small = np.asarray(Image.fromarray(by_name[stored]).resize((10, 6), Image.Resampling.NEAREST))
    return {"mapillary:train": by_name[stored], "mapillary:val": small}


DATASETS = ("cityscapes", "gta", "synthia", "urbansyn", "bdd100k", "mapillary")


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_as_downloaded_becomes_class_indices(tmp_path: Path, dataset: str) -> None:
    root = tmp_path / dataset
    labels = make(root, dataset)
    outcomes = prepare(dataset, root)
    assert {o.state for o in outcomes} <= {"written"}
    data = DataSettings(root=str(tmp_path))
    for source, label in labels.items():
        (sample,) = find_samples(source, data)
        assert sample.label is not None
        stored = read_label(sample.label)
        read = label_table(dataset, data)[stored]
        np.testing.assert_array_equal(read, label)
        assert read_image(sample.image).shape[:2] == label.shape
    again = prepare(dataset, root)
    assert {o.state for o in again} <= {"kept"}
    assert len(again) == len(outcomes)


def test_acdc_labels_are_converted_in_place(tmp_path: Path) -> None:
    make(tmp_path, "acdc")
    (outcome,) = prepare("acdc", tmp_path)
    made = tmp_path / "gt/fog/val/s/f_gt_labelTrainIds.png"
    assert outcome.job.target == made
    np.testing.assert_array_equal(read_label(made), expected(ids(34), LABEL_IDS))


def test_cityscapes_gets_its_lists(tmp_path: Path) -> None:
    make(tmp_path, "cityscapes")
    prepare("cityscapes", tmp_path)
    assert (tmp_path / "train.txt").read_text() == "a/a_1\n"
    assert (tmp_path / "val.txt").read_text() == "a/a_1\n"
    assert not (tmp_path / "test.txt").exists()


def test_another_folder_takes_what_is_written(tmp_path: Path) -> None:
    make(tmp_path / "gta", "gta")
    prepare("gta", tmp_path / "gta", out=tmp_path / "out")
    assert (tmp_path / "out/labels/00001_labelTrainIds.png").exists()
    assert len(list((tmp_path / "gta/labels").iterdir())) == 1


def test_half_sizes_are_rounded_down() -> None:
    assert half_size(13, 21) == (6, 10)


# --- going on, and failing ---------------------------------------------------------------------------------


def test_a_label_cut_short_is_written_again_and_force_writes_all(tmp_path: Path) -> None:
    make(tmp_path, "gta")
    (first,) = prepare("gta", tmp_path)
    whole = first.job.target.read_bytes()
    first.job.target.write_bytes(whole[:-20])
    assert not is_whole(first.job.target)
    assert [o.state for o in prepare("gta", tmp_path)] == ["written"]
    assert first.job.target.read_bytes() == whole
    assert [o.state for o in prepare("gta", tmp_path, force=True)] == ["written"]
    assert not is_whole(tmp_path / "nowhere.png")


@pytest.mark.parametrize("processes", [False, True])
def test_workers_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: bool) -> None:
    if processes:
        monkeypatch.setattr("reincli.prepare.prepare.WORTH_PROCESSES", 0)
    for i in range(8):
        palette_png(tmp_path / f"labels/{i}.png", np.roll(ids(35), i))
    outcomes = list(run_jobs(plan("gta", tmp_path), workers=2))
    assert [o.state for o in outcomes] == ["written"] * 8
    for i in range(8):
        made = read_label(tmp_path / f"labels/{i}_labelTrainIds.png")
        np.testing.assert_array_equal(made, expected(np.roll(ids(35), i), LABEL_IDS))


@pytest.mark.parametrize("old", [False, True])
def test_a_raw_label_that_changed_is_converted_anew(tmp_path: Path, old: bool) -> None:
    """Also where the copy that replaced it kept an old time."""
    make(tmp_path, "gta")
    (job,) = prepare("gta", tmp_path)
    target = job.job.target
    os.utime(job.job.source)  # newer, and the same
    assert [o.state for o in prepare("gta", tmp_path)] == ["kept"]
    write_png(job.job.source, np.full((12, 20), 26, np.uint8))
    if old:
        os.utime(job.job.source, (1, 1))
    assert [o.state for o in prepare("gta", tmp_path)] == ["written"]
    assert (read_label(target) == 13).all()
    assert [o.state for o in prepare("gta", tmp_path)] == ["kept"]


def test_a_label_that_says_nothing_of_itself_stays_and_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "gta")
    (job,) = plan("gta", tmp_path)
    write_png(job.target, np.zeros((12, 20), np.uint8))
    os.utime(job.target, (1, 1))
    kept = job.target.read_bytes()
    run("gta", tmp_path, workers=1)
    assert job.target.read_bytes() == kept
    assert "1 files are older than the raw ones" in capsys.readouterr().err


def test_a_damaged_file_is_named_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    for i in range(3):
        palette_png(tmp_path / f"labels/{i}.png", ids(35))
    (tmp_path / "labels/1.png").write_bytes(b"nothing")
    outcomes = list(run_jobs(plan("gta", tmp_path)))
    assert [o.state for o in outcomes] == ["written", "failed", "written"]
    error = failure(outcomes)
    assert error is not None
    assert "1 of 3" in error.message
    assert "1.png" in error.message
    with pytest.raises(ReinError, match="1 of 3"):
        prepare("gta", tmp_path)


def test_missing_raw_labels_and_unknown_datasets(tmp_path: Path) -> None:
    with pytest.raises(ReinError, match="GT/LABELS"):
        plan("synthia", tmp_path)
    with pytest.raises(ReinError, match="cannot be prepared"):
        plan("nothing", tmp_path)


def test_generated_streets_are_prepared_by_the_same_code(tmp_path: Path) -> None:
    write_scenes(tmp_path, train=1, val=1, targets=1, size=(96, 48), workers=0)
    prepare("cityscapes", tmp_path / "cityscapes")
    prepare("acdc", tmp_path / "acdc")
    data = DataSettings(root=str(tmp_path))
    assert len(find_samples("cityscapes:train", data)) == 1
    assert [s.domain for s in find_samples("acdc:val", data)] == ["night", "fog", "rain", "snow"]


# --- looking through ---------------------------------------------------------------------------------------


def test_a_pair_is_inspected(tmp_path: Path) -> None:
    write_png(tmp_path / "i.png", IMAGE)
    write_png(tmp_path / "l.png", ids(25, (12, 21)))
    table = label_table("gta", DataSettings())
    sample = Sample(tmp_path / "i.png", tmp_path / "l.png", "gta", "gta", "i.png")
    report = inspect(sample, table)
    assert report.undeclared == (19, 20, 21, 22, 23, 24)
    assert report.mismatched
    assert class_pixels(report.stored, table, 19).sum() == np.isin(ids(25, (12, 21)), range(19)).sum()
    (tmp_path / "l.png").write_bytes(b"")
    assert "l.png" in inspect(sample, table).unreadable


def test_counts_are_exact_for_large_maps() -> None:
    large = np.zeros((4100, 4100), np.uint8)
    large[0, 0] = 7
    counts = count_values(large)
    assert (counts[0], counts[7]) == (4100 * 4100 - 1, 1)
