"""Unpacking downloads: what is needed, safely, once."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
from test_prepare import make

from reincli.commands.prepare_data import run
from reincli.config import DataSettings
from reincli.data.downloads import DOWNLOADS, Download, known_archives, names_for
from reincli.data.labels import LABEL_IDS
from reincli.data.layouts import DATASETS
from reincli.data.loading import load_label
from reincli.data.sources import find_samples, label_table
from reincli.errors import ReinError
from reincli.media.images import write_png
from reincli.media.whole_files import temporary_beside
from reincli.prepare import archives, waiting
from reincli.prepare.prepare import prepare

PACKED = {
    "cityscapes": {
        "leftImg8bit_trainvaltest.zip": ("leftImg8bit", ""),
        "gtFine_trainvaltest.zip": ("gtFine", ""),
    },
    "gta": {"01_images.zip": ("images", ""), "01_labels.zip": ("labels", "")},
    "synthia": {"RAND_CITYSCAPES.tar.gz": ("", "RAND_CITYSCAPES/")},
    "urbansyn": {"rgb.tar.gz": ("rgb", ""), "ss.tar": ("ss", "")},
    "mapillary": {"An-ZjB1Zm61yAZG0ozTymz8I8NqI4x0M (1).zip": ("", "")},
    "bdd100k": {
        "bdd100k_images_10k.zip": ("images", "bdd100k/"),
        "bdd100k_sem_seg_labels_trainval.zip": ("labels", "bdd100k/"),
    },
    "acdc": {"rgb_anon_trainvaltest.zip": ("rgb_anon", ""), "gt_trainval.zip": ("gt", "")},
}


OTHER_NAMES = [
    ("synthia", {"SYNTHIA_RAND_CITYSCAPES.zip": ("", "SYNTHIA_RAND_CITYSCAPES/")}),
    ("urbansyn", {"UrbanSyn.zip": ("", "UrbanSyn/")}),
    ("mapillary", {"mapillary-vistas-dataset_public_v1.2.zip": ("", "")}),
    ("mapillary", {"mapillary-vistas-dataset_public_v2.0.zip": ("", "mapillary-vistas-dataset_public_v2.0/")}),
    ("mapillary", {"An_o5cmHOsS1VbLdaKx_zfMdi0No.zip": ("", "")}),
    (
        "cityscapes",
        {"leftImg8bit_trainvaltest(1).zip": ("leftImg8bit", ""), "gtFine_trainvaltest.zip.1": ("gtFine", "")},
    ),
]  # fmt: skip


def pack(source: Path, below: str, prefix: str, target: Path) -> None:
    """An archive of the files below a folder, with a read-me that nobody needs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    files = {
        prefix + f.relative_to(source).as_posix(): f.read_bytes()
        for f in sorted((source / below).rglob("*"))
        if f.is_file()
    }
    files["README.txt"] = b"read me"
    if ".zip" in target.suffixes:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, data in files.items():
                opened.writestr(name, data)
        return
    with tarfile.open(target, "w:gz" if target.suffix == ".gz" else "w") as opened:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(("dataset", "packed"), [*PACKED.items(), *OTHER_NAMES])
