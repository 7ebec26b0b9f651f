"""Going on with a run: what is damaged is said, what changed is said and kept, a kill anywhere loses nothing."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from terminal import told
from torch.utils.data import DataLoader

from reincli.data.dataset import TrainDataset
from reincli.errors import ReinError
from reincli.settings_files import to_toml
from reincli.training import run_folder
from reincli.training import train as loop
from reincli.training.batches import WorkerLostError, _next
from reincli.training.run_folder import read_log
from reincli.training.signals import stop_requests


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """Toy data, a backbone file, settings, and a run of four iterations; never changed."""
    root = tmp_path_factory.mktemp("begun")
    tiny.write_toy(root / "toy")
    settings = tiny.settings(
        "train.iterations=4", "train.checkpoint_every=2", data=tiny.own_data(root / "toy")
    )
    tiny.write_backbone(root / "backbone.pth", settings)
    (root / "toy.toml").write_text(to_toml(settings))
    told("train", "--config", root / "toy.toml", "--backbone", root / "backbone.pth", "--work-dir", root / "run",
         "--device", "cpu")  # fmt: skip
    return root


@pytest.fixture
def run(begun, tmp_path) -> Path:
    """A copy of that run; its data stay where they are."""
    return Path(shutil.copytree(begun / "run", tmp_path / "run"))


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
def test_a_damaged_state_of_training_is_a_sentence(run, damage):
    path = run / "last.pth"
    content = torch.load(path, weights_only=True)
    DAMAGE[damage](content["training"])
    path.unlink()
    torch.save(content, path)
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    text = told("train", "--resume", run, "--set", "train.iterations=6", "--device", "cpu", code=1)
    assert "is damaged or no checkpoint of this program" in text
    assert before == {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}


def test_what_changes_on_the_way_is_said_and_stays(run):
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


def test_other_images_are_said(begun, run):
    data = shutil.copytree(begun / "toy", run.parent / "toy")
    for kind in ("images", "labels"):
        (data / kind / "train" / "2.png").unlink()
    text = told("train", "--resume", run, "--set", "train.iterations=5", "--set", f"data.own.toy.root={data}",
                "--device", "cpu")  # fmt: skip
    assert "with other results: training images 3 (" in text


def test_other_files_of_the_folder_and_leftovers_of_the_dead_are_no_hindrance(run):
    (run / "iter_backup.pth").write_bytes((run / "last.pth").read_bytes())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = Path(
        str(run_folder.temporary_beside(run / "iter_4.pth")).replace(f".{os.getpid()}.", f".{dead.pid}.")
    )
    left.write_bytes(b"half")
    below = run / "samples" / "2" / left.name
    below.parent.mkdir(parents=True, exist_ok=True)
    below.write_bytes(b"half")
    told("train", "--resume", run, "--set", "train.iterations=6", "--device", "cpu")
    assert (run / "iter_backup.pth").exists()
    assert (run / "iter_6.pth").exists()
    assert not left.exists()
    assert not below.exists()


def test_a_log_line_is_whole_or_not_there(run):
    with open(run / "log.jsonl", "ab") as file:
        file.write(b'{"kind": "step", "iterat')  # a power cut
    run_folder.rewind_log(run, 4)
    run_folder.append_log(run, {"kind": "step", "iteration": 5, "loss": math.nan})
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1]) == {
        "kind": "step", "iteration": 5, "loss": None,
    }  # fmt: skip
    with pytest.raises(ReinError, match="has disappeared"):
        run_folder.append_log(run / "gone", {"kind": "step", "iteration": 5})


def fail_at(monkeypatch, draw: int, how: Callable[[], object]) -> None:
    """Have the loading of one draw fail, here and in loader processes."""
    load = TrainDataset.__getitem__

    def item(self: TrainDataset, number: int) -> object:
        if number == draw:
            how()
        return load(self, number)

    monkeypatch.setattr(TrainDataset, "__getitem__", item)


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("workers", "error", "says"),
    [(1, ReinError("The image 'x' is cut short.", "Fetch it."), "error: The image 'x' is cut short."),
     (0, OSError(errno.EIO, "on fire", "x"), "error: Cannot read 'x': on fire."),
     (1, MemoryError(), "error: Memory ran out while an image was loaded.")],
)  # fmt: skip
def test_a_damaged_image_is_one_sentence_and_the_steps_before_are_saved(
    run, monkeypatch, workers, error, says
):
    fail_at(monkeypatch, 15, lambda: raise_(error))  # batches are of 2: the eighth
    text = told("train", "--resume", run, "--set", "train.iterations=20", "--set", "train.checkpoint_every=100",
                "--set", f"data.workers={workers}", "--device", "cpu", code=1)  # fmt: skip
    assert says in text
    assert f"Saved at iteration 7; then: rein train --resume {run}" in text
    assert torch.load(run / "last.pth", weights_only=True)["meta"]["iter"] == 7


def test_memory_that_runs_out_in_a_step_is_one_sentence_and_the_steps_before_are_saved(run, monkeypatch):
    step = loop.train_step

    def tight(state, slices):
        if state.iteration == 6:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ..."
            )
        return step(state, slices)

    monkeypatch.setattr(loop, "train_step", tight)
    text = told("train", "--resume", run, "--set", "train.iterations=20", "--set", "train.checkpoint_every=100",
                "--device", "cpu", code=1)  # fmt: skip
    assert "error: Memory ran out in step 7, with 2 images of 64x64 at a time on 'cpu'." in text
    assert "--set train.accumulate=2 (the same training in slices)" in text
    assert f"Saved at iteration 6; then: rein train --resume {run}" in text
    assert torch.load(run / "last.pth", weights_only=True)["meta"]["iter"] == 6


@pytest.mark.slow
def test_a_loader_process_that_is_killed_is_a_sentence_and_nothing_is_lost(run, monkeypatch):
    stepped = run / "stepped"

    def die() -> None:
        for _ in range(1000):  # what lies in its queue is lost with it: let the first steps be done
            if stepped.exists():
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)

    def step(*args: object) -> object:
        values = train_step(*args)
        stepped.touch()
        return values

    train_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", step)
    fail_at(monkeypatch, 14, die)
    next(iter(DataLoader(range(2), num_workers=1)))  # another loader has set PyTorch's handler before
    text = told("train", "--resume", run, "--set", "train.iterations=20", "--set", "train.checkpoint_every=100",
                "--set", "data.workers=1", "--device", "cpu", code=1)  # fmt: skip
    assert "error: A loader process ended" in text
    assert "Traceback" not in text
    assert 5 <= torch.load(run / "last.pth", weights_only=True)["meta"]["iter"] <= 7


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), EOFError(), ConnectionResetError(),
     FileNotFoundError(2, "No such file or directory")],
)  # fmt: skip
def test_whatever_a_lost_loader_process_looks_like_it_is_told_as_such(error):
    """Which of them it is hangs on what it was at when it was killed."""
    with pytest.raises(WorkerLostError, match="A loader process ended"):
        _next((raise_(error) for _ in range(1)), 1)
    with pytest.raises(RuntimeError, match="of another kind"):
        _next((raise_(RuntimeError("of another kind")) for _ in range(1)), 1)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_a_terminal_that_is_closed_saves_as_a_stop_does_unless_nohup_has_it_ignored():
    found = signal.getsignal(signal.SIGHUP)
    try:
        for before, asked in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):
            signal.signal(signal.SIGHUP, before)
            with stop_requests() as stop:
                os.kill(os.getpid(), signal.SIGHUP)
                assert stop.asked is asked
            assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, found)


def test_a_log_that_is_no_file_is_named(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(ReinError, match=r"log\.jsonl' cannot be read: Is a directory"):
        read_log(tmp_path)


# --- a damaged last checkpoint -----------------------------------------------------------------------------


def cut(path: Path) -> None:
    """Half a file; the checkpoint that it was a link to stays."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_last_checkpoint_is_passed_by_for_the_newest_whole_one(run, damage):
    whole = (run / "last.pth").read_bytes()
    cut(run / "last.pth") if damage == "cut" else (run / "last.pth").unlink()
    cut(run / "iter_4.pth")
    text = told("train", "--resume", run, "--device", "cpu")
    assert f"going on from the newest whole checkpoint, '{run / 'iter_2.pth'}'" in text
    assert ("cannot be used" if damage == "cut" else "is not there") in text
    assert (run / "last.pth").stat().st_size == len(whole)
    steps = [entry["iteration"] for entry in run_folder.read_log(run) if entry["kind"] == "step"]
    assert steps == [2, 4]  # nothing twice


