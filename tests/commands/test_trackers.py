"""TensorBoard, Weights & Biases (offline) and MLflow (its own stores) keep what a run logs."""

from __future__ import annotations

import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from terminal import told

from reincli.commands import trackers
from reincli.commands.trackers import Subject, check_installed, flattened, mlflow_name
from reincli.errors import ReinError
from reincli.settings_files import to_toml

VARIABLES = (
    "WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR", "WANDB_ENTITY", "WANDB_API_KEY",
    "WANDB_IDENTITY_TOKEN_FILE", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def train(folder: Path, *words: object) -> str:
    """A run of six iterations with three validations on one domain; all that is printed."""
    tiny.write_toy(folder / "toy")
    data = tiny.own_data(folder / "toy")
    data["own"]["toy"]["splits"]["val"]["domain"] = "dusk/<wet>"
    settings = tiny.settings("train.validate_every=2", "train.log_every=1", "train.points=64", data=data)
    tiny.write_backbone(folder / "backbone.pth", settings)
    (folder / "toy.toml").write_text(to_toml(settings))
    return told("train", "--config", folder / "toy.toml", "--backbone", folder / "backbone.pth", "--work-dir",
                folder / "run", "--device", "cpu", *words)  # fmt: skip


# --- asking for one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(trackers.MODULES))
def test_a_missing_package_is_one_sentence_before_anything_is_built(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, trackers.MODULES[name], None)
    settings = tiny.settings(f'train.log_to=["{name}"]')
    with pytest.raises(
        ReinError, match=f"train.log_to names '{name}', but the package '{name}' is not"
    ) as caught:
        check_installed(settings)
    assert caught.value.hint == f"Install it with: pip install 'reincli[{name}]'"


def test_the_older_setting_is_called_by_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ReinError, match=r"train\.tensorboard is set, but"):
        check_installed(tiny.settings("train.tensorboard=true"))


def test_a_folder_of_the_same_name_is_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))  # as a namespace: it has no file
    with pytest.raises(ReinError, match="'wandb' is not installed"):
        check_installed(tiny.settings('train.log_to=["wandb"]'))


def test_an_unknown_tracker_is_one_sentence_with_the_known_ones():
    printed = told("train", "--preset", "demo", "--set", 'train.log_to=["comet"]', code=2)
    assert "'comet'" in printed
    assert "'tensorboard', 'wandb' or 'mlflow'" in printed


def test_each_is_told_once_and_the_older_setting_counts():
    assert tiny.settings().train.trackers == ()
    both = tiny.settings('train.log_to=["wandb", "tensorboard", "wandb"]', "train.tensorboard=true")
    assert both.train.trackers == ("wandb", "tensorboard")
    assert tiny.settings("train.tensorboard=true").train.trackers == ("tensorboard",)


def test_every_tracker_has_an_extra_of_its_name():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    for name in trackers.MODULES:
        assert f'\n{name} = ["{name}>=' in text


def test_names_and_settings_are_put_as_mlflow_takes_them():
    assert mlflow_name("mIoU/dusk/<wet>:é") == "mIoU/dusk/_wet___"
    flat = flattened(tiny.settings().model_dump(mode="json"))
    assert flat["train.seed"] == "42"
    assert flat["name"] == "tiny"
    assert flat["data.augment.size"] == "[2048, 1024]"
    assert "data.mean" not in flat


# --- keeping -----------------------------------------------------------------------------------------------


def test_tensorboard_has_scalars_pictures_and_settings_and_forgets_what_is_logged_anew(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    printed = train(tmp_path, "--set", 'train.log_to=["tensorboard"]')
    assert "Watch it with: tensorboard --logdir" in printed
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {
        "train/loss",
        "train/lr",
        "train/grad_norm",
        "speed/images",
        "mIoU/mean",
        "mIoU/dusk/<wet>",
    } <= set(tags["scalars"])
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in board.Images("samples/dusk__wet_")] == [2, 4, 6]
    assert "settings/text_summary" in tags["tensors"]


