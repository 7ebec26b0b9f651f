"""Sources of labelled unknown objects: folders of the benchmarks, own datasets, any folder, and what is wrong there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from reincli.config import DataSettings
from reincli.data.loading import load_label
from reincli.data.unknowns import BENCHMARKS, find_unknowns, require_unknowns, sources_of
from reincli.errors import ReinError
from reincli.media.images import write_png

SCENE = "04_Maurener_Weg_8_000000_000030"


def put(path: Path, values=None):
    """An image, or a label with these values in its first pixels."""
    array = np.zeros((8, 12, 3), np.uint8) if values is None else np.zeros((8, 12), np.uint8)
    for place, value in enumerate(values or ()):
        array[0, place] = value
    if path.suffix == ".png":
        write_png(path, array)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), array)


LAYOUTS = {
    "road_anomaly": (
        ("frames/a.jpg", "frames/b.jpg"),
        ("frames/a.labels/labels_semantic.png", "frames/b.labels/labels_semantic.png"), (2,), ()),
    "lost_and_found": (
        (f"leftImg8bit/test/04_Maurener_Weg_8/{SCENE}_leftImg8bit.png",),
        (f"gtCoarse/test/04_Maurener_Weg_8/{SCENE}_gtCoarse_labelTrainIds.png",), (1, 2, 255), ()),
    "fishyscapes_laf": (
        (f"laf_images/{SCENE}_leftImg8bit.png",), (f"fishyscapes_lostandfound/0000_{SCENE}_labels.png",), (1, 255), ()),
    "anomaly_track": (
        ("images/validation0000.jpg",), ("labels_masks/validation0000_labels_semantic.png",), (1, 255),
        ("images/airplane0000.jpg", "labels_masks/validation0000_labels_semantic_color.png")),
    "obstacle_track": (
        ("images/validation_1.webp",), ("labels_masks/validation_1_labels_semantic.png",), (1, 255),
        ("images/snowstorm1_0.webp",)),
}  # fmt: skip


def test_every_benchmark_is_tried():
    assert set(LAYOUTS) == set(BENCHMARKS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_folders_of_the_benchmarks(tmp_path, name):
    images, labels, values, others = LAYOUTS[name]
    for path in (*images, *others):
        put(tmp_path / name / path)
    for path in labels:
        put(tmp_path / name / path, values)
    found = find_unknowns(name, DataSettings(root=str(tmp_path)))
    assert [str(each.image.relative_to(tmp_path / name)) for each in found.samples] == list(images)
    assert [str(each.label.relative_to(tmp_path / name)) for each in found.samples] == list(labels)
    label = load_label(found.samples[0], found.table)
    assert set(np.unique(label)) <= {0, 1, 255}
    assert (label == 1).sum() == 1
    require_unknowns(found)


def test_fishyscapes_takes_the_images_of_lost_and_found_as_downloaded(tmp_path):
    root = tmp_path / "fishyscapes_laf"
    put(root / f"leftImg8bit/test/04_Maurener_Weg_8/{SCENE}_leftImg8bit.png")
    put(root / f"fishyscapes_lostandfound/0000_{SCENE}_labels.png", (1,))
    assert len(find_unknowns("fishyscapes_laf", DataSettings(root=str(tmp_path))).samples) == 1
    put(root / "fishyscapes_lostandfound/0001_05_Elsewhere_000001_000010_labels.png", (1,))
    with pytest.raises(ReinError, match=r"1 labels in .* have no image: 0001_05_Elsewhere"):
        find_unknowns("fishyscapes_laf", DataSettings(root=str(tmp_path)))


def own(classes):
    return DataSettings.model_validate({
        "own": {
            "cargo": {
                "root": "cargo",
                "classes": [{"name": f"c{n}", "color": [n, 0, 0]} for n in range(classes)],
                "map": {"0": 0, "7": 1},
                "splits": {"val": {"images": "i", "labels": "l"}},
            }
        }
    })  # fmt: skip


def test_an_own_dataset_of_two_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(Path("cargo/i/a.png"))
    put(Path("cargo/l/a.png"), (7, 7))
    found = find_unknowns("cargo:val", own(2))
    assert (load_label(found.samples[0], found.table) == 1).sum() == 2
    with pytest.raises(ReinError, match="has 3 classes; unknown objects need two"):
        find_unknowns("cargo", own(3))


def folder(root, values=(1,)):
    put(root / "images" / "a.jpg")
    put(root / "images" / "sub" / "b.png")
    put(root / "labels" / "a.png", values)
    put(root / "labels" / "sub" / "b.png", ())
    return root


def test_any_folder_of_images_and_labels(tmp_path):
    found = find_unknowns(str(folder(tmp_path / "mine")), DataSettings())
    assert found.name == "mine"
    assert [each.name for each in found.samples] == ["a.jpg", "sub/b.png"]
    require_unknowns(found)


def test_partners_that_are_missing_are_named(tmp_path):
    root = folder(tmp_path / "mine")
    put(root / "labels" / "c.png", ())
    with pytest.raises(ReinError, match=r"1 labels have no image in .*: c\.png"):
        find_unknowns(str(root), DataSettings())
    put(root / "images" / "c.png")
    put(root / "images" / "d.png")
    with pytest.raises(ReinError, match=r"1 images have no label in .*: d\.png"):
        find_unknowns(str(root), DataSettings())


def test_other_values_are_named(tmp_path):
    found = find_unknowns(str(folder(tmp_path / "mine", (1, 7, 9))), DataSettings())
    with pytest.raises(ReinError, match=r"a\.png' has values 7, 9; 'mine' declares 0-1, 255") as caught:
        require_unknowns(found)
    assert caught.value.hint.startswith("Write 0 for known, 1 for unknown and 255 for what is left out")


@pytest.mark.parametrize("size", [(12, 8), (8, 11)])
def test_a_label_that_does_not_lie_on_its_image_is_told(tmp_path, size):
    root = folder(tmp_path / "mine")
    path = min((root / "labels").rglob("*.png"))
    write_png(path, np.ones(size, np.uint8))
    with pytest.raises(ReinError, match=rf"is {size[1]}x{size[0]}, but its image is 12x8") as caught:
        require_unknowns(find_unknowns(str(root), DataSettings()))
    assert caught.value.hint.startswith("Bring the label that belongs to the image")


@pytest.mark.parametrize(("value", "said"), [(0, "has an unknown pixel"), (1, "has a known pixel")])
def test_nothing_to_tell_apart_is_told(tmp_path, value, said):
    root = folder(tmp_path / "mine")
    for path in (root / "labels").rglob("*.png"):
        write_png(path, np.full((8, 12), value, np.uint8))
    with pytest.raises(ReinError, match=said):
        require_unknowns(find_unknowns(str(root), DataSettings()))


def test_what_is_not_there_is_told(tmp_path):
    data = DataSettings(root=str(tmp_path))
    with pytest.raises(ReinError, match="road_anomaly") as caught:
        find_unknowns("road_anomaly", data)
    assert "epfl.ch" in caught.value.hint
    with pytest.raises(ReinError, match="is no set of labelled unknown objects") as caught:
        find_unknowns("road_anomly", data)
    assert "road_anomaly" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReinError, match="has no images/ and labels/"):
        find_unknowns(str(tmp_path / "empty"), data)
    for name in ("obstacle_track", "fishyscapes_laf"):
        (tmp_path / name / "images").mkdir(parents=True)
        with pytest.raises(ReinError, match="There is no folder"):
            find_unknowns(name, data)
    (tmp_path / "obstacle_track" / "labels_masks").mkdir()
    with pytest.raises(ReinError, match=r"No image \(\*\.webp or \*\.png or \*\.jpg\)"):
        find_unknowns("obstacle_track", data)


def test_two_sources_of_one_name_are_told(tmp_path):
    for parent in "ab":
        folder(tmp_path / parent / "mine")
    with pytest.raises(ReinError, match="Two sources are named 'mine'"):
        sources_of([str(tmp_path / parent / "mine") for parent in "ab"], DataSettings())