def test_downloads_are_prepared_as_they_come(
    tmp_path: Path, dataset: str, packed: dict[str, tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "unpacked", dataset)
    root = tmp_path / dataset
    for name, (below, prefix) in packed.items():
        pack(tmp_path / "unpacked", below, prefix, root / name)
    run(dataset, root, workers=1)
    prepare(dataset, tmp_path / "unpacked")
    ours = {p.relative_to(root): p for p in root.rglob("*.png") if "annotations" not in p.parts}
    for path, file in ours.items():
        assert file.read_bytes() == (tmp_path / "unpacked" / path).read_bytes()
    assert set(ours) == {p.relative_to(tmp_path / "unpacked") for p in (tmp_path / "unpacked").rglob("*.png")}
    assert not (root / "README.txt").exists()
    assert waiting.pending(waiting.Place(dataset, root, root)) == []
    capsys.readouterr()
    run(dataset, root, workers=1)
    assert "Unpacking" not in capsys.readouterr().err


def test_an_archive_with_both_versions_of_mapillary_gives_the_one_that_is_asked_for(tmp_path: Path) -> None:
    expected = layouts.write("mapillary", tmp_path / "made")
    root = tmp_path / "mapillary"
    pack(tmp_path / "made", "", "", root / "An-ZjB1Zm61yAZG0ozTymz8I8NqI4x0M.zip")
    for version, other in (("v2.0", "v1.2"), ("v1.2", "v2.0")):
        run("mapillary", root, workers=1, version=version, force=True)
        assert (root / "training" / version).is_dir()
        assert not (root / "training" / other).exists()
        data = DataSettings(root=str(tmp_path))
        for source, labels in expected.items():
            for sample in find_samples(source, data):
                read = load_label(sample, label_table("mapillary", data))
                np.testing.assert_array_equal(read, labels[sample.name])
        shutil.rmtree(root / "training" / version)
        shutil.rmtree(root / "validation" / version)


BDD = {
    "now": {
        "10k_images_train.zip": {"images/10k/train": "bdd100k/images/10k/train"},
        "10k_images_val (1).zip": {"images/10k/val": "bdd100k/images/10k/val"},
        "10k_images_test.zip": {"images/10k/test": "bdd100k/images/10k/test"},
        "bdd100k_sem_seg_labels_trainval.zip": {"labels": "bdd100k/labels"},
    },
    "maps": {
        "bdd100k_images_10k.zip": {"images/10k": "10k"},
        "bdd100k_seg_maps.zip": {
            "labels/sem_seg/masks": "bdd100k_seg_maps/labels",
            "labels/sem_seg/colormaps": "bdd100k_seg_maps/color_labels",
        },
    },
    "bare maps": {
        "10k_images_trainval.zip": {"images/10k": "images/10k"},
        "bdd100k_seg_maps.zip": {"labels/sem_seg/masks": "labels", "labels/sem_seg/colormaps": "color_labels"},
    },
    "old": {
        "bdd100k_seg.zip": {
            "images/10k": "bdd100k/seg/images",
            "labels/sem_seg/masks": "bdd100k/seg/labels",
            "labels/sem_seg/colormaps": "bdd100k/seg/color_labels",
        },
    },
}  # fmt: skip
"""Ways in which BDD100K was handed out: archive -> folder of the dataset -> the same within the archive."""


@pytest.mark.parametrize("way", BDD)
@pytest.mark.parametrize("packed", [True, False])
def test_bdd100k_as_it_was_handed_out(tmp_path: Path, way: str, packed: bool) -> None:
    """Packed, and unpacked side by side, each into a folder of its own name."""
    made = tmp_path / "made"
    expected = layouts.write("bdd100k", made)
    for path in list((made / "labels/sem_seg/masks").rglob("*.png")):
        path.rename(path.with_name(path.stem.removesuffix("_train_id") + "_train_id.png"))
    root = tmp_path / "bdd100k"
    root.mkdir()
    for name, folders in BDD[way].items():
        with zipfile.ZipFile(root / name, "w") as opened:
            for folder, inside in folders.items():
                for file in sorted((made / folder).rglob("*.*")):
                    opened.write(file, f"{inside}/{file.relative_to(made / folder).as_posix()}")
        if not packed:
            with zipfile.ZipFile(root / name) as opened:
                opened.extractall(root / name.removesuffix(".zip"))
            (root / name).unlink()
    run("bdd100k", root, workers=1)
    data = DataSettings(root=str(tmp_path))
    for source, labels in expected.items():
        samples = {sample.name: sample for sample in find_samples(source, data)}
        assert set(samples) == set(labels)
        for name, label in labels.items():
            np.testing.assert_array_equal(load_label(samples[name], label_table("bdd100k", data)), label)
    assert not packed or not list(root.rglob("*color*"))


@pytest.mark.parametrize("kind", ["grey", "rgba"])
def test_panoptic_masks_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    layouts.write("bdd100k", tmp_path)
    for path in (tmp_path / "labels/sem_seg/masks/val").rglob("*.png"):
        ids = np.arange(64 * 128, dtype=np.uint8).reshape(64, 128) % 41
        cv2.imwrite(str(path), ids if kind == "grey" else np.dstack([ids * 0, ids * 0, ids, ids]))
    with pytest.raises(ReinError, match="panoptic mask") as caught:
        run("bdd100k", tmp_path, workers=1)
    assert "semantic segmentation" in caught.value.hint or "sem_seg_labels" in caught.value.hint
    if kind == "grey":
        with pytest.raises(ReinError, match=r"has 19-40, .*has 19-40") as caught:
            run("bdd100k", tmp_path, workers=1, check=True)
        assert "panoptic masks" in caught.value.hint


def test_labels_that_are_missing_are_asked_for_by_archive(tmp_path: Path) -> None:
    made, root = tmp_path / "made", tmp_path / "gta"
    layouts.write("gta", made)
    image = made / "images/00002.png"
    for name in ("02501", "24966"):
        shutil.copy(image, image.with_name(f"{name}.png"))
    pack(made, "", "", root / "images.zip")
    pack(made, "labels", "", root / "01_labels.zip")
    (root / "images.zip").rename(root / "01_images.zip")
    for check in (False, True):
        with pytest.raises(ReinError) as caught:
            run("gta", root, workers=1, check=check)
        assert "02_labels.zip, 10_labels.zip" in caught.value.hint


def test_who_stops_unpacking_is_told_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.write("gta", tmp_path / "made")
    pack(tmp_path / "made", "images", "", tmp_path / "gta/01_images.zip")

    def stopped(*_: object) -> Iterator[tuple[int, int]]:
        yield 1, 2
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "unpack", stopped)
    with pytest.raises(
        KeyboardInterrupt, match=r"01_images\.zip a part is unpacked and stays\. The same command"
    ):
        run("gta", tmp_path / "gta", workers=1)