def test_tensorboard_drops_what_a_stopped_run_wrote_after_its_last_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = tiny.settings()
    for begun, steps, value in ((0, range(1, 6), 1.0), (3, range(4, 7), 2.0)):
        tracker = trackers.start("tensorboard", Subject(tmp_path, settings, begun))
        for step in steps:
            tracker.scalars({"train/loss": value}, step)
        tracker.close("stopped")
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    events = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert events == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format with W&B's 7 bytes before it: pieces in blocks of 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # too little for a header: filled with zeros
            at += left
            continue
        _, length, kind = struct.unpack(
            "<IHB", data[at : at + 7]
        )  # checksum, length, 1 whole 2 first 3 middle 4 last
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def offline_history(run: Path) -> list[dict[str, str]]:
    """What an offline run of Weights & Biases holds, from its own file: a row a step, values as JSON."""
    from wandb.proto import wandb_internal_pb2

    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    rows = []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): item.value_json for item in items})
    return rows


def test_wandb_keeps_a_run_offline_where_nobody_is_logged_in(tmp_path):
    pytest.importorskip("wandb")
    printed = train(tmp_path, "--set", 'train.log_to=["wandb"]')
    assert "send it with: wandb sync" in printed
    assert "failed" not in printed
    rows = offline_history(tmp_path / "run")
    assert [int(row["_step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all("train/loss" in row for row in rows)
    assert [int(row["_step"]) for row in rows if "mIoU/dusk/<wet>" in row] == [2, 4, 6]
    assert any(name.startswith("samples/") for row in rows for name in row)
    assert len(list(tmp_path.glob("run/wandb/offline-run-*/files/media/images/samples/*.jpg"))) == 3
    assert '"wandb"' in (tmp_path / "run" / trackers.IDS).read_text()


def mlflow_client(uri: str):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def kept_by_mlflow(uri: str, experiment: str) -> tuple:
    """(client, the one run of an experiment)."""
    client = mlflow_client(uri)
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id])
    return client, run


def assert_whole(client, run) -> None:
    identifier = run.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["train.seed"] == "42"
    assert [m.step for m in client.get_metric_history(identifier, "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [m.step for m in client.get_metric_history(identifier, "mIoU/dusk/_wet_")] == [2, 4, 6]
    assert "settings.toml" in [item.path for item in client.list_artifacts(identifier)]
    assert [item.path for item in client.list_artifacts(identifier, "samples/4")] == [
        "samples/4/dusk__wet_.jpg"
    ]


def test_mlflow_keeps_a_run_in_its_folder_and_a_resumed_one_stays_the_same(tmp_path):
    pytest.importorskip("mlflow")
    printed = train(tmp_path, "--set", 'train.log_to=["mlflow"]')
    assert "mlflow ui --backend-store-uri sqlite:///" in printed
    assert "failed" not in printed
    uri = f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}"
    assert_whole(*kept_by_mlflow(uri, "rein"))
    assert (tmp_path / "run" / "mlflow").is_dir()
    told("train", "--resume", tmp_path / "run", "--set", "train.iterations=8", "--device", "cpu")
    client, run = kept_by_mlflow(uri, "rein")  # still one
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


def test_mlflow_goes_where_its_own_variables_say_also_to_plain_files(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    uri = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "streets")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    printed = train(tmp_path, "--set", 'train.log_to=["mlflow"]')
    assert "Kept by MLflow where MLFLOW_TRACKING_URI says" in printed
    assert_whole(*kept_by_mlflow(uri, "streets"))
    assert not (tmp_path / "run" / "mlflow.db").exists()


def test_an_mlflow_server_that_is_not_there_stops_nothing(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    printed = train(tmp_path, "--set", 'train.log_to=["mlflow"]')
    assert "mlflow failed and is told no more" in printed
    assert (tmp_path / "run" / "last.pth").exists()


def test_a_damaged_record_of_names_begins_anew(tmp_path):
    for text in ("{", "[]", '{"wandb": 3}'):
        (tmp_path / trackers.IDS).write_text(text)
        assert trackers._known_as(Subject(tmp_path, tiny.settings()), "wandb") is None
    trackers._remember(Subject(tmp_path, tiny.settings()), "wandb", "abc")
    trackers._remember(Subject(tmp_path, tiny.settings()), "mlflow", "def")
    assert trackers._known_as(Subject(tmp_path, tiny.settings()), "wandb") == "abc"
