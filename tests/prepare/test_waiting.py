"""Archives that are unfinished or damaged: an error where they are needed, else a remark."""

from __future__ import annotations

import zipfile
from pathlib import Path

import layouts
import numpy as np
import pytest
from test_archives import PACKED, pack

from reincli.commands.prepare_data import run
from reincli.data.downloads import DOWNLOADS, plain_name, unfinished, whole_name
from reincli.data.missing import hint
from reincli.errors import ReinError
from reincli.media.images import write_png
from reincli.prepare import waiting


def packed(tmp_path: Path, dataset: str) -> Path:
    """A dataset's folder with its archives alone."""
    layouts.write(dataset, tmp_path / "made")
    root = tmp_path / dataset
    for name, (below, prefix) in PACKED[dataset].items():
        pack(tmp_path / "made", below, prefix, root / name)
    return root


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("cityscapes", "gtCoarse.zip.part"),
        ("cityscapes", "leftImg8bit_trainextra.zip.crdownload"),
        ("cityscapes", "gtFine_trainvaltest (1).zip.crdownload"),
        ("cityscapes", "gtFine_trainvaltest.x1B2c-_4.zip.part"),
        ("bdd100k", "10k_images_test.zip.part"),
        ("bdd100k", "bdd100k_seg.zip.aria2"),
        ("mapillary", "mapillary-vistas-dataset_public_v1.2.zip.part"),
        ("urbansyn", "UrbanSyn.zip.tmp"),
    ],
)
def test_an_unfinished_download_that_is_not_needed_is_a_remark(
    tmp_path: Path, dataset: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = packed(tmp_path, dataset)
    (root / name).write_bytes(b"PK")
    for _ in range(2):
        run(dataset, root, workers=1)
        told = capsys.readouterr().err
        assert f"The download '{root / name}' is not finished; what is prepared now does without it." in told


@pytest.mark.parametrize(
    ("dataset", "name", "missing"),
    [
        ("cityscapes", "gtFine_trainvaltest.zip.part", "gtFine_trainvaltest.zip"),
        ("cityscapes", "gtFine_trainvaltest.x1B2c-_4.zip.part", "gtFine_trainvaltest.zip"),
        ("bdd100k", "bdd100k_seg.zip.part", "bdd100k_images_10k.zip"),
        ("gta", "03_images.zip.part", ""),
    ],
)
def test_one_that_is_needed_is_an_error_before_anything_is_unpacked(
    tmp_path: Path, dataset: str, name: str, missing: str
) -> None:
    root = packed(tmp_path, dataset)
    (root / name).write_bytes(b"PK")
    if missing:
        (root / missing).write_bytes(b"")  # as Firefox leaves it until all is there
    with pytest.raises(ReinError, match="is not finished") as caught:
        run(dataset, root, workers=1)
    assert name in caught.value.message
    assert not [path for path in root.iterdir() if path.is_dir()]


def test_a_part_of_gta_that_was_unpacked_by_hand_is_not_needed(tmp_path: Path) -> None:
    root = packed(tmp_path, "gta")
    run("gta", root, workers=1)
    (root / "03_images.zip.part").write_bytes(b"PK")
    image = np.zeros((8, 8, 3), np.uint8)
    write_png(root / "images/05001.png", image)
    place = waiting.Place("gta", root, root)
    with pytest.raises(ReinError, match="not finished"):
        waiting.unfinished_remarks(place)
    write_png(root / "images/07500.png", image)
    assert len(waiting.unfinished_remarks(place)) == 1


@pytest.mark.parametrize("name", ["gtCoarse.zip", "gtFine_trainvaltest (1).zip"])
def test_a_damaged_archive_that_is_not_needed_is_a_remark(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = packed(tmp_path, "cityscapes")
    (root / name).write_bytes(b"PK\3\4" + bytes(100))
    run("cityscapes", root, workers=1)
    told = capsys.readouterr().err
    assert f"{name}' (104 bytes) is damaged or cut short" in told
    assert "What is prepared now does without it." in told


def test_all_damaged_archives_are_named_and_the_others_unpacked(tmp_path: Path) -> None:
    root = packed(tmp_path, "gta")
    for name in ("02_images.zip", "02_labels.zip"):
        (root / name).write_bytes(b"PK\3\4")
    with pytest.raises(ReinError) as caught:
        run("gta", root, workers=1)
    assert "02_images.zip' (4 bytes) is damaged" in caught.value.message
    assert "02_labels.zip' (4 bytes) is damaged" in caught.value.message
    assert len(list((root / "images").iterdir())) == len(list((root / "labels").iterdir())) == 2


def test_what_a_damaged_archive_gave_is_not_taken_for_all(tmp_path: Path) -> None:
    """Its folder is there from the first run; the second still says that it is damaged."""
    root = packed(tmp_path, "cityscapes")
    path = root / "gtFine_trainvaltest.zip"
    with zipfile.ZipFile(path) as opened:
        last = max(opened.infolist(), key=lambda info: info.header_offset if info.file_size > 50 else 0)
    content = bytearray(path.read_bytes())
    content[last.header_offset + 60 + len(last.filename)] ^= 255
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ReinError, match=r"gtFine_trainvaltest\.zip.*is damaged or cut short"):
            run("cityscapes", root, workers=1)
        assert (root / "gtFine/train").is_dir()
    path.rename(root / "gtFine_trainvaltest.zip.part")
    with pytest.raises(ReinError, match="is not finished"):
        run("cityscapes", root, workers=1)


def test_a_hint_speaks_of_what_brings_the_folder(tmp_path: Path) -> None:
    (tmp_path / "gtCoarse.zip.part").touch()
    assert hint("cityscapes", tmp_path, "gtFine/val").startswith("Get ")
    assert "'" + str(tmp_path / "gtCoarse.zip.part") in hint("cityscapes", tmp_path, "gtCoarse/train")
    (tmp_path / "gtFine_trainvaltest.zip").touch()
    (tmp_path / "gtFine_trainvaltest (1).zip.part").touch()
    assert "gtFine_trainvaltest.zip' lies there" in hint("cityscapes", tmp_path, "gtFine/val")


def test_names_of_unfinished_downloads() -> None:
    assert whole_name("a.zip") == "a.zip"
    assert whole_name("gtFine_trainvaltest.zip.part") == "gtFine_trainvaltest.zip"
    assert whole_name("rgb.x1B2c3D4.tar.gz.part") == "rgb.tar.gz"
    assert plain_name(whole_name("gt_trainval (2).zip.crdownload")) == "gt_trainval.zip"
    assert unfinished("gta", Path("/nowhere")) == []


@pytest.mark.parametrize("around", ["", "rgb_or_ss/"])
def test_urbansyns_pictures_may_lie_in_their_archive_without_a_folder(tmp_path: Path, around: str) -> None:
    layouts.write("urbansyn", tmp_path / "made")
    root = tmp_path / "urbansyn"
    root.mkdir()
    for kind in ("rgb", "ss"):
        with zipfile.ZipFile(root / f"{kind}.zip", "w") as opened:
            for file in (tmp_path / "made" / kind).iterdir():
                opened.write(file, around.replace("rgb_or_ss", kind) + file.name)
    run("urbansyn", root, workers=1)
    for path in (tmp_path / "made").rglob("*.png"):
        if path.parent.name in ("rgb", "ss"):
            assert (root / path.parent.name / path.name).read_bytes() == path.read_bytes()
    colours = DOWNLOADS["urbansyn"][1].target("ss_colour/ss_colour_0001.png")
    assert colours is None
