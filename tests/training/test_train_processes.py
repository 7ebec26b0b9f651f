"""Training as processes: killed and resumed, two instead of one, compiled."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch

from reincli.settings_files import to_toml

pytestmark = pytest.mark.slow


@pytest.fixture
def toy(tmp_path) -> Path:
    """Toy data, a backbone file, and settings that use them."""
    tiny.write_toy(tmp_path / "toy", ("train", "val"), count=5)
    settings = tiny.settings(
        "train.iterations=30", "train.batch_size=4", "train.log_every=1", "train.checkpoint_every=5",
        "train.validate_every=15", "train.points=256", "optim.lr=1e-3", "data.workers=2",
        data=tiny.own_data(tmp_path / "toy"),
    )  # fmt: skip
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings))
    return tmp_path


def command(toy: Path, run: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "reincli", "train", "--config", str(toy / "toy.toml"), "--backbone",
            str(toy / "backbone.pth"), "--work-dir", str(toy / run), "--device", "cpu", *words]  # fmt: skip


def call(words: list[str], **variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(words, capture_output=True, text=True, timeout=570, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_thirty_iterations_equal_seventeen_a_kill_and_the_rest(toy):
    call(command(toy, "straight"))
    process = subprocess.Popen(
        command(toy, "killed", "--quiet"), env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log, deadline = toy / "killed" / "log.jsonl", time.monotonic() + 300
    while not (log.exists() and log.read_text().count('"step"') >= 17):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (toy / "killed" / "iter_30.pth").exists()
    call([sys.executable, "-m", "reincli", "train", "--resume", str(toy / "killed"), "--device", "cpu"])

    straight, resumed = (
        torch.load(toy / run / "last.pth", weights_only=True) for run in ("straight", "killed")
    )
    for name, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    moments = [content["training"]["optimizer"]["state"] for content in (straight, resumed)]
    for index, held in moments[0].items():
        assert all(torch.equal(held[key], moments[1][index][key]) for key in held)
    logs = [
        [json.loads(line) for line in (toy / run / "log.jsonl").read_text().splitlines()]
        for run in ("straight", "killed")
    ]
    told = [[(e["iteration"], e.get("losses"), e.get("mean")) for e in entries] for entries in logs]
    assert told[0] == told[1]


def test_two_processes_train_as_one_with_two_slices(toy):
    sets = ["--set", "train.iterations=20"]
    call(command(toy, "one", *sets, "--set", "train.accumulate=2"))
    output = call(command(toy, "two", *sets, "--gpus", "2"))
    assert "2 x cpu" in output
    assert output.count("Trained:") == 1
    one, two = state(toy / "one" / "last.pth"), state(toy / "two" / "last.pth")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5, msg=name)
    entries = [
        [json.loads(line) for line in (toy / run / "log.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    for left, right in zip(*entries, strict=True):
        assert left["iteration"] == right["iteration"]
        if left["kind"] == "step":
            assert right["losses"]["loss"] == pytest.approx(left["losses"]["loss"], rel=1e-4)
        else:
            assert right["domains"]["val"]["images"] == left["domains"]["val"]["images"] == 5
            assert right["mean"]["mIoU"] == pytest.approx(left["mean"]["mIoU"], abs=0.2)


def test_two_machines_train_as_one_with_two_slices(toy):
    """Two launchers that know each other by an address, as on two machines with one disk."""
    sets = ["--set", "train.iterations=6", "--set", "train.validate_every=0"]
    call(command(toy, "one", *sets, "--set", "train.accumulate=2"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = command(toy, "two", *sets)[1:]  # without the interpreter, which the launcher is
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
              "--master-addr", "127.0.0.1", "--master-port", port]  # fmt: skip
    machines = [
        subprocess.Popen([*launch, "--node-rank", str(number), *words], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for number in range(2)
    ]  # fmt: skip
    said = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert ["Trained:" in text for text in said] == [True, False]  # the first process tells
    one, two = state(toy / "one" / "last.pth"), state(toy / "two" / "last.pth")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_two_processes_stop_together_and_go_on(toy):
    process = subprocess.Popen(
        command(toy, "run", "--gpus", "2", "--set", "train.iterations=400"), start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log, deadline = toy / "run" / "log.jsonl", time.monotonic() + 300
    while not (log.exists() and log.read_text().count('"step"') >= 8):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)  # as a batch system does
    said = process.communicate(timeout=120)[1]
    assert "Saved at iteration" in said
    stopped = torch.load(toy / "run" / "last.pth", weights_only=True)["training"]["iteration"]
    assert 8 <= stopped < 400
    sets = ["--set", f"train.iterations={stopped + 2}"]
    call([sys.executable, "-m", "reincli", "train", "--resume", str(toy / "run"), "--device", "cpu", *sets])
    assert torch.load(toy / "run" / "last.pth", weights_only=True)["training"]["iteration"] == stopped + 2
