"""Labels drawn from COCO's and YOLO's files: what is told of objects, pixel by pixel, and what is wrong with it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import told

from reincli.config import DataSettings
from reincli.data.loading import load_label
from reincli.data.sources import find_samples, label_table
from reincli.media.images import read_label, write_png
from reincli.media.whole_files import temporary_beside
from reincli.prepare.label_tasks import Names
from reincli.prepare.shapes import Shape, draw, filled, runs, unpacked

SIZE = (12, 16)
"""Height and width."""
CLASSES = ["Road", "car", "background"]
SQUARE = [2, 3, 9, 3, 9, 8, 2, 8]
"""Columns 2 to 8, rows 3 to 7."""


def area(*boxes: tuple[int, int, int, int, int], empty: int) -> np.ndarray:
    """(value, left, top, right, bottom), ends excluded, one over another."""
    label = np.full(SIZE, empty, np.uint8)
    for value, left, top, right, bottom in boxes:
        label[top:bottom, left:right] = value
    return label


def describe(
    root: Path, classes: list[str] = CLASSES, split: dict[str, Any] | None = None, **more: Any
) -> Path:
    """A description of `toy` with one split, and its images."""
    for name in ("a", "b"):
        write_png(root / "images" / f"{name}.png", np.zeros((*SIZE, 3), np.uint8))
    lines = ["[data]", 'train = ["toy:train"]', "val = []", "[data.own.toy]", 'root = "."']
    lines += [f"{key} = {value}" for key, value in more.items()]
    named = ", ".join(f'{{ name = "{name}", color = [{i}, {i}, {i}] }}' for i, name in enumerate(classes))
    lines += [f"classes = [{named}]", "[data.own.toy.splits.train]", 'images = "images"']
    lines += [f'{key} = "{value}"' for key, value in (split or {}).items()]
    (root / "toy.toml").write_text("\n".join(lines))
    return root / "toy.toml"


def labels(config: Path) -> dict[str, np.ndarray]:
    """Class indices as training reads them."""
    from reincli.settings_files import load_settings

    data: DataSettings = load_settings(config=config).data
    table = label_table("toy", data)
    return {s.name: load_label(s, table) for s in find_samples("toy:train", data)}


def coco(path: Path, annotations: list[dict[str, Any]], categories: dict[int, str], **first: Any) -> None:
    images = [
        {"id": n, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]}
        for n, name in enumerate(["a", "b"])
    ]
    images[0] |= first
    listed = [{"id": number, "name": name} for number, name in categories.items()]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": listed}))


# --- pieces ------------------------------------------------------------------------------------------------


def test_a_polygon_has_the_pixels_whose_middle_lies_in_it():
    square = np.reshape(SQUARE, (-1, 2)).astype(float)
    assert np.array_equal(filled(square, *SIZE), area((1, 2, 3, 9, 8), empty=0).astype(bool))
    triangle = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    assert np.array_equal(filled(triangle, *SIZE), x + y + 1 < 8)
    beyond = np.array([[-5.0, -5.0], [99.0, -5.0], [99.0, 99.0], [-5.0, 99.0]])
    assert filled(beyond, *SIZE).all()
    assert not filled(beyond + 200, *SIZE).any()
    rng = np.random.default_rng(0)
    for _ in range(20):  # the same wherever it lies and however it is cut by the edge
        star = rng.uniform(-6, 20, (7, 2))
        large = filled(star + 30, 80, 80)
        assert np.array_equal(filled(star, *SIZE), large[30 : 30 + SIZE[0], 30 : 30 + SIZE[1]])


def test_a_polygon_that_crosses_itself_is_filled_by_the_even_odd_rule():
    twice = np.array([[0, 0], [4, 0], [4, 4], [0, 4], [0, 0], [4, 0], [4, 4], [0, 4]], float)
    assert not filled(twice, *SIZE).any()


def test_small_objects_lie_over_large_ones_whatever_their_order():
    large = Shape(0, (np.reshape(SQUARE, (-1, 2)).astype(float),))
    small = Shape(1, (np.array([[4, 4], [6, 4], [6, 6], [4, 6]], float),))
    expected = area((0, 2, 3, 9, 8), (1, 4, 4, 6, 6), empty=9)
    for order in ([large, small], [small, large]):
        assert np.array_equal(draw(order, SIZE, 9), expected)


def packed(counts: list[int]) -> str:
    """COCO's text of run lengths, by its description."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr(48 + (bits | (0x20 if more else 0)))
            if not more:
                break
    return text