def test_of_acdc_what_is_read_is_unpacked_alone(tmp_path: Path) -> None:
    layouts.write("acdc", tmp_path / "made")
    root = tmp_path / "acdc"
    for name, (below, prefix) in PACKED["acdc"].items():
        pack(tmp_path / "made", below, prefix, root / name)
    run("acdc", root, workers=1)
    ends = {path.name.split("_frame_")[1][7:] for path in root.rglob("*.png")}
    assert ends == {"rgb_anon.png", "gt_labelIds.png", "gt_labelTrainIds.png"}
    assert not list(root.rglob("*_ref"))


def test_coarse_labels_of_cityscapes_are_splits(tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    expected = layouts.write("cityscapes", root)["cityscapes:val"]
    made = tmp_path / "made"
    for name, label in expected.items():
        stem = name.removesuffix("_leftImg8bit.png").replace("frankfurt", "augsburg")
        ids = np.array([*LABEL_IDS, *[0] * 237], np.uint8)[label]
        layouts.polygons(made / f"gtCoarse/train_extra/{stem}_gtCoarse_polygons.json", ids)
        image = np.zeros((*label.shape, 3), np.uint8)
        layouts.write_png(made / f"leftImg8bit/train_extra/{stem}_leftImg8bit.png", image)
        coarse = stem.replace("augsburg", "aachen")
        layouts.polygons(made / f"gtCoarse/train/{coarse}_gtCoarse_polygons.json", ids)
    run("cityscapes", root, workers=1)  # without them nothing is amiss
    pack(made, "gtCoarse", "", root / "gtCoarse.zip")
    pack(made, "leftImg8bit", "", root / "leftImg8bit_trainextra.zip")
    run("cityscapes", root, workers=1)
    data = DataSettings(root=str(tmp_path))
    for split, city in (("train_extra", "augsburg"), ("train_coarse", "aachen")):
        samples = find_samples(f"cityscapes:{split}", data)
        assert len(samples) == 2
        for sample in samples:
            label = load_label(sample, label_table("cityscapes", data))
            np.testing.assert_array_equal(label, expected[sample.name.replace(city, "frankfurt")])
    assert len(find_samples("cityscapes:train", data)) == 2
    shutil.rmtree(root / "gtCoarse")
    with pytest.raises(ReinError) as caught:
        find_samples("cityscapes:train_extra", data)
    assert caught.value.hint.startswith("Get gtCoarse.zip")


def test_another_folder_takes_everything(tmp_path: Path) -> None:
    make(tmp_path / "unpacked", "gta")
    for name, (below, prefix) in PACKED["gta"].items():
        pack(tmp_path / "unpacked", below, prefix, tmp_path / "in" / name)
    run("gta", tmp_path / "in", out=tmp_path / "gta", workers=1)
    assert len(find_samples("gta", DataSettings(root=str(tmp_path)))) == 1
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["01_images.zip", "01_labels.zip"]


@pytest.mark.parametrize("dataset", PACKED)
def test_another_folder_is_found_again(
    tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run, a check, and what was unpacked by hand into the one folder or the other."""
    expected = layouts.write(dataset, tmp_path / "made")
    source, out = tmp_path / "in", tmp_path / dataset
    for name, (below, prefix) in PACKED[dataset].items():
        pack(tmp_path / "made", below, prefix, source / name)
    there = set(source.iterdir())
    for options in ({}, {}, {"check": True}, {"force": True}):
        run(dataset, source, out=out, workers=1, **options)
        assert set(source.iterdir()) == there
        data = DataSettings(root=str(tmp_path))
        for split, labels in expected.items():
            assert {sample.name for sample in find_samples(split, data)} == set(labels)
    for path in there:
        path.unlink()
    shutil.rmtree(out)
    shutil.copytree(tmp_path / "made", source, dirs_exist_ok=True)
    for options in ({}, {}, {"check": True}):
        run(dataset, source, out=out, workers=1, **options)


def test_a_removed_file_is_unpacked_again_and_others_stay(tmp_path: Path) -> None:
    make(tmp_path / "unpacked", "gta")
    pack(tmp_path / "unpacked", "images", "", tmp_path / "gta/01_images.zip")
    (what,) = waiting.pending(waiting.Place("gta", tmp_path / "gta", tmp_path / "gta"))
    list(archives.unpack(*what, tmp_path / "gta"))
    image = tmp_path / "gta/images/00001.png"
    image.unlink()
    assert waiting.pending(waiting.Place("gta", tmp_path / "gta", tmp_path / "gta")) == [what]
    list(archives.unpack(*what, tmp_path / "gta"))
    assert image.exists()


@pytest.mark.parametrize(
    "name",
    ["../images/x.png", "/images/x.png", "images/../../x.png", "C:\\images\\x.png", "images\\..\\..\\x"],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "in" / f"images.{kind}"
    path.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr(zipfile.ZipInfo(name), b"x")
    else:
        with tarfile.open(path, "w") as opened:
            opened.addfile(tarfile.TarInfo(name))
    with pytest.raises(ReinError, match="leads out of the folder"):
        list(archives.unpack(path, DOWNLOADS["gta"][0], tmp_path / "in"))
    assert [p.name for p in tmp_path.rglob("*")] == ["in", path.name]


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as opened:
        info = tarfile.TarInfo("images/x.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(info)
    entry = zipfile.ZipInfo("images/x.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as opened:
        opened.writestr(entry, "/etc/passwd")
    for name in ("images.tar", "images.zip"):
        with pytest.raises(ReinError, match="which is a link"):
            list(archives.unpack(tmp_path / name, DOWNLOADS["gta"][0], tmp_path))
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/images").symlink_to(tmp_path / "outside")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as opened:
        opened.writestr("images/x.png", b"x")
    with pytest.raises(ReinError, match="leads out of"):
        list(archives.unpack(tmp_path / "images.zip", DOWNLOADS["gta"][0], tmp_path / "root"))
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", ["01_images.zip", "images.tar", "images.tar.gz"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.97])
def test_an_archive_cut_short_is_named(tmp_path: Path, name: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 3000), dtype=np.uint8)
    for i, row in enumerate(noise):
        (tmp_path / "from/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"from/images/{i}.png").write_bytes(row.tobytes())
    path = tmp_path / "gta" / name
    pack(tmp_path / "from", "images", "", path)
    whole = path.read_bytes().rstrip(b"\0") if name == "images.tar" else path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ReinError, match=r"images.*\(.* bytes\) is damaged or cut short"):
        run("gta", tmp_path / "gta", workers=1)
    for file in (tmp_path / "gta").rglob("*.png"):
        assert file.read_bytes() == (tmp_path / "from/images" / file.name).read_bytes()


def patched(path: Path, name: str, at: int, value: bytes) -> None:
    """Change the second member's heads in a zip: `at` counts from the signature of the entry in the list at its end."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    data[entry + at : entry + at + len(value)] = value
    if at in (8, 10):  # these stand in the head before the content too
        head = data.index(name.encode()) - 30
        data[head + at - 2 : head + at - 2 + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (8, b"\x01\x00", "holds 'images/2.png' encrypted"),
        (10, b"\x63\x00", "by method 99, which is not known here"),
        (24, b"\xff\xff\xff\xf0", r"needs 4\.\d GB|claims 4,\d+,\d+,\d+ bytes"),
        (16, b"\0\0\0\0", "is damaged or cut short: Bad CRC"),
    ],
)
def test_a_zip_that_cannot_be_unpacked_is_a_sentence(
    tmp_path: Path, at: int, value: bytes, says: str
) -> None:
    path = tmp_path / "gta" / "01_images.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for number in (1, 2):
            opened.writestr(f"images/{number}.png", b"x" * 1000)
    patched(path, "images/2.png", at, value)
    with pytest.raises(ReinError, match=says):
        run("gta", tmp_path / "gta", workers=1)
    written = [file.name for file in (tmp_path / "gta").rglob("*.png")]
    assert written in ([], ["1.png"])


def test_a_tar_that_claims_more_than_there_is_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "gta" / "images.tar.gz"
    path.parent.mkdir()
    info = tarfile.TarInfo("images/1.png")
    info.size = 2**40
    with gzip.open(path, "wb") as file:
        file.write(info.tobuf() + b"x" * 1000)
    with pytest.raises(ReinError, match=r"claims 1,099,511,627,776 bytes|damaged or cut short"):
        run("gta", tmp_path / "gta", workers=1)


@pytest.mark.parametrize("name", ["01_labels.zip", "labels.tar", "labels.tar.gz"])
def test_a_file_that_was_damaged_on_the_disk_comes_out_of_the_archive_again(
    tmp_path: Path, name: str
) -> None:
    make(tmp_path / "from", "gta")
    root = tmp_path / "gta"
    pack(tmp_path / "from", "images", "", root / "01_images.zip")
    pack(tmp_path / "from", "labels", "", root / name)
    run("gta", root, workers=1)
    label = next(file for file in sorted((root / "labels").glob("*.png")) if "Train" not in file.name)
    whole = label.read_bytes()
    label.write_bytes(whole[:-40] + bytes(40))
    label.with_name(f"{label.stem}_labelTrainIds.png").unlink()
    with pytest.raises(ReinError, match="could not be prepared"):
        run("gta", root, workers=1)
    later = (root / name).stat().st_mtime_ns + 10**9
    os.utime(root / name, ns=(later, later))  # fetched again
    run("gta", root, workers=1)
    assert label.read_bytes() == whole


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("name", ["images.tar", "images.tar.gz"])
def test_a_flipped_bit_in_a_tar_is_told(tmp_path: Path, name: str, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)
    write_png(tmp_path / "from/images/a.png", noise)
    write_png(tmp_path / "from/images/b.png", 255 - noise)
    if suffix == ".jpg":
        for file in (tmp_path / "from/images").iterdir():
            file.rename(file.with_suffix(suffix))
    path = tmp_path / "gta" / name
    pack(tmp_path / "from", "images", "", path)
    data = (tmp_path / "from/images" / f"b{suffix}").read_bytes()
    packed = bytearray(path.read_bytes() if name.endswith(".tar") else gzip.decompress(path.read_bytes()))
    packed[packed.index(data) + 100] ^= 1
    if name.endswith(".tar"):
        path.write_bytes(packed)
        if suffix == ".jpg":
            return  # neither has a checksum
    else:
        end = path.read_bytes()[-8:]  # the checksum of what was packed
        path.write_bytes(gzip.compress(bytes(packed))[:-8] + end)
    says = "1 files of .* fail their checksum: images/b.png" if suffix == ".png" else "CRC check failed"
    with pytest.raises(ReinError, match=f"{says}|CRC check failed"):
        list(archives.unpack(path, DOWNLOADS["gta"][0], tmp_path / "gta"))
    assert (tmp_path / "gta/images" / f"a{suffix}").is_file()
    assert not (tmp_path / "gta/images/b.png").exists()


@pytest.mark.parametrize("fault", ["stream", "place"])
def test_what_the_system_says_of_a_damaged_zip_is_its_damage(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "gta" / "01_images.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as opened:
        opened.writestr("images/1.jpg", b"x" * 1000)
    data = bytearray(path.read_bytes())
    if fault == "stream":
        data[data.index(b"1AY&SY")] ^= 1  # a block's sign
    else:
        at = data.rindex(b"PK\5\6") + 16  # where the list begins: now all places lie before the file
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "little") + 500).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ReinError, match=r"01_images\.zip' \(.* bytes\) is damaged or cut short"):
        run("gta", path.parent, workers=1)