def test_where_nothing_is_left_to_do_the_last_checkpoint_is_made_whole_again(run):
    whole = (run / "iter_4.pth").read_bytes()
    cut(run / "last.pth")
    assert "Nothing left to do" in told("train", "--resume", run, "--device", "cpu")
    assert (run / "last.pth").read_bytes() == whole


def test_with_no_whole_checkpoint_the_next_step_is_told(run):
    for path in run.glob("*.pth"):
        cut(path)
    text = told("train", "--resume", run, "--device", "cpu", code=1)
    assert "none of the 2 other checkpoints" in text
    assert f"rein train --config {run / 'settings.toml'} --work-dir DIR" in text


# --- other classes -----------------------------------------------------------------------------------------


def renamed(begun: Path, path: Path, names: list[str]) -> Path:
    """The run's settings with other classes, of the same labels."""
    data = tiny.own_data(begun / "toy")
    data["own"]["toy"]["classes"] = [{"name": n, "color": [i, i, i]} for i, n in enumerate(names)]
    path.write_text(to_toml(tiny.settings("train.iterations=1", data=data)))
    return path


@pytest.mark.parametrize(
    ("names", "remark"),
    [
        (["road", "sky", "wall", "car"], "was trained for 3 classes, this run has 4"),
        (["road", "sky", "hall"], "('wall' where this run has 'hall')"),
        (["Road", "Sky", "Wall"], ""),
    ],
)
def test_starting_from_other_classes_takes_all_but_the_class_layer(begun, tmp_path, names, remark):
    config, start = renamed(begun, tmp_path / "new.toml", names), begun / "run" / "last.pth"
    text = told("train", "--config", config, "--backbone", begun / "backbone.pth", "--work-dir", tmp_path / "new",
                "--set", f"train.start_from={start}", "--set", "optim.lr=1e-12", "--device", "cpu")  # fmt: skip
    assert remark in text
    assert ("all of it is taken but the class layer" in text) == bool(remark)
    old, new = (
        torch.load(p, weights_only=True)["state_dict"] for p in (start, tmp_path / "new" / "last.pth")
    )
    assert set(old) == set(new)
    same = {
        name for name in old if old[name].shape == new[name].shape and torch.allclose(old[name], new[name])
    }
    layer = {"decode_head.cls_embed.weight", "decode_head.cls_embed.bias"} if remark else set()
    assert set(old) - same == layer


def test_scoring_with_other_classes_stays_an_error(begun, tmp_path):
    config = renamed(begun, tmp_path / "new.toml", ["road", "sky", "wall", "car"])
    text = told(
        "eval", begun / "run" / "last.pth", "--config", config, "--backbone", begun / "backbone.pth", code=2
    )
    assert "The model has 3 classes" in text