def test_run_lengths_go_down_the_columns():
    mask = area((1, 2, 3, 9, 8), empty=0).astype(bool)
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    assert np.array_equal(runs(counts, *SIZE), mask)
    assert unpacked(packed(counts)) == counts
    assert unpacked(packed([5, 900, 3, 70_000, 1])) == [5, 900, 3, 70_000, 1]
    with pytest.raises(ValueError, match="runs of"):
        runs([1, 2, 3], *SIZE)


# --- COCO --------------------------------------------------------------------------------------------------


def test_instances_become_classes_by_the_names_of_their_categories(tmp_path):
    config = describe(tmp_path, split={"labels": "train.json", "format": "coco"})
    counts = [2 * 12, 12, SIZE[0] * SIZE[1] - 3 * 12]  # column 2
    coco(tmp_path / "train.json", [
        {"image_id": 0, "category_id": 7, "segmentation": [SQUARE, [12, 0, 14, 0, 14, 2, 12, 2]]},
        {"image_id": 0, "category_id": 9, "segmentation": {"counts": counts, "size": list(SIZE)}, "iscrowd": 1},
        {"image_id": 1, "category_id": 9, "segmentation": {"counts": packed(counts), "size": list(SIZE)}},
        {"image_id": 1, "category_id": 5, "segmentation": [SQUARE]},
    ], {5: "kite", 7: "road", 9: "car"})  # fmt: skip
    text = told("prepare-data", "toy", "--config", config)
    assert "train: 2 labels drawn, 0 were there" in text
    assert "1 objects are of no class of the description: kite 1" in text
    found = labels(config)
    assert np.array_equal(found["a.png"], area((0, 2, 3, 9, 8), (0, 12, 0, 14, 2), (1, 2, 0, 3, 12), empty=2))
    assert np.array_equal(found["b.png"], area((1, 2, 0, 3, 12), empty=2))


def test_without_a_background_the_rest_is_ignored_and_ids_may_be_mapped(tmp_path):
    config = describe(
        tmp_path, ["road", "car"], {"labels": "t.json", "format": "coco"}, map='{ "7" = 0, "3" = 1 }'
    )
    coco(tmp_path / "t.json", [{"image_id": 0, "category_id": 3, "segmentation": [SQUARE]}], {3: "x", 7: "y"})
    told("prepare-data", "toy", "--config", config)
    found = labels(config)
    assert np.array_equal(found["a.png"], area((1, 2, 3, 9, 8), empty=255))
    assert (found["b.png"] == 255).all()