def test_what_a_killed_run_has_left_is_removed_when_it_is_unpacked_again(tmp_path: Path) -> None:
    make(tmp_path / "from", "gta")
    for kind in ("images", "labels"):
        pack(tmp_path / "from", kind, "", tmp_path / "gta" / f"01_{kind}.zip")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in ("images/00001.png", ".unpacked.json"):
        path = tmp_path / "gta" / name
        path.parent.mkdir(exist_ok=True)
        part = temporary_beside(path)
        part.with_name(part.name.replace(f".{os.getpid()}.", f".{ended.pid}.")).write_bytes(b"a part")
    run("gta", tmp_path / "gta", workers=1)
    assert not list((tmp_path / "gta").rglob(".*.tmp"))


def test_notes_that_are_none_of_ours_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path / "from", "gta")
    for kind in ("images", "labels"):
        pack(tmp_path / "from", kind, "", tmp_path / "gta" / f"01_{kind}.zip")
    (tmp_path / "gta/.unpacked.json").write_text('{"01_labels.zip": 3, "x": null}')
    run("gta", tmp_path / "gta", workers=1)


def test_nothing_is_written_among_files_that_are_read(tmp_path: Path) -> None:
    make(tmp_path / "gta", "gta")
    for out in ("labels", "images/made"):
        with pytest.raises(ReinError, match="whose files are read"):
            run("gta", tmp_path / "gta", out=tmp_path / "gta" / out, workers=1)
    run("gta", tmp_path / "gta", out=tmp_path / "gta", workers=1)
    run("gta", tmp_path / "gta", out=tmp_path / "gta" / "made", workers=1)


