"""`rein prepare-data` as a command: what it prints, and how it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import layouts
import numpy as np
import pytest

from reincli.commands.doctor import dataset_state
from reincli.commands.prepare_data import run
from reincli.config import DataSettings
from reincli.errors import ReinError
from reincli.media.images import write_png

OWN = """
[data.own.mine]
classes = [{ name = "ground", color = [1, 2, 3] }, { name = "thing", color = [4, 5, 6] }]
map = { "0" = 0, "200" = 1 }
[data.own.mine.splits.day]
images = "images"
labels = "labels"
"""


def gta(root: Path, count: int = 2) -> None:
    for i in range(count):
        write_png(root / f"images/{i}.png", np.full((6, 8, 3), 90, np.uint8))
        write_png(root / f"labels/{i}.png", np.full((6, 8), 26, np.uint8))


def own(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(OWN)
    root = tmp_path / "mine"
    for i in range(2):
        write_png(root / f"images/{i}.png", np.full((6, 8, 3), 90, np.uint8))
        write_png(root / f"labels/{i}.png", np.full((6, 8), 200 * i, np.uint8))
    return root


def test_labels_are_written_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gta(tmp_path)
    run("gta", tmp_path, workers=1)
    text = capsys.readouterr().out
    assert "2 files written, 0 were there" in text
    assert "train" in text
    run("gta", tmp_path, workers=1, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["written"] == 0
    assert report["kept"] == 2
    assert report["splits"] == {"train": {"images": 2, "pairs": 2}}


def test_the_default_folder_is_that_of_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gta(tmp_path / "data/gta")
    run("gta", None, workers=1)
    assert "2 files written" in capsys.readouterr().out
    with pytest.raises(ReinError, match="data/synthia/GT/LABELS"):
        run("synthia", None)


def test_a_check_counts_pairs_and_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gta(tmp_path)
    run("gta", tmp_path, workers=1)
    run("gta", tmp_path, workers=1, check=True)
    text = capsys.readouterr().out
    assert "100.000" in next(line for line in text.splitlines() if line.strip().startswith("car"))
    run("gta", tmp_path, workers=1, check=True, as_json=True)
    split = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert split["pixels"]["car"] == 2 * 48
    assert split["pairs"] == 2


def test_a_check_names_every_kind_of_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gta(tmp_path, 5)
    run("gta", tmp_path, workers=1)
    labels = tmp_path / "labels"
    write_png(labels / "0_labelTrainIds.png", np.full((6, 8), 77, np.uint8))
    (labels / "1_labelTrainIds.png").write_bytes(b"")
    (labels / "2_labelTrainIds.png").unlink()
    write_png(labels / "3_labelTrainIds.png", np.zeros((6, 9), np.uint8))
    write_png(labels / "9_labelTrainIds.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(ReinError) as caught:
        run("gta", tmp_path, workers=1, check=True)
    text = capsys.readouterr().out
    for told in (
        "0.png has 77",
        "1_labelTrainIds.png",
        "2.png",
        "3.png is 8x6, its label 9x6",
        "9_labelTrainIds.png",
    ):
        assert told in text
    for told in ("1 without label", "1 without image", "1 unreadable", "1 unknown values"):
        assert told in caught.value.message
    assert "other size" not in caught.value.message  # the public sets have some, as released


def test_what_is_missing_and_what_is_known_to_be_bad_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, shape in (("20801", (6, 9)), ("15188", (6, 8)), ("00001", (6, 8)), ("00002", (6, 9))):
        write_png(tmp_path / f"images/{name}.png", np.full((6, 8, 3), 90, np.uint8))
        label = np.full(shape, 7, np.uint8)
        label[0, 0] = 7 if name == "15188" else 26
        write_png(tmp_path / f"labels/{name}.png", label)
    run("gta", tmp_path, workers=1)
    assert "train: 4 of 24,966 images" in capsys.readouterr().err
    run("gta", tmp_path, workers=1, check=True)
    told = capsys.readouterr()
    assert (
        "train, known to be bad: 15188.png, label of one colour; 20801.png, label of another size" in told.out
    )
    assert "train, other size: 00002.png is 8x6, its label 9x6" in told.out
    assert 'data.leave_out=["gta"]' in told.err
    run("gta", tmp_path, workers=1, check=True, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert len(report["splits"]["train"]["known"]) == 2
    assert report["remarks"] == [
        "train: 4 of 24,966 images; all of 01_images.zip to 10_images.zip bring some of the others."
    ]


def test_own_data_is_checked_by_its_description(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = own(tmp_path)
    run("mine", root, workers=1, config=tmp_path / "mine.toml")
    line = next(each for each in capsys.readouterr().out.splitlines() if each.strip().startswith("thing"))
    assert "50.000" in line
    write_png(root / "labels/1.png", np.full((6, 8), 3, np.uint8))
    with pytest.raises(ReinError, match=r"1 unknown values \(1\.png has 3\)"):
        run("mine", root, workers=1, config=tmp_path / "mine.toml", check=True)
    write_png(root / "labels/1.png", np.zeros((7, 8), np.uint8))
    with pytest.raises(ReinError, match="1 other size"):
        run("mine", root, workers=1, config=tmp_path / "mine.toml", check=True)


def test_a_damaged_label_fails_after_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gta(tmp_path, 3)
    (tmp_path / "labels/1.png").write_bytes(b"no picture")
    with pytest.raises(ReinError, match="1 of 3 labels"):
        run("gta", tmp_path, workers=1)
    assert "1.png" in capsys.readouterr().err
    assert len(list((tmp_path / "labels").glob("*_labelTrainIds.png"))) == 2


def test_an_unknown_dataset_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ReinError, match="No dataset is named 'gat'") as caught:
        run("gat", None)
    assert caught.value.usage
    assert "'gta'" in caught.value.hint
    with pytest.raises(ReinError, match="There is no folder"):
        run("gta", tmp_path / "no/where")


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ("cityscapes", "test: 2 of 1,525 images; all are in leftImg8bit_trainvaltest.zip."),
        (
            "acdc",
            "test: 8 of 2,000 images (night 2 of 500, fog 2 of 500, rain 2 of 500, snow 2 of 500); "
            "all are in rgb_anon_trainvaltest.zip.",
        ),
        ("bdd100k", "test: 2 of 2,000 images; all are in 10k_images_test.zip."),
    ],
)
def test_test_images_are_counted_too(
    tmp_path: Path, dataset: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / dataset
    layouts.write(dataset, root)
    run(dataset, root, workers=1)
    said = capsys.readouterr()
    assert told in said.err
    assert any(
        line.split()[0] == "test" and line.split()[-1] == "-"
        for line in said.out.splitlines()
        if line.split()
    )
    run(dataset, root, workers=1, check=True)
    said = capsys.readouterr().out
    assert told in said
    assert "images, without labels as released." in said
    for check in (False, True):
        run(dataset, root, workers=1, check=check, as_json=True)
        report = json.loads(capsys.readouterr().out)
        assert told in report["remarks"]
        assert report["without_labels"] == {"test": 8 if dataset == "acdc" else 2}
        assert set(report["splits"]) == {"train", "val"}
    state = dataset_state(dataset, DataSettings(root=str(tmp_path)))
    assert told in state.remarks
    assert state.splits["test"] == (8 if dataset == "acdc" else 2)


def test_without_test_images_nothing_is_amiss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write("cityscapes", tmp_path)
    shutil.rmtree(tmp_path / "leftImg8bit/test")
    run("cityscapes", tmp_path, workers=1)
    assert "test:" not in capsys.readouterr().err
