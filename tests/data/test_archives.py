"""Unpacking downloads: what is needed, safely, once."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_prepare import make

from reincli.commands.prepare_data import run
from reincli.config import DataSettings
from reincli.data import archives
from reincli.data.downloads import DOWNLOADS, Download, known_archives, names_for
from reincli.data.layouts import DATASETS
from reincli.data.prepare import prepare
from reincli.data.sources import find_samples
from reincli.errors import ReinError

PACKED = {
    "cityscapes": {
        "leftImg8bit_trainvaltest.zip": ("leftImg8bit", ""),
        "gtFine_trainvaltest.zip": ("gtFine", ""),
    },
    "gta": {"01_images.zip": ("images", ""), "01_labels.zip": ("labels", "")},
    "synthia": {"RAND_CITYSCAPES.tar.gz": ("", "RAND_CITYSCAPES/")},
    "urbansyn": {"rgb.tar.gz": ("rgb", ""), "ss.tar": ("ss", "")},
    "mapillary": {"mapillary-vistas-dataset_public_v2.0.zip": ("", "")},
    "bdd100k": {
        "bdd100k_images_10k.zip": ("images", "bdd100k/"),
        "bdd100k_sem_seg_labels_trainval.zip": ("labels", "bdd100k/"),
    },
    "acdc": {"rgb_anon_trainvaltest.zip": ("rgb_anon", ""), "gt_trainval.zip": ("gt", "")},
}


def pack(source: Path, below: str, prefix: str, target: Path) -> None:
    """An archive of the files below a folder, with a read-me that nobody needs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    files = {
        prefix + f.relative_to(source).as_posix(): f.read_bytes()
        for f in sorted((source / below).rglob("*"))
        if f.is_file()
    }
    files["README.txt"] = b"read me"
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, data in files.items():
                opened.writestr(name, data)
        return
    with tarfile.open(target, "w:gz" if target.suffix == ".gz" else "w") as opened:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("dataset", PACKED)
def test_downloads_are_prepared_as_they_come(
    tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "unpacked", dataset)
    root = tmp_path / dataset
    for name, (below, prefix) in PACKED[dataset].items():
        pack(tmp_path / "unpacked", below, prefix, root / name)
    run(dataset, root, workers=1)
    prepare(dataset, tmp_path / "unpacked")
    ours = {p.relative_to(root): p for p in root.rglob("*.png") if "annotations" not in p.parts}
    for path, file in ours.items():
        assert file.read_bytes() == (tmp_path / "unpacked" / path).read_bytes()
    assert set(ours) == {p.relative_to(tmp_path / "unpacked") for p in (tmp_path / "unpacked").rglob("*.png")}
    assert not (root / "README.txt").exists()
    assert archives.pending(dataset, root, root) == []
    capsys.readouterr()
    run(dataset, root, workers=1)
    assert "Unpacking" not in capsys.readouterr().err


def test_another_folder_takes_everything(tmp_path: Path) -> None:
    make(tmp_path / "unpacked", "gta")
    for name, (below, prefix) in PACKED["gta"].items():
        pack(tmp_path / "unpacked", below, prefix, tmp_path / "in" / name)
    run("gta", tmp_path / "in", out=tmp_path / "gta", workers=1)
    assert len(find_samples("gta", DataSettings(root=str(tmp_path)))) == 1
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["01_images.zip", "01_labels.zip"]


def test_a_removed_file_is_unpacked_again_and_others_stay(tmp_path: Path) -> None:
    make(tmp_path / "unpacked", "gta")
    pack(tmp_path / "unpacked", "images", "", tmp_path / "gta/01_images.zip")
    (what,) = archives.pending("gta", tmp_path / "gta", tmp_path / "gta")
    list(archives.unpack(*what, tmp_path / "gta"))
    image = tmp_path / "gta/images/00001.png"
    image.unlink()
    assert archives.pending("gta", tmp_path / "gta", tmp_path / "gta") == [what]
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


def test_a_wrong_archive_and_an_unfinished_one_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "01_images.zip", "w") as opened:
        opened.writestr("cats/x.png", b"x")
    with pytest.raises(ReinError, match="holds nothing of images/"):
        run("gta", tmp_path, workers=1)
    (tmp_path / "01_images.zip").rename(tmp_path / "01_images.zip.part")
    with pytest.raises(ReinError, match=r"01_images\.zip\.part' is not finished"):
        run("gta", tmp_path, workers=1)


def test_no_space_is_said_before_anything_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "01_images.zip", "w") as opened:
        opened.writestr("images/x.png", b"x" * 1000)
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr("reincli.data.archives.shutil.disk_usage", lambda path: full)
    with pytest.raises(ReinError, match="needs"):
        run("gta", tmp_path, workers=1)
    assert not (tmp_path / "images").exists()


def test_a_rar_is_recognised_and_left_to_the_user(tmp_path: Path) -> None:
    (tmp_path / "SYNTHIA_RAND_CITYSCAPES.rar").write_bytes(b"Rar!")
    with pytest.raises(ReinError) as caught:
        run("synthia", tmp_path, workers=1)
    assert "SYNTHIA_RAND_CITYSCAPES.rar' lies there" in caught.value.hint


def test_every_dataset_to_download_has_its_archives() -> None:
    assert set(DOWNLOADS) == set(DATASETS) - {"cityscapes-c"}
    assert names_for("cityscapes", "gtFine/train") == "gtFine_trainvaltest.zip"
    assert names_for("acdc", "rgb_anon/fog/train") == "rgb_anon_trainvaltest.zip"
    assert names_for("gta", "nothing") == ""
    assert known_archives("gta", Path("/nowhere")) == []
    assert Download(("a.zip",), ("x",), (("y/", "x/"),)).target("y/1.png") == "x/1.png"