def test_a_wrong_archive_and_an_unfinished_one_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "01_images.zip", "w") as opened:
        opened.writestr("cats/x.png", b"x")
    with pytest.raises(ReinError, match=r"holds nothing of images/; it holds 'cats/x\.png'"):
        run("gta", tmp_path, workers=1)
    (tmp_path / "01_labels.zip").write_bytes(b"\n<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(ReinError, match=r"01_labels\.zip' is a web page, not an archive"):
        run("gta", tmp_path, workers=1)
    (tmp_path / "01_labels.zip").unlink()
    (tmp_path / "01_images.zip").rename(tmp_path / "01_images.zip.part")
    with pytest.raises(ReinError, match=r"01_images\.zip\.part' is not finished"):
        run("gta", tmp_path, workers=1)


@pytest.mark.parametrize("name", ["01_images.zip", "images.tar", "images.tar.gz"])
def test_no_space_is_said_before_anything_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "from/images").mkdir(parents=True)
    (tmp_path / "from/images/x.png").write_bytes(b"x" * 100_000)
    pack(tmp_path / "from", "images", "", tmp_path / "gta" / name)
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr("reincli.prepare.archives.shutil.disk_usage", lambda path: full)
    with pytest.raises(ReinError, match=r"needs .* GB"):
        run("gta", tmp_path / "gta", workers=1)
    assert not (tmp_path / "gta/images").exists()


