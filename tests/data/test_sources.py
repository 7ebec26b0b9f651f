"""Pairs, domains, classes and label tables of the built-in datasets and of own ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reincli.config import DataSettings
from reincli.data.completeness import ACDC as ACDC_IMAGES
from reincli.data.completeness import IMAGES, KNOWN_BAD, remark
from reincli.data.downloads import DOWNLOADS
from reincli.data.layouts import DATASETS, split_folders
from reincli.data.sources import (
    classes_of,
    find_samples,
    label_table,
    label_tables,
    parse_source,
)
from reincli.errors import ReinError

LAYOUTS = {
    "cityscapes:val": ("leftImg8bit/val/a/a_1_leftImg8bit.png", "gtFine/val/a/a_1_gtFine_labelTrainIds.png"),
    "gta": ("images/00001.png", "labels/00001_labelTrainIds.png"),
    "synthia": ("RGB/1.png", "GT/LABELS/1_labelTrainIds.png"),
    "urbansyn": ("rgb/rgb_0001.png", "ss/ss_0001.png"),
    "mapillary:train": ("training/images/x.jpg", "cityscapes_trainIdLabel/train/label/x.png"),
    "mapillary:val": ("half/val_img/x.jpg", "half/val_label/x.png"),
    "bdd100k:val": ("images/10k/val/x.jpg", "labels/sem_seg/masks/val/x.png"),
    "cityscapes-c": (
        "fog/5/a/a_1_leftImg8bit.png",
        "../cityscapes/gtFine/val/a/a_1_gtFine_labelTrainIds.png",
    ),
}
ACDC = "rgb_anon/{0}/val/S/{0}_1_rgb_anon.png", "gt/{0}/val/S/{0}_1_gt_labelTrainIds.png"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def own(**dataset: Any) -> DataSettings:
    classes = [{"name": name, "color": [i, i, i]} for i, name in enumerate(("ground", "thing", "sky"))]
    description = {"classes": classes, "splits": {"day": {"images": "i", "labels": "l"}}, **dataset}
    return DataSettings.model_validate(
        {"own": {"mine": description}, "train": ["mine:day"], "val": ["mine:day"]}
    )


# --- names -------------------------------------------------------------------------------------------------


def test_the_default_split_is_train_for_training_sets_and_val_for_others() -> None:
    data = DataSettings()
    assert parse_source("gta", data) == ("gta", "train")
    assert parse_source("acdc", data) == ("acdc", "val")
    assert parse_source("cityscapes:train_16th", data) == ("cityscapes", "train_16th")
    assert parse_source("mine", own()) == ("mine", "day")


@pytest.mark.parametrize(
    ("source", "told"),
    [("cityscape", "'cityscapes'"), ("acdc:vla", "'val'"), ("mime", "'mine'"), ("gta:", "train")],
)
def test_an_unknown_source_names_the_nearest(source: str, told: str) -> None:
    with pytest.raises(ReinError) as caught:
        parse_source(source, own())
    assert caught.value.usage
    assert told in str(caught.value)


def test_every_dataset_has_folders() -> None:
    for dataset in DATASETS:
        assert {"train", "val"} & set(split_folders(dataset, Path()))


# --- pairs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", LAYOUTS)
def test_pairs_are_found_where_the_dataset_keeps_them(tmp_path: Path, source: str) -> None:
    dataset, _ = parse_source(source, DataSettings())
    root = tmp_path / dataset
    if dataset == "cityscapes-c":
        for corruption in {f.images for f in split_folders(dataset, root)["val"]}:
            touch(root / corruption / "a/a_1_leftImg8bit.png")
    image, label = LAYOUTS[source]
    touch(root / image, root / label)
    samples = find_samples(source, DataSettings(root=str(tmp_path)))
    found = [(s.image, s.label and s.label.resolve()) for s in samples]
    assert (root / image, (root / label).resolve()) in found
    assert len(samples) == (16 if dataset == "cityscapes-c" else 1)
    assert {s.dataset for s in samples} == {dataset}


def test_acdc_is_scored_by_condition_and_keeps_its_paths(tmp_path: Path) -> None:
    for condition in ("fog", "night", "rain", "snow"):
        touch(*(tmp_path / "acdc" / part.format(condition) for part in ACDC))
    samples = find_samples("acdc", DataSettings(root=str(tmp_path)))
    assert [s.domain for s in samples] == ["night", "fog", "rain", "snow"]
    assert samples[0].name == "night/val/S/night_1_rgb_anon.png"


def test_bdd_labels_of_both_names_and_mapillary_before_its_half_copy(tmp_path: Path) -> None:
    bdd = tmp_path / "bdd100k"
    touch(*(bdd / f"images/10k/val/{n}.jpg" for n in "ab"))
    masks = bdd / "labels/sem_seg/masks/val"
    touch(masks / "a_train_id.png", masks / "b.png")
    found = [s.label.name for s in find_samples("bdd100k", DataSettings(root=str(tmp_path))) if s.label]
    assert found == ["a_train_id.png", "b.png"]
    mapillary = tmp_path / "mapillary"
    touch(mapillary / "validation/images/x.jpg", mapillary / "cityscapes_trainIdLabel/val/label/x.png")
    assert find_samples("mapillary", DataSettings(root=str(tmp_path)))[0].image.parent.name == "images"


def test_a_list_chooses_the_sixteenth(tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    for name in ("a/a_1", "a/a_2", "b/b_1"):
        touch(root / f"leftImg8bit/train/{name}_leftImg8bit.png")
        touch(root / f"gtFine/train/{name}_gtFine_labelTrainIds.png")
    (root / "train_16th.txt").write_text("a_2\nb/b_1_leftImg8bit.png\n")
    data = DataSettings(root=str(tmp_path))
    names = [s.name for s in find_samples("cityscapes:train_16th", data)]
    assert names == ["a/a_2_leftImg8bit.png", "b/b_1_leftImg8bit.png"]
    (root / "train_16th.txt").write_text("a_2\nnowhere\n")
    with pytest.raises(ReinError, match="1 images that are not there: nowhere"):
        find_samples("cityscapes:train_16th", data)
    (root / "train_16th.txt").unlink()
    with pytest.raises(ReinError, match="no list of images"):
        find_samples("cityscapes:train_16th", data)


def test_own_data_has_its_root_suffixes_and_domain(tmp_path: Path) -> None:
    split = {"images": "x", "labels": "x", "label_suffix": "_label.png", "domain": "dusk"}
    data = own(root=str(tmp_path / "here"), splits={"day": split})
    touch(
        *(tmp_path / "here/x" / n for n in ("1.png", "1_label.png", "sub/2.png", "sub/2_label.png", ".3.png"))
    )
    samples = find_samples("mine:day", data)
    assert [s.name for s in samples] == ["1.png", "sub/2.png"]
    assert {s.domain for s in samples} == {"dusk"}
    assert samples[1].label == tmp_path / "here/x/sub/2_label.png"


# --- what is missing ---------------------------------------------------------------------------------------


def test_a_missing_dataset_is_named_with_what_brings_it(tmp_path: Path) -> None:
    with pytest.raises(ReinError, match="gta/images") as caught:
        find_samples("gta", DataSettings(root=str(tmp_path)))
    assert "rein prepare-data gta" in caught.value.hint
    assert "https://" in caught.value.hint


@pytest.mark.parametrize(("place", "told"), [("gta/gta/images", "deeper"), ("images", "higher")])
def test_a_root_one_level_off_is_recognised(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    with pytest.raises(ReinError) as caught:
        find_samples("gta", DataSettings(root=str(tmp_path)))
    assert told in caught.value.hint


def test_images_without_label_and_labels_without_image_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "gta"
    touch(*(root / f"images/{i}.png" for i in range(5)), root / "labels/0_labelTrainIds.png")
    data = DataSettings(root=str(tmp_path))
    with pytest.raises(ReinError, match=r"4 of 5 images .*: 1\.png, 2\.png, 3\.png, …") as caught:
        find_samples("gta", data)
    assert caught.value.hint.startswith("Prepare the labels: rein prepare-data gta")
    assert [s.label is None for s in find_samples("gta", data, need_labels=False)] == [False] + [True] * 4
    touch(*(root / f"labels/{i}_labelTrainIds.png" for i in range(1, 7)))
    with pytest.raises(ReinError, match=r"2 labels in .* have no image .*: 5_labelTrainIds\.png, 6_"):
        find_samples("gta", data)


def test_an_empty_folder_and_a_split_without_labels(tmp_path: Path) -> None:
    (tmp_path / "gta/images").mkdir(parents=True)
    (tmp_path / "gta/labels").mkdir(parents=True)
    with pytest.raises(ReinError, match=r"No image '\*\.png'"):
        find_samples("gta", DataSettings(root=str(tmp_path)))
    with pytest.raises(ReinError, match="no labels"):
        find_samples("acdc:test", DataSettings(root=str(tmp_path)))


# --- classes and values ------------------------------------------------------------------------------------


def test_classes_are_those_of_the_own_dataset_in_use() -> None:
    assert len(classes_of(DataSettings())) == 19
    assert classes_of(own()).names == ("ground", "thing", "sky")
    mixed = own().model_copy(update={"val": ("cityscapes:val",)})
    with pytest.raises(ReinError, match="19 Cityscapes classes"):
        classes_of(mixed)
    unused = own().model_copy(update={"train": ("gta",), "val": ("acdc",)})
    assert len(classes_of(unused)) == 19


def test_label_tables() -> None:
    table = label_table("gta", DataSettings())
    assert table.dtype == np.int16
    assert list(table[:19]) == list(range(19))
    assert (table[255], table[19], table[254]) == (255, -1, -1)
    assert label_table("urbansyn", DataSettings())[19] == 255
    plain = label_table("mine", own(ignore=1))
    assert list(plain[:4]) == [0, 255, 2, -1]
    assert plain[255] == -1
    mapped = label_table("mine", own(map={"7": 0, "255": 2}))
    assert (mapped[7], mapped[255], mapped[0]) == (0, 2, -1)
    assert list(label_tables(["gta", "acdc:val", "acdc:train"], DataSettings())) == ["acdc", "gta"]
    for name in ("256", "-1", "road"):
        with pytest.raises(ReinError, match=f"stored value '{name}'"):
            label_table("mine", own(map={name: 0}))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/10k", "labels/sem_seg/masks"),
        ("bdd100k/images/10k", "bdd100k/labels/sem_seg/masks"),
        ("10k_images_{}/bdd100k/images/10k", "bdd100k_sem_seg_labels_trainval/bdd100k/labels/sem_seg/masks"),
        ("10k", "bdd100k_seg_maps/labels"),
        ("bdd100k_images_10k/10k", "bdd100k_seg_maps/bdd100k_seg_maps/labels"),
        ("bdd100k/seg/images", "bdd100k/seg/labels"),
        ("seg/images", "seg/labels"),
    ],
)
def test_bdd100k_is_found_as_its_archives_lie_side_by_side(tmp_path: Path, images: str, labels: str) -> None:
    root = tmp_path / "bdd100k"
    for number, split in enumerate(("train", "val", "test")):
        touch(root / images.format(split) / split / f"{number}.jpg")
        if split != "test":
            touch(root / labels / split / f"{number}_train_id.png")
            touch(root / "labels/sem_seg/colormaps" / split / f"{number}.png")
    data = DataSettings(root=str(tmp_path))
    for number, split in enumerate(("train", "val")):
        (sample,) = find_samples(f"bdd100k:{split}", data)
        assert sample.name == f"{number}.jpg"
        assert sample.label == root / labels / split / f"{number}_train_id.png"
    (sample,) = find_samples("bdd100k:test", data, need_labels=False)
    assert sample.name == "2.jpg"


def test_panoptic_masks_of_bdd100k_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "bdd100k/images/10k/val/a.jpg", tmp_path / "bdd100k/labels/pan_seg/bitmasks/val/a.png")
    with pytest.raises(ReinError, match="pan_seg' holds panoptic masks: their ids, up to 40") as caught:
        find_samples("bdd100k:val", DataSettings(root=str(tmp_path)))
    assert "bdd100k_sem_seg_labels_trainval.zip" in caught.value.hint


def test_known_bad_pairs_and_named_ones_are_left_out_where_asked(tmp_path: Path) -> None:
    for name in ("00001", "15188", "20800", "20801", "20860", "20861"):
        touch(tmp_path / f"gta/images/{name}.png", tmp_path / f"gta/labels/{name}_labelTrainIds.png")

    def names(*leave_out: str) -> list[str]:
        data = DataSettings(root=str(tmp_path), leave_out=leave_out)
        return [Path(sample.name).stem for sample in find_samples("gta", data)]

    assert len(names()) == 6
    assert names("gta") == ["00001", "20800", "20861"]
    assert names("gta", "gta/00001.png") == ["20800", "20861"]
    assert len(KNOWN_BAD["gta"]) == 62
    for entry, told in (("gtaa", "No dataset is named 'gtaa'"), ("synthia", "no bad pairs are known")):
        with pytest.raises(ReinError, match=told):
            names(entry)


# --- completeness ------------------------------------------------------------------------------------------


def test_what_a_split_lacks_is_said_with_its_archives() -> None:
    assert remark("cityscapes", "val", ["a"]) == (
        "val: 1 of 500 images; all are in leftImg8bit_trainvaltest.zip."
    )
    assert remark("cityscapes", "val", ["a"] * 500) == ""
    assert remark("cityscapes", "train_extra", []).endswith("leftImg8bit_trainextra.zip.")
    numbers = [f"{n:05}.png" for n in range(1, 24967)]
    assert remark("gta", "train", numbers) == ""
    assert remark("gta", "train", numbers[:2500] + numbers[7500:]) == (
        "train: 19,966 of 24,966 images; the others are in 02_images.zip, 03_images.zip."
    )
    assert "01_images.zip to 10_images.zip" in remark("gta", "train", ["00002.png"])
    domains = ["night"] * 106 + ["fog"] * 100 + ["rain"] * 99
    assert remark("acdc", "val", domains, domains) == (
        "val: 305 of 406 images (rain 99 of 100, snow 0 of 100); all are in rgb_anon_trainvaltest.zip."
    )
    assert sum(sum(each.values()) for each in ACDC_IMAGES.values()) == 4006
    assert remark("bdd100k", "val", ["a"] * 990) == ""  # some were released without label
    assert remark("bdd100k", "val", ["a"]).endswith("; all are in 10k_images_val.zip.")
    assert remark("mine", "val", ["a"]) == ""
    assert remark("cityscapes-c", "val", ["a"]) == "val: 1 of 8,000 images."


@pytest.mark.parametrize("dataset", [name for name in DATASETS if name != "cityscapes-c"])
def test_every_remark_and_hint_names_archives(tmp_path: Path, dataset: str) -> None:
    for split in IMAGES[dataset]:
        assert any(end in remark(dataset, split, []) for end in (".zip", ".rar")), split
    with pytest.raises(ReinError) as caught:
        find_samples(f"{dataset}:train", DataSettings(root=str(tmp_path)))
    for download in DOWNLOADS[dataset]:
        assert (download.shown() in caught.value.hint) == (not download.extra and not download.old)
