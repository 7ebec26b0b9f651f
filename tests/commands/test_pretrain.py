"""`rein pretrain`: it writes a backbone, refuses what would be lost, and goes on where it was stopped."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file
from terminal import rein, told

from reincli.commands import pretrain
from reincli.config import BackboneSettings
from reincli.model.backbones import build_backbone

FEW = ("--steps", 2, "--tokens", 256, "--device", "cpu", "--precision", "fp32")


def test_a_backbone_from_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = rein("pretrain", *FEW)
    assert "checkpoints/mini.safetensors" in result.stdout
    assert "2,758,464" in result.stderr
    state = load_file("checkpoints/mini.safetensors")
    body = build_backbone(BackboneSettings(name="mini", patch_size=8), 16).body
    body.load_state_dict({name: value.float() for name, value in state.items()})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["mini.safetensors"]
    assert "is there already" in told("pretrain", *FEW, code=2)


def test_endings_that_are_no_weights_file(tmp_path):
    assert "must end in .safetensors or .pth" in told("pretrain", tmp_path / "mini.txt", *FEW, code=2)


def test_a_stopped_one_goes_on(tmp_path, monkeypatch):
    target = tmp_path / "mini.pth"
    stop_after = 1

    def interrupted(made, path, **watch):
        made.step_number = stop_after
        made.save(pretrain.unfinished_of(path))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "pretrain", interrupted)
        with pytest.raises(KeyboardInterrupt, match="Saved at step 1"):
            pretrain.run(target, steps=2, tokens=256, device="cpu", precision="fp32")
    assert not target.exists()
    assert "Going on at step 1 of 2" in told("pretrain", target, *FEW)
    assert target.exists()
    other = tmp_path / "other.pth"
    pretrain.unfinished_of(target).write_bytes(b"")
    assert "is empty" in told("pretrain", target, *FEW, "--force", code=1)
    assert not other.exists()


def test_a_gpu_without_bf16_pretrains_in_fp32(tmp_path, monkeypatch):
    """In fp16 gradients would have to be scaled; such GPUs pick it for everything else."""
    monkeypatch.setattr(pretrain, "pick_precision", lambda name, device: "fp16")
    with monkeypatch.context() as patch:
        made = []
        patch.setattr(pretrain, "introduce", lambda run: made.append(run.precision) or exit(0))
        with pytest.raises(SystemExit):
            pretrain.run(tmp_path / "mini.pth", steps=2, tokens=256, device="cpu")
    assert made == ["fp32"]
    printed = told("pretrain", tmp_path / "mini.pth", *FEW[:-1], "fp16", code=2)
    assert "Precision fp16 is not for pretraining" in printed