def test_space_is_needed_for_what_is_missing_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    write_png(tmp_path / "from/images/x.png", noise)
    write_png(tmp_path / "from/images/y.png", np.zeros((1, 1), np.uint8))
    write_png(tmp_path / "gta/images/x.png", noise)
    for name in ("images.tar", "images.tar.gz", "01_images.zip"):
        pack(tmp_path / "from", "images", "", tmp_path / "gta" / name)
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("reincli.prepare.archives.shutil.disk_usage", lambda path: full)
    for what in waiting.pending(waiting.Place("gta", tmp_path / "gta", tmp_path / "gta")):
        (tmp_path / "gta/images/y.png").unlink(missing_ok=True)
        list(archives.unpack(*what, tmp_path / "gta"))
        assert (tmp_path / "gta/images/y.png").exists()


def test_a_zip_that_is_damaged_within_is_named_and_what_is_whole_stays(tmp_path: Path) -> None:
    (tmp_path / "from/images").mkdir(parents=True)
    for name in "ab":
        noise = np.random.default_rng(ord(name)).integers(0, 256, 5000, dtype=np.uint8)
        (tmp_path / f"from/images/{name}.png").write_bytes(noise.tobytes())
    path = tmp_path / "gta/01_images.zip"
    pack(tmp_path / "from", "images", "", path)
    content = bytearray(path.read_bytes())
    content[7000] ^= 1  # within b.png
    path.write_bytes(content)
    with pytest.raises(ReinError, match="damaged or cut short: Bad CRC"):
        run("gta", tmp_path / "gta", workers=1)
    assert [file.name for file in (tmp_path / "gta/images").iterdir()] == ["a.png"]


# --- RAR ---------------------------------------------------------------------------------------------------

STAND_IN = """#!{python}
# Behaves as a program for RAR archives does, on a zip.
import os, sys, zipfile
words = sys.argv[1:]
options, plain = [w for w in words if w[0] == "-"], [w for w in words if w[0] != "-"]
tool = os.path.basename(sys.argv[0])
archive = next(w for w in plain if w.endswith(".rar"))
if not zipfile.is_zipfile(archive):
    sys.exit("Unexpected end of archive")
opened = zipfile.ZipFile(archive)
if words[0] in ("lb", "l", "-tf"):
    for name in opened.namelist():
        if tool == "unrar":
            print(name.rstrip("/"))
        elif tool == "bsdtar":
            print(name)
        else:
            print("Path = " + name.rstrip("/") + "\\nSize = 1\\n")
    sys.exit(0)
if tool == "unrar":
    assert words[0] == "x" and words[-3] == archive, words
    names, folder = plain[-2].removeprefix("@"), plain[-1]
elif tool == "bsdtar":
    assert words[0] == "-xf"
    names, folder = words[words.index("-T") + 1], words[words.index("-C") + 1]
else:
    assert words[0] == "x" and words[-2] == "--"
    names = next(w for w in options if w.startswith("-i@"))[3:]
    folder = next(w for w in options if w.startswith("-o"))[2:]
failed = False
for name in open(names).read().splitlines():
    if name + "/" not in opened.namelist():
        opened.extract(name, folder)
        if name.endswith("{lost}"):
            os.unlink(os.path.join(folder, name))
            os.symlink("/etc/passwd", os.path.join(folder, name))
        if name.endswith("{bad}"):
            path = os.path.join(folder, name)
            if tool == "unrar":  # it removes what fails
                os.unlink(path)
                sys.stderr.write(name.replace("\\\\", "/") + " - checksum error\\nTotal errors: 1\\n")
            else:  # and this one leaves it
                half = open(path, "rb").read()[:-30]
                open(path, "wb").write(half)
                sys.stderr.write("ERROR: CRC Failed : " + name + "\\n")
            failed = True
        elif name.endswith("{cut}"):
            sys.exit("Unexpected end of archive")
if failed:
    sys.exit(3)
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a stand-in alone onto the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def install(name: str, *, lost: str = "none", bad: str = "none", cut: str = "none") -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STAND_IN.format(python=sys.executable, lost=lost, bad=bad, cut=cut))
        path.chmod(0o755)

    return install


def rar(path: Path, *further: str) -> None:
    """SYNTHIA's archive: a folder above, folders that are not needed, entries for folders."""
    path.parent.mkdir(parents=True)
    make(path.parent / "from", "synthia")
    with zipfile.ZipFile(path, "w") as opened:
        for name in ("RAND_CITYSCAPES/", "RAND_CITYSCAPES/GT/LABELS/"):
            opened.writestr(name, b"")
        for file in sorted((path.parent / "from").rglob("*.png")):
            opened.write(file, f"RAND_CITYSCAPES/{file.relative_to(path.parent / 'from').as_posix()}")
        for name in ("RAND_CITYSCAPES/Depth/Depth/1.png", *further):
            opened.writestr(name, b"depth")
    shutil.rmtree(path.parent / "from")


