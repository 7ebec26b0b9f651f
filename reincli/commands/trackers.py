"""Where a training's log goes beside its own folder: TensorBoard, Weights & Biases, MLflow.

Each keeps its own record; where and under which account is set as its users are used to, by its own environment
variables. What they share: names of scalars (`train/loss`, `mIoU/DOMAIN`), pictures (`samples/DOMAIN`), settings.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reincli.config import Settings, TrackerName
from reincli.errors import ReinError
from reincli.media.images import read_image
from reincli.media.whole_files import write_bytes
from reincli.settings_files import to_toml

PROJECT = "rein"
"""Project or experiment where the tracker's own environment variable names none."""
IDS = "trackers.json"
"""In the run's folder: under which name each tracker knows the run, so that a resumed run goes on there."""
MODULES: dict[TrackerName, str] = {
    "tensorboard": "torch.utils.tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
"""What is imported of each; the extra and the package are called as the tracker is."""


@dataclass(frozen=True)
class Subject:
    """The run that is tracked: its folder, settings, and the iteration from which it goes on (0: a new run)."""

    folder: Path
    settings: Settings
    begun: int = 0

    @property
    def name(self) -> str:
        """The folder's: two runs of one preset have different ones."""
        return self.folder.absolute().name


class Tracker(Protocol):
    """One place that keeps a record. It may be slow and it may fail: see `tracking`."""

    where: str
    """A sentence for the user: where the record is."""

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Finite numbers by name."""

    def pictures(self, files: Mapping[str, Path], iteration: int) -> None:
        """JPEG files by name."""

    def close(self, status: str) -> None:
        """Write what is left. `status` is 'finished', 'stopped' or 'failed'."""


def check_installed(settings: Settings) -> None:
    """ReinError where a tracker is asked for whose package is not there."""
    for name in settings.train.trackers:
        try:
            # a folder `wandb/`, which that package itself leaves behind, imports as an empty module
            found = getattr(importlib.import_module(MODULES[name]), "__file__", None) is not None
        except ImportError:
            found = False
        if not found:
            asked = f"train.log_to names '{name}'"
            if name not in settings.train.log_to:
                asked = "train.tensorboard is set"
            raise ReinError(
                f"{asked}, but the package '{name}' is not installed.",
                f"Install it with: pip install 'reincli[{name}]'",
            )


def start(name: TrackerName, subject: Subject) -> Tracker:
    """Open one; may raise whatever its package raises."""
    kinds: dict[TrackerName, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}
    tracker: Tracker = kinds[name](subject)
    return tracker


# --- the three ---------------------------------------------------------------------------------------------


class TensorBoard:
    """Event files under `tensorboard/` in the run's folder."""

    def __init__(self, subject: Subject) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = subject.folder / "tensorboard"
        purge = subject.begun + 1 if subject.begun else None  # a resumed run logs what came later anew
        self.writer: Any = SummaryWriter(str(place), purge_step=purge)
        self.writer.add_text("settings", f"```toml\n{to_toml(subject.settings)}```", subject.begun)
        self.where = f"Watch it with: tensorboard --logdir {place}"

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """As `Tracker.scalars`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, iteration)
        self.writer.flush()

    def pictures(self, files: Mapping[str, Path], iteration: int) -> None:
        """As `Tracker.pictures`."""
        for name, file in files.items():
            self.writer.add_image(name, read_image(file), iteration, dataformats="HWC")
        self.writer.flush()

    def close(self, status: str) -> None:
        """As `Tracker.close`."""
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases: `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_MODE`, `WANDB_DIR` as always.

    Where nobody is logged in it is kept on disk, to be sent later: nothing asks a question in the middle of a training.
    """

    def __init__(self, subject: Subject) -> None:
        import wandb

        offline = "WANDB_MODE" not in os.environ and not _is_logged_in(wandb)
        self.wandb: Any = wandb
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", subject.name),
            dir=os.environ.get("WANDB_DIR", str(subject.folder)),
            id=_known_as(subject, "wandb"),
            resume="allow",
            mode="offline" if offline else None,
            config=subject.settings.model_dump(mode="json"),
            settings=wandb.Settings(console="off", silent=True),  # the terminal is this program's
        )
        _remember(subject, "wandb", self.run.id)
        folder = Path(self.run.dir).parent
        if self.run.offline:
            reason = "nobody is logged in to Weights & Biases" if offline else "WANDB_MODE"
            self.where = f"Kept offline ({reason}); send it with: wandb sync {folder}"
        else:
            self.where = f"Watch it at {self.run.url}" if self.run.url else f"Weights & Biases: {folder}"

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """As `Tracker.scalars`."""
        self.run.log(dict(values), step=iteration)

    def pictures(self, files: Mapping[str, Path], iteration: int) -> None:
        """As `Tracker.pictures`."""
        self.run.log({name: self.wandb.Image(str(file)) for name, file in files.items()}, step=iteration)

    def close(self, status: str) -> None:
        """As `Tracker.close`."""
        self.run.finish(exit_code=0 if status == "finished" else 1)


