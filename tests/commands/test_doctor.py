"""`rein doctor`: tells what is there and what brings the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reincli.commands import doctor
from reincli.config import DataSettings
from reincli.media.images import write_png


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gta_pair(name, *, labelled=True):
    write_png(Path("data/gta/images", f"{name}.png"), np.zeros((4, 6, 3), np.uint8))
    if labelled:
        write_png(Path("data/gta/labels", f"{name}_labelTrainIds.png"), np.zeros((4, 6), np.uint8))


def test_a_bare_machine(capsys):
    doctor.run()
    out = capsys.readouterr().out
    for expected in (
        "torch",
        "cpu",
        "cityscapes",
        "rein prepare-data gta",
        "dinov2_vitl14_pretrain.pth",
        "https://",
    ):
        assert expected in out
    assert "--precision auto takes" in out


def test_json_says_the_same(capsys):
    gta_pair("00001")
    Path("checkpoints").mkdir()
    Path("checkpoints/dinov2_converted.pth").write_bytes(b"123")
    doctor.run(as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["python"].startswith("3.")
    assert report["devices"][0]["name"] == "cpu"
    assert report["devices"][0]["precision"] in ("fp32", "bf16")
    assert report["devices"][0]["kernels"] == "PyTorch"
    assert report["device"]
    by_name = {each["name"]: each for each in report["datasets"]}
    assert by_name["gta"]["ready"]
    assert by_name["gta"]["splits"] == {"train": 1}
    assert not by_name["cityscapes"]["ready"]
    assert "cityscapes" in by_name["cityscapes"]["problem"]
    files = {each["file"]: each for each in report["weights"]}
    assert files["checkpoints/dinov2_converted.pth"]["size"] == 3
    assert files["checkpoints/dinov2_vitl14_pretrain.pth"]["size"] is None
    assert "https://" in files["checkpoints/dinov2_vitl14_pretrain.pth"]["remedy"]


def test_what_lacks_of_a_release_and_archives_that_lie_there_are_told(capsys):
    gta_pair("00001")
    state = doctor.dataset_state("gta", DataSettings())
    assert state.ready
    assert state.remarks[0].startswith("train: 1 of 24,966 images; all of 01_images.zip to 10_images.zip")
    Path("data/gta/02_images (1).zip").write_bytes(b"")
    Path("data/gta/02_labels.zip").write_bytes(b"")
    told = doctor.dataset_state("gta", DataSettings()).remarks[1]
    assert (
        told == "Not unpacked: '02_images (1).zip' and 1 more in 'data/gta': rein prepare-data gta data/gta"
    )
    Path("data/acdc").mkdir()
    Path("data/acdc/rgb_anon_trainvaltest (1).zip").write_bytes(b"")
    state = doctor.dataset_state("acdc", DataSettings())
    assert not state.ready
    assert state.remedy.startswith(
        "'data/acdc/rgb_anon_trainvaltest (1).zip' lies there; unpack and prepare: rein"
    )
    capsys.readouterr()
    doctor.run()
    out = capsys.readouterr().out
    assert "train 1 images" in out
    assert "Not unpacked: '02_images (1).zip'" in out


def test_renamed_weights_are_recognised():
    Path("checkpoints").mkdir()
    Path("checkpoints/dinov2_vitl14_pretrain (1).pth").write_bytes(b"1")
    (state,) = [
        each for each in doctor.weight_files(Path("checkpoints")) if "dinov2_vitl14_pretrain" in each.file
    ]
    assert state.remedy == (
        "Rename 'dinov2_vitl14_pretrain (1).pth', which is there, to 'dinov2_vitl14_pretrain.pth'."
    )


def test_what_is_no_weights_file_is_not_in_place(capsys):
    folder = Path("checkpoints")
    folder.mkdir()
    (folder / "dinov2_vitl14_pretrain.pth").write_bytes(b"<html>sign in</html>")
    (folder / "dinov2_converted.pth").mkdir()
    (folder / "dinov2_vits14_pretrain.pth").symlink_to("dinov2_vits14_pretrain.pth")
    doctor.run(as_json=True)
    found = {each["file"]: each["problem"] for each in json.loads(capsys.readouterr().out)["weights"]}
    assert "is a web page" in found["checkpoints/dinov2_vitl14_pretrain.pth"]
    assert found["checkpoints/dinov2_converted.pth"] == "'checkpoints/dinov2_converted.pth' is no file."
    assert "is no file" in found["checkpoints/dinov2_vits14_pretrain.pth"]
    assert found["checkpoints/dinov2_vitb14_pretrain.pth"] == ""
    doctor.run()
    assert "is a web page" in " ".join(capsys.readouterr().out.split())


def test_everything_fits_80_columns(capsys, monkeypatch):
    """But for paths and addresses, which stay whole so that they can be copied."""
    monkeypatch.setenv("COLUMNS", "80")
    gta_pair("00001")
    gta_pair("00002", labelled=False)
    doctor.run()
    for line in capsys.readouterr().out.splitlines():
        longest = max(map(len, line.split()), default=0)
        assert len(line) <= 80 or longest > 40, line


def test_an_unprepared_dataset_names_the_command_that_prepares_it():
    gta_pair("00001")
    gta_pair("00002", labelled=False)
    state = doctor.dataset_state("gta", DataSettings())
    assert not state.ready
    assert "1 of 2 images" in state.problem
    assert "rein prepare-data gta" in state.remedy