def test_panoptic_segments_become_classes(tmp_path):
    config = describe(tmp_path, split={"labels": "pan.json", "format": "coco"})
    numbers = area((1, 2, 3, 9, 8), (2, 10, 0, 16, 4), (3, 0, 10, 4, 12), empty=0).astype(int)
    codes = np.array([0, 70_000, 300, 5])[numbers]
    rgb = np.stack([codes % 256, codes // 256 % 256, codes // 65536], axis=-1).astype(np.uint8)
    write_png(tmp_path / "pan" / "a.png", rgb)
    segments = [{"id": 70_000, "category_id": 7}, {"id": 300, "category_id": 9}, {"id": 5, "category_id": 5}]
    coco(tmp_path / "pan.json", [{"image_id": 0, "file_name": "a.png", "segments_info": segments}],
         {5: "kite", 7: "road", 9: "car"})  # fmt: skip
    told("prepare-data", "toy", "--config", config)
    assert np.array_equal(labels(config)["a.png"], area((0, 2, 3, 9, 8), (1, 10, 0, 16, 4), empty=2))


def test_compact_copies_take_the_labels_that_were_drawn_elsewhere(tmp_path):
    config = describe(tmp_path, split={"labels": "t.json", "format": "coco"})
    coco(tmp_path / "t.json", [{"image_id": 0, "category_id": 7, "segmentation": [SQUARE]}], {7: "road"})
    text = told("prepare-data", "toy", "--config", config, "--out", tmp_path / "made", "--cache")
    assert "2 labels drawn" in text
    assert "2 compact copies written" in text
    assert not (tmp_path / "drawn_labels").exists()


def test_what_is_drawn_stays_until_what_is_told_changes(tmp_path):
    config = describe(tmp_path, split={"labels": "t.json", "format": "coco"})
    one = {"image_id": 0, "category_id": 7, "segmentation": [SQUARE]}
    coco(tmp_path / "t.json", [one], {7: "road"})
    told("prepare-data", "toy", "--config", config)
    assert "0 labels drawn, 2 were there" in told("prepare-data", "toy", "--config", config)
    assert "2 labels drawn" in told("prepare-data", "toy", "--config", config, "--force")
    coco(tmp_path / "t.json", [one, {**one, "image_id": 1}], {7: "road"})
    assert "1 labels drawn, 1 were there" in told("prepare-data", "toy", "--config", config)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"segmentation": []}, "no polygon and no run lengths"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon of 4 numbers"),
        ({"segmentation": {"counts": [1, 2], "size": list(SIZE)}}, "runs of 3 pixels"),
        ({"segmentation": {"counts": "o", "size": list(SIZE)}}, "no run lengths"),
        ({"segmentation": {"counts": [1], "size": [1, 1]}}, "run lengths for [1, 1]"),
        ({"segmentation": None}, "no segmentation"),
        ({"segmentation": [[10**400, 1, 2, 3, 4, 5]]}, "no run lengths"),
        ({"segmentation": [[1e308, -1e308, -1e308, 1e308, 5, 5]]}, "a corner at 1e+308"),
        ({"segmentation": [[0, 0, 10, 1e30, 0, 1.1e30]]}, "a corner at 1.1e+30"),
        ({"category_id": [7]}, "no lists of tables"),
        ({"segments_info": None}, "no lists of tables"),
        ({"segments_info": [3]}, "no lists of tables"),
        ({"image_id": "0"}, "is on image '0', and there is 0"),
    ],
)
def test_objects_without_a_shape_are_refused(tmp_path, change, sentence):
    config = describe(tmp_path, split={"labels": "t.json", "format": "coco"})
    coco(tmp_path / "t.json", [{"image_id": 0, "category_id": 7, **change}], {7: "road"})
    assert sentence in told("prepare-data", "toy", "--config", config, code=1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "it has no 'categories'"),
        ("no json", "cannot be read as JSON"),
        ('{"categories": 1, "images": [], "annotations": []}', "no lists of tables"),
        ('{"categories": [{"id": 1, "name": "kite"}], "images": [], "annotations": []}', "No category of"),
        ('{"categories": [{"id": Infinity, "name": "road"}], "images": [], "annotations": []}', "is no COCO"),
        ('{"categories": [{"id": 1, "name": "road"}], "images": [], "annotations": {}}', "tells of no image"),
    ],
)
def test_other_files_are_refused(tmp_path, text, sentence):
    config = describe(tmp_path, split={"labels": "t.json", "format": "coco"})
    (tmp_path / "t.json").write_text(text)
    assert sentence in told("prepare-data", "toy", "--config", config, code=1)


def test_a_folder_for_a_coco_file_is_told(tmp_path):
    config = describe(tmp_path, split={"labels": "t", "format": "coco"})
    (tmp_path / "t").mkdir()
    assert 'labels = "FILE.json"' in told("prepare-data", "toy", "--config", config, code=1)


def test_ids_of_categories_may_be_text(tmp_path):
    config = describe(tmp_path, split={"labels": "t.json", "format": "coco"})
    square = [[0, 0, 2, 0, 2, 2, 0, 2]]
    coco(tmp_path / "t.json", [{"image_id": 0, "category_id": "7", "segmentation": square}], {7: "road"})
    assert "of no class" not in told("prepare-data", "toy", "--config", config)