needs_scripts = pytest.mark.skipif(sys.platform == "win32", reason="scripts cannot stand in for programs")


@needs_scripts
@pytest.mark.parametrize("name", ["unrar", "7zz", "7z", "bsdtar"])
def test_a_rar_is_unpacked_by_the_program_that_is_there(
    tmp_path: Path, tool: Callable[..., None], name: str
) -> None:
    tool(name)
    root = tmp_path / "synthia"
    rar(root / "SYNTHIA_RAND_CITYSCAPES.rar")
    run("synthia", root, workers=1)
    assert len(find_samples("synthia", DataSettings(root=str(tmp_path)))) == 1
    assert sorted(path.name for path in root.iterdir() if path.suffix != ".json") == [
        "GT", "RGB", "SYNTHIA_RAND_CITYSCAPES.rar",
    ]  # fmt: skip
    assert waiting.pending(waiting.Place("synthia", root, root)) == []
    (root / "RGB/1.png").unlink()
    assert len(waiting.pending(waiting.Place("synthia", root, root))) == 1


@needs_scripts
@pytest.mark.parametrize(
    ("lost", "further", "told"),
    [
        ("", ("../RGB/x.png",), "leads out of the folder"),
        ("", ("/RGB/x.png",), "leads out of the folder"),
        ("RGB/1.png", (), "which is a link"),
    ],
)
def test_what_a_rar_must_not_hold_is_refused(
    tmp_path: Path, tool: Callable[..., None], lost: str, further: tuple[str, ...], told: str
) -> None:
    tool("unrar", lost=lost or "none")
    root = tmp_path / "synthia"
    rar(root / "RAND_CITYSCAPES.rar", *further)
    with pytest.raises(ReinError, match=told):
        run("synthia", root, workers=1)
    assert not list(root.glob(".unpacking*"))
    assert not (root / "RGB/1.png").exists()


@needs_scripts
def test_a_rar_without_a_program_or_cut_short_is_said(tmp_path: Path, tool: Callable[..., None]) -> None:
    root = tmp_path / "synthia"
    rar(root / "SYNTHIA_RAND_CITYSCAPES.rar")
    with pytest.raises(ReinError, match="none of unrar, 7zz, 7z, bsdtar is installed") as caught:
        run("synthia", root, workers=1)
    assert f"by hand into '{root}'" in caught.value.hint
    tool("7z")
    tool("bsdtar")
    whole = (root / "SYNTHIA_RAND_CITYSCAPES.rar").read_bytes()
    (root / "SYNTHIA_RAND_CITYSCAPES.rar").write_bytes(whole[:-30])
    with pytest.raises(
        ReinError, match=r"7z: Unexpected end of archive; bsdtar: Unexpected end of archive\."
    ):
        run("synthia", root, workers=1)


