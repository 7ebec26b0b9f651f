"""A checkpoint that was moved finds the backbone that it was trained with, by its content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from terminal import told

from reincli.engine.backbone_files import shipped_path
from reincli.engine.weight_files import read_file, write_file
from reincli.model.families import FAMILIES
from reincli.settings_files import build_settings, to_toml


@pytest.fixture
def home(tmp_path) -> Path:
    """A folder with toy data, `checkpoints/raw.pth` and `work/run`, trained with it; commands run in there."""
    root = tmp_path / "home"
    tiny.write_toy(root / "toy")
    settings = tiny.settings("train.iterations=2", data=tiny.own_data(root / "toy"))
    tiny.write_backbone(root / "checkpoints" / "raw.pth", settings)
    (root / "toy.toml").write_text(to_toml(settings))
    told("train", "--config", root / "toy.toml", "--backbone", root / "checkpoints" / "raw.pth", "--work-dir",
         root / "work" / "run", "--device", "cpu")  # fmt: skip
    return root


def other_backbone(path: Path, like: Path) -> None:
    torch.manual_seed(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, {name: torch.randn_like(value) for name, value in read_file(like).items()})


def drawn(home: Path, checkpoint: Path, *words: object, code: int = 0) -> str:
    image = home / "toy" / "images" / "val" / "0.png"
    out = checkpoint.parent / "drawn"
    return told(
        "visualize", image, "--checkpoint", checkpoint, "--out", out, "--device", "cpu", *words, code=code
    )


def test_beside_the_checkpoint_under_any_name(home, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(home / "work" / "run" / "last.pth", new / "model.pth")
    raw = home / "checkpoints" / "raw.pth"
    other_backbone(new / "a_first.pth", raw)  # the same form, other weights: not taken
    shutil.move(raw, new / "renamed.pth")
    told_so = drawn(home, new / "model.pth")
    assert "renamed.pth' is the same by its fingerprint and is taken" in told_so
    assert "raw.pth" in told_so
    assert (new / "drawn" / "0.png").is_file()


def test_with_the_whole_folder_moved(home, tmp_path):
    moved = tmp_path / "moved"
    toy = shutil.copytree(home / "toy", tmp_path / "pictures")
    shutil.move(home, moved)
    image = toy / "images" / "val" / "0.png"
    out = tmp_path / "o"
    text = told("visualize", image, "--checkpoint", moved / "work" / "run" / "last.pth", "--out", out)
    assert f"{moved / 'checkpoints' / 'raw.pth'}' is the same" in text


def test_another_one_in_its_place_is_passed_by(home, tmp_path):
    run, raw = home / "work" / "run", home / "checkpoints" / "raw.pth"
    shutil.copy(raw, run / "kept.pth")
    other_backbone(raw, raw)
    assert "kept.pth' is the same" in drawn(home, run / "last.pth")
    refused = drawn(home, run / "last.pth", "--backbone", raw, code=1)  # named by the user: that or nothing
    assert "was trained with another backbone" in refused


def test_nowhere_is_a_sentence_with_its_name_and_place(home, tmp_path):
    raw = home / "checkpoints" / "raw.pth"
    raw.unlink()
    text = drawn(home, home / "work" / "run" / "last.pth", code=1)
    assert f"its backbone, vit, is not at '{raw}'" in text
    assert "--backbone FILE" in text
    gone = drawn(home, home / "work" / "run" / "last.pth", "--backbone", tmp_path / "gone.pth", code=1)
    assert "There is no weights file at" in gone


def test_going_on_and_adapting_find_it_too(home):
    run, raw = home / "work" / "run", home / "checkpoints" / "raw.pth"
    shutil.move(raw, run / "raw.pth")
    text = told("train", "--resume", run, "--set", "train.iterations=3", "--device", "cpu")
    assert "is the same by its fingerprint" in text
    text = told("adapt", run / "last.pth", "--target", home / "toy" / "images" / "val", "--work-dir", home / "next",
                "--set", "train.iterations=1", "--device", "cpu")  # fmt: skip
    assert "is the same by its fingerprint" in text


def test_the_small_one_that_comes_along_is_always_found(tmp_path):
    root = tmp_path / "home"
    tiny.write_toy(root / "toy")
    raw = {**tiny.RAW, "data": {**tiny.RAW["data"], **tiny.own_data(root / "toy")}}
    raw["model"] = {**raw["model"], "backbone": {"name": "mini", "patch_size": 8}}
    settings = build_settings(raw, ["train.iterations=1"])
    (root / "toy.toml").write_text(to_toml(settings))
    told("convert-weights", shipped_path(FAMILIES["mini"]), root / "mini.pth", "--height", 64, "--patch", 8)
    told("train", "--config", root / "toy.toml", "--backbone", root / "mini.pth", "--work-dir", root / "run",
         "--device", "cpu")  # fmt: skip
    (root / "mini.pth").unlink()
    assert "mini.safetensors' is the same" in drawn(root, root / "run" / "last.pth")