def test_images_that_are_not_there_are_counted_and_sizes_are_looked_at(tmp_path):
    config = describe(tmp_path, split={"labels": "t.json", "format": "coco"})
    one = {"image_id": 1, "category_id": 7, "segmentation": [SQUARE]}
    coco(tmp_path / "t.json", [one], {7: "road"}, file_name="gone.png")
    text = told("prepare-data", "toy", "--config", config, code=1)
    assert "1 that are told of have no image: gone.png" in text
    assert "1 without label" in text
    coco(tmp_path / "t.json", [one], {7: "road"}, height=None)
    assert "an image of height None" in told("prepare-data", "toy", "--config", config, code=1)


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (
            {"id": 0, "file_name": "a.png"},
            {"id": 0, "file_name": "b.png"},
            "tells of the id 0 more than once",
        ),
        (
            {"id": 0, "file_name": "a.png"},
            {"id": 1, "file_name": "a.png"},
            "the image 'a.png' more than once",
        ),
        ({"id": 0, "file_name": "x/a.png"}, {"id": 1, "file_name": "y/a.png"}, "'a.png' more than once"),
    ],
)
def test_joined_files_that_tell_of_an_image_twice_are_refused(tmp_path, first, second, sentence):
    config = describe(tmp_path, split={"labels": "t.json", "format": "coco"})
    coco(tmp_path / "t.json", [{"image_id": 0, "category_id": 7, "segmentation": [SQUARE]}], {7: "road"})
    raw = json.loads((tmp_path / "t.json").read_text())
    raw["images"] = [each | {"height": SIZE[0], "width": SIZE[1]} for each in (first, second)]
    (tmp_path / "t.json").write_text(json.dumps(raw))
    assert sentence in told("prepare-data", "toy", "--config", config, code=1)


def test_images_of_another_folder_with_the_same_name_are_others():
    names = object.__new__(Names)
    names.paths, names.by_name = {"cam1/1.png"}, {"1.png": "cam1/1.png"}
    for name in ("cam1/1.png", "1.png", "./1.png", "/export/cam1/1.png", "C:\\export\\cam1\\1.png"):
        assert names.find(name) == "cam1/1.png"
    for name in ("cam2/1.png", "2.png", "1cam1/1.png", ""):
        assert names.find(name) is None


def test_objects_on_no_image_are_counted(tmp_path):
    config = describe(tmp_path, split={"labels": "t.json", "format": "coco"})
    one = {"image_id": 1, "category_id": 7, "segmentation": [SQUARE]}
    coco(tmp_path / "t.json", [one, {**one, "image_id": 8}], {7: "road"})
    assert "1 that are told of have no image: image 8" in told("prepare-data", "toy", "--config", config)


def test_what_nothing_is_drawn_of_is_told_and_leads_in_no_circle(tmp_path):
    config = describe(tmp_path, ["road", "car"], {"labels": "labels", "format": "yolo"})
    (tmp_path / "labels").mkdir()
    text = told("prepare-data", "toy", "--config", config, code=1)
    assert "tells of no image '*.png'" in text
    assert "rein prepare-data toy" not in text


@pytest.mark.parametrize(
    ("classes", "more", "sentence"),
    [
        (["background", "road"], {"map": '{ "7" = 1 }'}, 'map = { ..., "254" = 0 }'),
        (["road", "car"], {"ignore": "0"}, "'road' would be drawn as 0, which is ignored"),
    ],
)
def test_classes_that_cannot_be_told_apart_in_a_label_are_refused(tmp_path, classes, more, sentence):
    config = describe(tmp_path, classes, {"labels": "t.json", "format": "coco"}, **more)
    coco(tmp_path / "t.json", [{"image_id": 0, "category_id": 7, "segmentation": [SQUARE]}], {7: "road"})
    assert sentence in told("prepare-data", "toy", "--config", config, code=1)


def test_the_hint_for_an_unmapped_background_works(tmp_path):
    config = describe(
        tmp_path,
        ["background", "road"],
        {"labels": "t.json", "format": "coco"},
        map='{ "7" = 1, "254" = 0 }',
    )
    coco(tmp_path / "t.json", [{"image_id": 0, "category_id": 7, "segmentation": [SQUARE]}], {7: "x"})
    told("prepare-data", "toy", "--config", config)
    assert np.array_equal(labels(config)["a.png"], area((1, 2, 3, 9, 8), empty=0))


