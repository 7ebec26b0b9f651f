"""Trackers are told everything in order, and whatever they do, a training goes on."""

from __future__ import annotations

import threading

import pytest
import tiny
from terminal import told

from reincli.commands import tracking
from reincli.commands.trackers import Subject
from reincli.settings_files import to_toml
from reincli.training.meter import StepLog


def log(iteration: int, **changed) -> StepLog:
    values = {"losses": {"loss": 3.0}, "grad_norm": 1.0, "skipped": 0, "lr": 1e-4, "seconds": 1.0, "images": 2.0,
              "waiting": 0.0, "memory": 5}  # fmt: skip
    return StepLog(iteration=iteration, **{**values, **changed})


class Fake:
    """Keeps what it is told; `fails_at` an iteration, `hangs` until that event is set."""

    where = "Kept by a test"

    def __init__(self, fails_at: int | None = None, hangs: threading.Event | None = None) -> None:
        self.heard: list[tuple] = []
        self.fails_at, self.hangs = fails_at, hangs

    def scalars(self, values, iteration):
        if self.hangs:
            self.hangs.wait()
        if iteration == self.fails_at:
            raise ConnectionError("the server is gone\nand more that nobody wants to read")
        self.heard.append(("scalars", iteration, dict(values)))

    def pictures(self, files, iteration):
        self.heard.append(("pictures", iteration, sorted(files)))

    def close(self, status):
        self.heard.append(("close", status))


@pytest.fixture
def notes(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(tracking.console, "note", said.append)
    return said


@pytest.fixture
def use(monkeypatch):
    """Let a fake be what a tracker's name opens."""

    def chosen(**fakes: Fake) -> None:
        monkeypatch.setattr(tracking, "start", lambda name, subject: fakes[name])

    return chosen


def subject(folder) -> Subject:
    return Subject(folder, tiny.settings())


def test_all_is_told_in_order_and_numbers_that_are_none_are_left_out(tmp_path, use, notes):
    fake = Fake()
    use(wandb=fake)
    (tmp_path / "val.jpg").touch()
    with tracking.tracking(("wandb",), subject(tmp_path)) as board:
        board.step(log(1, grad_norm=None, losses={"loss": float("nan"), "loss_cls": 2.0}))
        result = {"domains": {"val": {"mIoU": 50.0}, "dusk": {"mIoU": None}}, "mean": {"mIoU": 50.0}}
        board.validation(1, result, tmp_path)
    first, second, third, last = fake.heard
    assert first[:2] == ("scalars", 1)
    assert "train/loss" not in first[2]
    assert "train/grad_norm" not in first[2]
    assert first[2]["train/loss_cls"] == 2.0
    assert first[2]["speed/memory"] == 5.0
    assert second == ("scalars", 1, {"mIoU/val": 50.0, "mIoU/mean": 50.0})
    assert third == ("pictures", 1, ["samples/val"])
    assert last == ("close", "finished")
    assert notes == ["wandb: Kept by a test"]


def test_one_that_fails_is_told_of_once_and_the_others_go_on(tmp_path, use, notes):
    broken, whole = Fake(fails_at=2), Fake()
    use(mlflow=broken, wandb=whole)
    with tracking.tracking(("mlflow", "wandb"), subject(tmp_path)) as board:
        for iteration in range(1, 6):
            board.step(log(iteration))
    assert [entry[1] for entry in whole.heard] == [1, 2, 3, 4, 5, "finished"]
    assert [entry[1] for entry in broken.heard] == [1]
    (said,) = [text for text in notes if "failed" in text]
    assert said.startswith("mlflow failed and is told no more; training goes on")
    assert said.endswith("the server is gone")


def test_one_that_cannot_begin_stops_nothing(tmp_path, monkeypatch, notes):
    def start(name, subject):
        raise SystemExit  # as a package might when nobody is logged in

    monkeypatch.setattr(tracking, "start", start)
    with tracking.tracking(("wandb",), subject(tmp_path)) as board:
        board.step(log(1))
    assert [text for text in notes if "wandb failed" in text and "SystemExit" in text]


def test_one_that_hangs_is_left_after_a_while(tmp_path, use, notes, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    gate = threading.Event()
    use(mlflow=Fake(hangs=gate))
    try:
        with tracking.tracking(("mlflow",), subject(tmp_path)) as board:
            for iteration in range(50):
                board.step(log(iteration))
    finally:
        gate.set()
    assert "mlflow has not taken everything" in notes[-1]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt("saved"), "stopped"), (ValueError(), "failed")]
)
def test_how_it_ended_is_told_and_the_error_goes_on(tmp_path, use, notes, error, status):
    fake = Fake()
    use(wandb=fake)
    with pytest.raises(type(error)), tracking.tracking(("wandb",), subject(tmp_path)):
        raise error
    assert fake.heard == [("close", status)]


def test_a_tracker_that_fails_leaves_a_training_as_it_is(tmp_path, monkeypatch):
    """The whole command: the same weights' worth of log lines, exit code 0, one sentence."""
    monkeypatch.setattr(tracking, "start", lambda name, subject: Fake(fails_at=2))
    tiny.write_toy(tmp_path / "toy")
    settings = tiny.settings(
        "train.log_every=1", "train.validate_every=0", data=tiny.own_data(tmp_path / "toy")
    )
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings))
    printed = told(
        "train", "--config", tmp_path / "toy.toml", "--backbone", tmp_path / "backbone.pth", "--device", "cpu",
        "--work-dir", tmp_path / "run", "--set", "train.tensorboard=true",
    )  # fmt: skip
    assert printed.count("tensorboard failed") == 1
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 6
    assert (tmp_path / "run" / "last.pth").exists()