def _is_logged_in(wandb: Any) -> bool:
    """Whether runs could be sent, found out without a question to anybody."""
    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))


class MLflow:
    """A run of MLflow: on the server or in the store of `MLFLOW_TRACKING_URI`, else in the run's folder.

    There it is an SQLite file and a folder of artifacts: MLflow has ended work on its older store of plain files.
    """

    PARAMETERS, TEXT = 100, 250
    """Most parameters that one call takes; most characters of one that every server takes."""

    def __init__(self, subject: Subject) -> None:
        import mlflow
        from mlflow.tracking import MlflowClient

        elsewhere = "MLFLOW_TRACKING_URI" in os.environ
        store = f"sqlite:///{(subject.folder / 'mlflow.db').absolute().as_posix()}"
        uri = mlflow.get_tracking_uri() if elsewhere else store
        artifacts = None if elsewhere else (subject.folder / "mlflow").absolute().as_uri()
        self.client: Any = MlflowClient(tracking_uri=uri)
        self.id = self._reopened(_known_as(subject, "mlflow")) or self._created(subject, artifacts)
        self.client.log_text(self.id, to_toml(subject.settings), "settings.toml")
        # a server's address may hold a password: MLflow's users know which server they named
        self.where = (
            "Kept by MLflow where MLFLOW_TRACKING_URI says"
            if elsewhere
            else f"Watch it with: mlflow ui --backend-store-uri {store}"
        )

    def _reopened(self, identifier: str | None) -> str | None:
        """The run of a training that goes on, or None where the store has none of that name."""
        from mlflow.exceptions import MlflowException

        if identifier is None:
            return None
        try:
            self.client.update_run(identifier, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return identifier

    def _created(self, subject: Subject, artifacts: str | None) -> str:
        from mlflow.entities import Param

        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(title)
        experiment = (
            found.experiment_id
            if found
            else self.client.create_experiment(title, artifact_location=artifacts)
        )
        identifier: str = self.client.create_run(experiment, run_name=subject.name).info.run_id
        _remember(subject, "mlflow", identifier)
        flat = flattened(subject.settings.model_dump(mode="json"))
        parameters = [Param(mlflow_name(key), value[: self.TEXT]) for key, value in flat.items()]
        for first in range(0, len(parameters), self.PARAMETERS):
            self.client.log_batch(identifier, params=parameters[first : first + self.PARAMETERS])
        return identifier

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """As `Tracker.scalars`."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(mlflow_name(name), value, now, iteration) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def pictures(self, files: Mapping[str, Path], iteration: int) -> None:
        """As `Tracker.pictures`."""
        for file in files.values():
            self.client.log_artifact(self.id, str(file), f"samples/{iteration}")

    def close(self, status: str) -> None:
        """As `Tracker.close`."""
        self.client.set_terminated(
            self.id, {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[status]
        )


# --- names -------------------------------------------------------------------------------------------------


def mlflow_name(name: str) -> str:
    """With '_' for what MLflow refuses in a name on some system: it takes letters, digits, and `_-. /`."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{'train': {'seed': 1}} -> {'train.seed': '1'}; lists as JSON, what is not set left out."""
    flat: dict[str, str] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{name}.")
        elif value is not None:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _known_as(subject: Subject, tracker: str) -> str | None:
    """Under which name a tracker knows the run; None for a new one."""
    path = subject.folder / IDS
    try:
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError:  # somebody's hand was in it: the tracker begins anew
        return None
    found = known.get(tracker) if isinstance(known, dict) else None
    return found if isinstance(found, str) else None


def _remember(subject: Subject, tracker: str, identifier: str) -> None:
    known = {name: kept for name in ("wandb", "mlflow") if (kept := _known_as(subject, name))}
    write_bytes(subject.folder / IDS, json.dumps({**known, tracker: identifier}).encode())