def test_a_mask_that_changed_is_read_anew(tmp_path):
    config = describe(tmp_path, split={"labels": "pan.json", "format": "coco"})
    segments = [{"id": 1, "category_id": 7}, {"id": 2, "category_id": 9}]
    coco(tmp_path / "pan.json", [{"image_id": 0, "file_name": "a.png", "segments_info": segments}],
         {7: "road", 9: "car"})  # fmt: skip
    for number in (1, 2):
        rgb = np.zeros((*SIZE, 3), np.uint8)
        rgb[..., 0] = number
        write_png(tmp_path / "pan" / "a.png", rgb)
        told("prepare-data", "toy", "--config", config)
        assert (labels(config)["a.png"] == number - 1).all()


def test_only_what_was_drawn_is_replaced_or_removed(tmp_path):
    config = describe(tmp_path, ["road", "car"], {"labels": "labels", "format": "yolo"})
    for name in ("a", "b"):
        yolo(tmp_path / "labels" / f"{name}.txt", (1, SQUARE))
    told("prepare-data", "toy", "--config", config)
    by_hand = tmp_path / "drawn_labels" / "train" / "a.png"
    write_png(by_hand, np.zeros(SIZE, np.uint8))
    dead = temporary_beside(by_hand.with_name("b.png"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = dead.with_name(dead.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    dead.write_bytes(b"a part")
    text = told("prepare-data", "toy", "--config", config)
    assert "1 of them were not drawn by this command. They stay" in text
    assert (labels(config)["a.png"] == 0).all()
    assert not dead.exists()
    (tmp_path / "labels" / "b.txt").unlink()
    text = told("prepare-data", "toy", "--config", config, code=1)
    assert "1 labels are removed" in text
    assert "1 without label (b.png)" in text
    told("prepare-data", "toy", "--config", config, "--force", code=1)
    assert not (read_label(by_hand) == 0).all()


def test_labels_are_never_drawn_over_or_among_images(tmp_path):
    config = describe(tmp_path, split={"labels": "labels", "format": "yolo"})
    yolo(tmp_path / "labels" / "a.txt", (1, SQUARE))
    told("prepare-data", "toy", "--config", config, "--out", tmp_path / "images", code=2)
    assert len(list((tmp_path / "images").rglob("*"))) == 2
    (tmp_path / "drawn_labels").symlink_to(tmp_path)
    (tmp_path / "train").symlink_to(tmp_path / "images")
    before = (tmp_path / "images" / "a.png").read_bytes()
    told("prepare-data", "toy", "--config", config, "--force", code=1)
    assert (tmp_path / "images" / "a.png").read_bytes() == before


def test_a_split_is_drawn_into_a_folder_of_its_own_alone(tmp_path):
    config = describe(tmp_path / "root", split={"labels": "labels", "format": "yolo"})
    yolo(tmp_path / "root" / "labels" / "a.txt", (1, SQUARE))
    config.write_text(
        config.read_text().replace("splits.train]", 'splits."../../up"]').replace("toy:train", "toy:../../up")
    )
    assert "cannot have a folder of its own" in told("prepare-data", "toy", "--config", config, code=1)
    assert not (tmp_path / "up").exists()


def test_labels_drawn_elsewhere_are_copied_too(tmp_path):
    config = describe(tmp_path, split={"labels": "labels", "format": "yolo"})
    yolo(tmp_path / "labels" / "a.txt", (1, SQUARE))
    text = told("prepare-data", "toy", "--config", config, "--out", tmp_path / "other", "--cache")
    assert "2 compact copies written" in text


def test_many_objects_on_a_large_image_need_little_memory():
    tiny = [Shape(1, (np.array([[i, 0], [i + 2, 0], [i, 2]], float),)) for i in range(200)]
    tracemalloc.start()
    try:
        draw(tiny, (1000, 1000), 0)
        assert tracemalloc.get_traced_memory()[1] < 50 * 1000 * 1000
    finally:
        tracemalloc.stop()


def test_before_they_are_drawn_the_next_step_is_told(tmp_path):
    config = describe(tmp_path, split={"labels": "t.json", "format": "coco"})
    coco(tmp_path / "t.json", [], {7: "road"})
    text = told("prepare-data", "toy", "--config", config, "--check", code=1)
    assert "rein prepare-data toy --config FILE" in text


# --- YOLO --------------------------------------------------------------------------------------------------


def yolo(path: Path, *objects: tuple[int, list[int]]) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = [
        f"{number} " + " ".join(str(v / SIZE[1 - i % 2]) for i, v in enumerate(corners))
        for number, corners in objects
    ]
    path.write_text("\n".join(lines) + "\n")


def test_segment_files_become_classes_in_their_order(tmp_path):
    config = describe(tmp_path, ["background", "road", "car"], {"labels": "labels", "format": "yolo"})
    yolo(tmp_path / "labels" / "a.txt", (0, SQUARE), (1, [4, 4, 6, 4, 6, 6, 4, 6]))
    told("prepare-data", "toy", "--config", config)
    found = labels(config)
    assert np.array_equal(found["a.png"], area((1, 2, 3, 9, 8), (2, 4, 4, 6, 6), empty=0))
    assert (found["b.png"] == 0).all()  # no file: no object


def test_without_a_background_an_image_needs_its_file(tmp_path):
    config = describe(tmp_path, ["road", "car"], {"labels": "labels", "format": "yolo"})
    yolo(tmp_path / "labels" / "a.txt", (1, SQUARE))
    assert "1 without label (b.png)" in told("prepare-data", "toy", "--config", config, code=1)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 0.5 0.5 0.2 0.2", "Line 1 of"),
        ("0 0.5 0.5 0.2 0.2", "is a box"),
        ("0 0.5 0.5 0.2", "is not CLASS X1"),
        ("x 0 0 1 0 1 1", "is not CLASS X1"),
        ("0.0 0 0 1 0 1 1", "its class is '0.0', not a whole number"),
        ("7 0 0 1 0 1 1", "is of class 7; the description has 2"),
        ("0 0 0 nan 0 1 1", "is not CLASS X1"),
        ("0 2 3 9 3 9 8 2 8", "from 2 to 9, not shares of the image's sides"),
    ],
)
def test_lines_that_are_no_outline_are_named(tmp_path, line, sentence):
    config = describe(tmp_path, ["road", "car"], {"labels": "labels", "format": "yolo"})
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(line)
    (tmp_path / "labels" / "b.txt").write_text("")
    assert sentence in told("prepare-data", "toy", "--config", config, code=1)


def test_a_byte_order_mark_is_passed_over_and_an_image_of_another_size_drawn_anew(tmp_path):
    config = describe(tmp_path, split={"labels": "labels", "format": "yolo"})
    yolo(tmp_path / "labels" / "a.txt", (0, SQUARE))
    (tmp_path / "labels" / "a.txt").write_text((tmp_path / "labels" / "a.txt").read_text(), "utf-8-sig")
    told("prepare-data", "toy", "--config", config)
    assert np.array_equal(labels(config)["a.png"], area((0, 2, 3, 9, 8), empty=2))
    write_png(tmp_path / "images" / "a.png", np.zeros((24, 32, 3), np.uint8))
    told("prepare-data", "toy", "--config", config)
    assert labels(config)["a.png"].shape == (24, 32)


def test_a_head_that_claims_billions_of_pixels_is_no_crash(tmp_path):
    config = describe(tmp_path, split={"labels": "labels", "format": "yolo"})
    (tmp_path / "labels").mkdir()
    data = (tmp_path / "images" / "a.png").read_bytes()
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    whole = data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    (tmp_path / "images" / "a.png").write_bytes(whole)
    assert "Cannot decode the image" in told("prepare-data", "toy", "--config", config, code=1)


def test_a_split_of_objects_names_their_file(tmp_path):
    config = describe(tmp_path, split={"format": "coco"})
    assert "has format 'coco' and no labels" in told("prepare-data", "toy", "--config", config, code=2)
