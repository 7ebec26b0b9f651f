"""Going on with a run: what is damaged is said, what changed is said and kept, a kill anywhere loses nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from terminal import told

from reincli.errors import ReinError
from reincli.settings_files import to_toml
from reincli.training import run_folder


@pytest.fixture
def toy(tmp_path) -> Path:
    """Toy data, a backbone file, settings, and a run of four iterations."""
    tiny.write_toy(tmp_path / "toy")
    settings = tiny.settings(
        "train.iterations=4", "train.checkpoint_every=2", data=tiny.own_data(tmp_path / "toy")
    )
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings))
    told("train", "--config", tmp_path / "toy.toml", "--backbone", tmp_path / "backbone.pth",
         "--work-dir", tmp_path / "run", "--device", "cpu")  # fmt: skip
    return tmp_path


DAMAGE = {
    "shape": lambda t: t["optimizer"]["state"][3].update(exp_avg=torch.zeros(1)),
    "not finite": lambda t: t["optimizer"]["state"][0]["exp_avg"].fill_(math.nan),
    "negative": lambda t: t["optimizer"]["state"][0]["exp_avg_sq"].fill_(-1),
    "missing": lambda t: t["optimizer"]["state"][1].pop("exp_avg_sq"),
    "too many": lambda t: t["optimizer"]["state"].update({99_999: {}}),
    "text": lambda t: t["optimizer"]["state"].update({0: "x"}),
    "groups": lambda t: t["optimizer"]["param_groups"].pop(),
    "no optimiser": lambda t: t.pop("optimizer"),
    "step": lambda t: t["optimizer"]["state"][0].update(step=torch.tensor(math.inf)),
    "iteration": lambda t: t.update(iteration="4"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_of_training_is_a_sentence(toy, damage):
    path = toy / "run" / "last.pth"
    content = torch.load(path, weights_only=True)
    DAMAGE[damage](content["training"])
    path.unlink()
    torch.save(content, path)
    before = {p.name: p.read_bytes() for p in (toy / "run").iterdir() if p.is_file()}
    text = told("train", "--resume", toy / "run", "--set", "train.iterations=6", "--device", "cpu", code=1)
    assert "is damaged or no checkpoint of this program" in text
    assert before == {p.name: p.read_bytes() for p in (toy / "run").iterdir() if p.is_file()}


def test_what_changes_on_the_way_is_said_and_stays(toy):
    run = toy / "run"
    text = told("train", "--resume", run, "--set", "train.iterations=6", "--set", "optim.weight_decay=0.5",
                "--set", "data.workers=1", "--device", "cpu")  # fmt: skip
    assert "from here on with other results: optim.weight_decay 0.05 -> 0.5." in text
    assert "Not as in the run so far: data.workers 0 -> 1, train.iterations 4 -> 6." in text
    assert "weight_decay = 0.5" in (run / "settings.toml").read_text()
    (entry,) = [e for e in run_folder.read_log(run) if e["kind"] == "settings"]
    assert (entry["iteration"], entry["changed"]["optim.weight_decay"]) == (4, [0.05, 0.5])
    groups = torch.load(run / "last.pth", weights_only=True)["training"]["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert "after iteration 4" in (run / "report.html").read_text()
    assert "Nothing left to do: all 6 iterations" in told("train", "--resume", run, "--device", "cpu")


def test_other_images_are_said(toy):
    (toy / "toy" / "images" / "train" / "2.png").unlink()
    (toy / "toy" / "labels" / "train" / "2.png").unlink()
    text = told("train", "--resume", toy / "run", "--set", "train.iterations=5", "--device", "cpu")
    assert "with other results: training images 3 (" in text


def test_other_files_of_the_folder_and_leftovers_of_the_dead_are_no_hindrance(toy):
    run = toy / "run"
    (run / "iter_backup.pth").write_bytes((run / "last.pth").read_bytes())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = Path(
        str(run_folder.temporary_beside(run / "iter_4.pth")).replace(f".{os.getpid()}.", f".{dead.pid}.")
    )
    left.write_bytes(b"half")
    told("train", "--resume", run, "--set", "train.iterations=6", "--device", "cpu")
    assert (run / "iter_backup.pth").exists()
    assert (run / "iter_6.pth").exists()
    assert not left.exists()


def test_a_log_line_is_whole_or_not_there(toy, monkeypatch):
    run = toy / "run"
    with open(run / "log.jsonl", "ab") as file:
        file.write(b'{"kind": "step", "iterat')  # a power cut
    run_folder.rewind_log(run, 4)
    run_folder.append_log(run, {"kind": "step", "iteration": 5, "loss": math.nan})
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1]) == {
        "kind": "step", "iteration": 5, "loss": None,
    }  # fmt: skip
    with pytest.raises(ReinError, match="has disappeared"):
        run_folder.append_log(toy / "gone", {"kind": "step", "iteration": 5})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_sentence_and_the_steps_before_are_saved(toy, workers):
    # an own dataset's labels are read through before training, its images are not
    for image in (toy / "toy" / "images" / "train").iterdir():
        image.write_bytes(image.read_bytes()[:300])
    text = told("train", "--resume", toy / "run", "--set", "train.iterations=6", "--set",
                f"data.workers={workers}", "--device", "cpu", code=1)  # fmt: skip
    assert "Traceback" not in text
    assert "error: " in text
    assert "image" in text


def test_a_loader_process_that_is_killed_is_a_sentence_and_nothing_is_lost(toy):
    run = toy / "run"
    script = (
        "import os, signal, sys\n"
        "from reincli.data import dataset\n"
        "real = dataset.TrainDataset.__getitem__\n"
        "def item(self, draw):\n"
        "    if draw == 14: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, draw)\n"
        "dataset.TrainDataset.__getitem__ = item\n"
        "from reincli.cli import main\n"
        f"sys.argv = ['rein', 'train', '--resume', {str(run)!r}, '--device', 'cpu', '--set', 'train.iterations=20',"
        " '--set', 'data.workers=1', '--set', 'train.checkpoint_every=100']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "A loader process ended" in done.stderr
    assert torch.load(run / "last.pth", weights_only=True)["meta"]["iter"] > 4


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_a_terminal_that_is_closed_saves_as_a_stop_does():
    from reincli.training.signals import stop_requests

    before = signal.getsignal(signal.SIGHUP)
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.asked
    assert signal.getsignal(signal.SIGHUP) == before