def synthia(path: Path, count: int, *, sep: str = "/") -> dict[str, np.ndarray]:
    """SYNTHIA's archive with several pairs, folders parted by `sep`; what the labels should become, by name."""
    made = path.parent.parent / "made"
    expected = layouts.write("synthia", made, count=count)["synthia"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as opened:
        for file in sorted(made.rglob("*.png")):
            name = f"RAND_CITYSCAPES/{file.relative_to(made).as_posix()}".replace("/", sep)
            opened.writestr(zipfile.ZipInfo(name), file.read_bytes())
    shutil.rmtree(made)
    return expected


@needs_scripts
@pytest.mark.parametrize("name", ["unrar", "7z"])
def test_files_of_a_rar_that_fail_their_checksum_are_named_and_the_others_stay(
    tmp_path: Path, tool: Callable[..., None], name: str
) -> None:
    root = tmp_path / "synthia"
    images = sorted(synthia(root / "SYNTHIA_RAND_CITYSCAPES.rar", 4))
    tool(name, bad=f"LABELS/{images[1]}")
    with pytest.raises(
        ReinError, match=rf"1 files of .* fail their checksum: GT/LABELS/{images[1]}\."
    ) as caught:
        run("synthia", root, workers=1)
    assert "The other 7 are unpacked." in caught.value.message
    assert sorted(path.name for path in (root / "RGB").iterdir()) == images
    assert not list(root.glob(".unpacking*"))
    with pytest.raises(ReinError, match="1 of 4 images have no label") as caught:  # it goes on, and tells
        run("synthia", root, workers=1)
    assert f'data.leave_out=["synthia/{images[1]}"' in caught.value.hint
    data = DataSettings(root=str(tmp_path), leave_out=(f"synthia/{images[1]}",))
    assert [sample.name for sample in find_samples("synthia", data)] == [images[0], *images[2:]]


@needs_scripts
def test_a_rar_that_ends_early_goes_on_with_what_is_missing(
    tmp_path: Path, tool: Callable[..., None]
) -> None:
    root = tmp_path / "synthia"
    images = sorted(synthia(root / "SYNTHIA_RAND_CITYSCAPES.rar", 4))
    tool("7z", cut=f"RGB/{images[2]}")
    with pytest.raises(ReinError, match="1 of 8 files did not come out; 7z: Unexpected end of archive"):
        run("synthia", root, workers=1)
    kept = root / "RGB" / images[0]
    before = kept.stat().st_mtime_ns
    tool("7z")
    run("synthia", root, workers=1)
    assert len(find_samples("synthia", DataSettings(root=str(tmp_path)))) == 4
    assert kept.stat().st_mtime_ns == before


@needs_scripts
@pytest.mark.parametrize("name", ["unrar", "7zz", "bsdtar"])
def test_backslashes_in_a_rar_are_folders(tmp_path: Path, tool: Callable[..., None], name: str) -> None:
    tool(name)
    root = tmp_path / "synthia"
    expected = synthia(root / "SYNTHIA_RAND_CITYSCAPES.rar", 2, sep="\\")
    run("synthia", root, workers=1)
    data = DataSettings(root=str(tmp_path))
    for sample in find_samples("synthia", data):
        np.testing.assert_array_equal(load_label(sample, label_table("synthia", data)), expected[sample.name])


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_backslashes_in_names_are_folders(tmp_path: Path, kind: str) -> None:
    make(tmp_path / "unpacked", "gta")
    (tmp_path / "gta").mkdir()
    for below in ("images", "labels"):
        files = sorted((tmp_path / "unpacked" / below).iterdir())
        if kind == "zip":
            with zipfile.ZipFile(tmp_path / f"gta/01_{below}.zip", "w") as opened:
                for file in files:
                    opened.writestr(zipfile.ZipInfo(f"{below}\\{file.name}"), file.read_bytes())
        else:
            with tarfile.open(tmp_path / f"gta/{below}.tar", "w") as packed:
                for file in files:
                    packed.add(file, f"{below}\\{file.name}")
    run("gta", tmp_path / "gta", workers=1)
    assert sorted(path.name for path in (tmp_path / "gta/images").iterdir()) == sorted(
        path.name for path in (tmp_path / "unpacked/images").iterdir()
    )
    assert len(find_samples("gta", DataSettings(root=str(tmp_path)))) == 1


def test_a_rar_that_was_unpacked_by_hand_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    make(tmp_path / "synthia", "synthia")
    (tmp_path / "synthia/SYNTHIA_RAND_CITYSCAPES.rar").write_bytes(b"Rar!")
    run("synthia", tmp_path / "synthia", workers=1, force=True)
    assert len(find_samples("synthia", DataSettings(root=str(tmp_path)))) == 1
    (tmp_path / "synthia/.unpacking-SYNTHIA_RAND_CITYSCAPES.rar").mkdir()  # it was not by hand
    with pytest.raises(ReinError, match="needs a program"):
        run("synthia", tmp_path / "synthia", workers=1)


def test_a_rar_that_was_unpacked_by_hand_with_the_folder_around_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    root = tmp_path / "synthia"
    make(root / "RAND_CITYSCAPES", "synthia")
    (root / "SYNTHIA_RAND_CITYSCAPES.rar").write_bytes(b"Rar!")
    with pytest.raises(ReinError, match="there is no folder") as caught:
        run("synthia", root, workers=1)
    assert caught.value.hint.startswith(f"It lies one level deeper, in '{root / 'RAND_CITYSCAPES'}'")
    for path in list((root / "RAND_CITYSCAPES").iterdir()):
        path.rename(root / path.name)
    run("synthia", root, workers=1)


def test_every_dataset_to_download_has_its_archives() -> None:
    assert set(DOWNLOADS) == set(DATASETS) - {"cityscapes-c"}
    assert names_for("cityscapes", "gtFine/train") == "gtFine_trainvaltest.zip"
    assert names_for("acdc", "rgb_anon/fog/train") == "rgb_anon_trainvaltest.zip"
    assert names_for("gta", "nothing") == ""
    assert known_archives("gta", Path("/nowhere")) == []
    assert Download(("a.zip",), ("x",), (("y/", "x/"),)).target("y/1.png") == "x/1.png"
    assert Download(("a.zip",), ("x",)).target("around/x/1.png") == "x/1.png"
    assert Download(("a.zip",), ("x",), only=("_a.png",)).target("x/1_b.png") is None


@pytest.mark.parametrize(
    "name",
    [
        "gt_trainval.zip",
        "gt_trainval (1).zip",
        "gt_trainval(2).zip",
        "gt_trainval.zip.1",
        "gt_trainval (1).tar.gz",
    ],
)
def test_names_that_browsers_give_are_known(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert [path.name for path, _ in known_archives("acdc", tmp_path)] == [name]
