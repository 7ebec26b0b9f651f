"""A checkpoint knows the backbone that it was trained with, however a file stores it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from terminal import told

from reincli.config import Settings
from reincli.engine.backbone_files import load_backbone
from reincli.engine.fingerprint import Fingerprint, differing, fingerprint_of
from reincli.engine.weight_files import read_file, write_file
from reincli.model.segmentor import Segmentor
from reincli.settings_files import to_toml


@pytest.fixture
def chosen(tmp_path) -> Settings:
    """Settings whose backbone lies in the folder as `raw.pth`."""
    settings = tiny.settings(data=tiny.own_data(tmp_path / "toy"))
    tiny.write_backbone(tmp_path / "raw.pth", settings)
    return settings


def loaded(settings: Settings, path: Path) -> Fingerprint:
    torch.manual_seed(5)
    model: Segmentor = tiny.model(settings)
    load_backbone(model, path)
    return fingerprint_of(model.backbone, str(path))


@pytest.mark.parametrize(
    "form", ["half", "bfloat16", "safetensors", "wrapped", "larger grid", "smaller patch"]
)
def test_it_is_the_same_however_the_file_stores_it(tmp_path, chosen, form):
    state = read_file(tmp_path / "raw.pth")
    other = tmp_path / ("other.safetensors" if form == "safetensors" else "other.pth")
    if form in ("half", "bfloat16"):
        state = {name: value.to(getattr(torch, form)) for name, value in state.items()}
    if form == "wrapped":
        state = {"state_dict": {f"module.{name}": value for name, value in state.items()}}
    if form == "larger grid":
        told("convert-weights", tmp_path / "raw.pth", other, "--height", 96, "--patch", 16)
    elif form == "smaller patch":
        told("convert-weights", tmp_path / "raw.pth", other, "--height", 64, "--patch", 8)
    else:
        write_file(other, state)
    assert differing(loaded(chosen, tmp_path / "raw.pth"), loaded(chosen, other)) == 0


def test_another_one_and_one_trained_a_little_further_are_not(tmp_path, chosen):
    state = read_file(tmp_path / "raw.pth")
    torch.manual_seed(1)
    noise = {name: torch.randn_like(value) for name, value in state.items()}
    write_file(tmp_path / "other.pth", {n: v + noise[n] for n, v in state.items()})
    write_file(tmp_path / "further.pth", {n: v + 1e-5 * noise[n] for n, v in state.items()})
    mine = loaded(chosen, tmp_path / "raw.pth")
    assert differing(mine, loaded(chosen, tmp_path / "other.pth")) > 0.9
    assert differing(mine, loaded(chosen, tmp_path / "further.pth")) > 0


def test_a_checkpoint_refuses_another_backbone_unless_that_is_known(tmp_path, chosen):
    tiny.write_toy(tmp_path / "toy")
    (tmp_path / "toy.toml").write_text(to_toml(chosen))
    run = tmp_path / "run"
    told("train", "--config", tmp_path / "toy.toml", "--backbone", tmp_path / "raw.pth", "--work-dir", run,
         "--device", "cpu", "--set", "train.iterations=2")  # fmt: skip
    state = read_file(tmp_path / "raw.pth")
    torch.manual_seed(1)
    write_file(tmp_path / "other.pth", {name: torch.randn_like(value) for name, value in state.items()})
    write_file(tmp_path / "half.pth", {name: value.half() for name, value in state.items()})
    image = tmp_path / "toy" / "images" / "val" / "0.png"
    commands = {
        "eval": ["eval", run / "last.pth", "--device", "cpu"],
        "visualize": ["visualize", image, "--checkpoint", run / "last.pth", "--out", tmp_path / "o"],
        "start": ["train", "--config", tmp_path / "toy.toml", "--work-dir", tmp_path / "next", "--device", "cpu",
                  "--set", f"train.start_from={run / 'last.pth'}", "--set", "train.iterations=1"],
        # last: from then on the run is one of the other backbone
        "resume": ["train", "--resume", run, "--device", "cpu", "--set", "train.iterations=3"],
    }  # fmt: skip
    for words in commands.values():
        refused = told(*words, "--backbone", tmp_path / "other.pth", code=1)
        assert "was trained with another backbone" in refused
        assert "--any-backbone" in refused
        assert "raw.pth" in refused
    told(*commands["eval"], "--backbone", tmp_path / "half.pth")
    for words in commands.values():
        assert "Going on with it" in told(*words, "--backbone", tmp_path / "other.pth", "--any-backbone")
