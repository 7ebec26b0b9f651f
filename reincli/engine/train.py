"""Training: the loop, one step of it, and its state on disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from reincli.config import Settings, build_settings, read_toml, to_toml
from reincli.data.dataset import TrainDataset, check_labels, init_worker
from reincli.data.images import write_bytes
from reincli.data.labels import Classes
from reincli.data.sampling import rare_classes
from reincli.data.sources import Sample, classes_of, find_samples, label_tables
from reincli.engine import checkpoint as checkpoints
from reincli.engine.device import DTYPES, autocast, peak_memory
from reincli.engine.evaluate import evaluate, report, val_samples
from reincli.engine.optim import build_optimizer, learning_rate, set_learning_rate
from reincli.engine.predict import Predictor
from reincli.errors import ReinError
from reincli.model.criterion import PointSource, mask2former_loss, targets_of, uniform_points
from reincli.model.segmentor import Segmentor
from reincli.model.weights import half_precision


@dataclass(frozen=True)
class StepLog:
    """Means since the last log line.

    Attributes:
        iteration: number of steps done. losses: total and the last round's parts.
        lr: learning rate. seconds: a step. waiting: share of the time spent waiting for data, 0 to 1.
        memory: peak in bytes.
    """

    iteration: int
    losses: dict[str, float]
    lr: float
    seconds: float
    waiting: float
    memory: int


@dataclass(frozen=True)
class Watch:
    """What the caller wants to hear of; training itself prints nothing."""

    note: Callable[[str], None] = lambda text: None
    step: Callable[[StepLog], None] = lambda log: None
    tick: Callable[[int], None] = lambda iteration: None
    validated: Callable[[int, dict[str, Any]], None] = lambda iteration, result: None


class Draws(Sampler[int]):
    """The numbers of the draws still to come: a resumed run goes on where it stopped."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass
class Run:
    """A training run in memory: what is trained, and where it stands."""

    settings: Settings
    folder: Path
    model: Segmentor
    classes: Classes
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: str
    iteration: int = 0


def prepare_run(
    settings: Settings,
    folder: Path,
    *,
    device: torch.device,
    precision: str,
    backbone: Path | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> Run:
    """Build the model, load its backbone, and go back to the last checkpoint where resuming.

    Raises:
        ReinError: weights missing or not fitting.
    """
    watch = watch or Watch()
    classes = classes_of(settings.data)
    torch.manual_seed(settings.train.seed)
    model = checkpoints.build_model(settings, len(classes))
    path = checkpoints.find_backbone(settings, backbone)
    if path is not None:
        for note in checkpoints.load_backbone(model, path):
            watch.note(note)
    elif not model.backbone_trains:
        raise ReinError(
            "The backbone is frozen and has random weights: nothing would keep them for later use.",
            "Give --backbone FILE, or train it too: --set model.train_backbone=true",
            usage=True,
        )
    if settings.train.start_from and not resume:
        checkpoints.load_trained(model, checkpoints.read_checkpoint(Path(settings.train.start_from)))
    model.to(device)
    if precision != "fp32" and not model.backbone_trains:
        half_precision(model.backbone, DTYPES[precision])
    optimizer = build_optimizer(model, settings.optim)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    run = Run(settings, folder, model, classes, optimizer, scaler, device, precision)
    if resume:
        restore(run, folder / "last.pth")
    return run


def train(run: Run, watch: Watch | None = None) -> None:
    """Train to the last iteration: log, checkpoint and validate on the way.

    Ctrl-C saves a checkpoint before it goes on as KeyboardInterrupt, so that nothing is lost.
    """
    watch, settings, train = watch or Watch(), run.settings, run.settings.train
    samples = train_samples(settings)
    validation = val_samples(settings) if train.validate_every else []
    run.model.train()
    start = run.iteration
    log = _Meter(run.device)
    try:
        for batch in load_batches(samples, settings, start):
            log.data_here()
            lr = learning_rate(settings.optim, run.iteration, train.iterations)
            set_learning_rate(run.optimizer, lr)
            log.add(train_step(run, batch, step_points(run)))
            run.iteration += 1
            watch.tick(run.iteration)
            last = run.iteration == train.iterations
            if run.iteration % train.log_every == 0 or last:
                entry = log.flush(run.iteration, lr)
                append_log(run.folder, {"kind": "step", **vars(entry)})
                watch.step(entry)
            if run.iteration % train.checkpoint_every == 0 or last:
                save(run)
            if validation and (run.iteration % train.validate_every == 0 or last):
                watch.validated(run.iteration, validate(run, validation))
                log.restart()
    except KeyboardInterrupt:
        if run.iteration > start:
            save(run)
        raise KeyboardInterrupt(
            f"Saved at iteration {run.iteration}; go on with: rein train --resume {run.folder}"
        ) from None


def train_step(run: Run, batch: dict[str, Any], points: PointSource) -> dict[str, Tensor]:
    """One step of the optimiser on one batch; losses by name stay on the device."""
    model, device = run.model, run.device
    images, labels = (batch[key].to(device, non_blocking=True) for key in ("image", "label"))
    targets = targets_of(labels, model.classes)
    with autocast(run.precision, device):
        predictions = model(model.normalise(images, batch["size"].to(device)))
    losses, _ = mask2former_loss(predictions, targets, points, count=run.settings.train.points)
    total = torch.stack(list(losses.values())).sum()
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(total).backward()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return {
        "loss": total.detach(),
        **{name: losses[name].detach() for name in ("loss_cls", "loss_mask", "loss_dice")},
    }


def step_points(run: Run) -> PointSource:
    """Random points of one step, from the seed and the iteration alone: a resumed run draws the same."""
    return uniform_points(run.device, run.settings.train.seed * 1_000_003 + run.iteration)


def train_samples(settings: Settings) -> list[Sample]:
    """All training images. Labels of own datasets are read through first: they may hold anything."""
    samples = [sample for source in settings.data.train for sample in find_samples(source, settings.data)]
    own = [sample for sample in samples if sample.dataset in settings.data.own]
    if own:
        check_labels(own, label_tables(settings.data.train, settings.data))
    return samples


def load_batches(samples: list[Sample], settings: Settings, start: int) -> DataLoader[dict[str, Any]]:
    """Batches of consecutive draws, from iteration `start` to the last."""
    tables = label_tables(settings.data.train, settings.data)
    rare = rare_classes(samples, settings.data)
    dataset = TrainDataset(samples, tables, settings.data.augment, settings.train.seed, rare)
    size = settings.train.batch_size
    workers = min(settings.data.workers, os.cpu_count() or 1)
    return DataLoader(
        dataset,
        batch_size=size,
        sampler=Draws(start * size, settings.train.iterations * size),
        num_workers=workers,
        worker_init_fn=init_worker,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
    )


def validate(run: Run, samples: list[Sample]) -> dict[str, Any]:
    """Scores of the model as it stands; written to the log."""
    run.model.eval()
    predictor = Predictor(run.model, run.classes, run.settings, run.device, run.precision, in_training=True)
    result = report(predictor, evaluate(predictor, samples), str(run.folder / "last.pth"))
    run.model.train()
    append_log(run.folder, {"kind": "validation", "iteration": run.iteration, **result})
    return result


# --- on disk -----------------------------------------------------------------------------------------------


def start_folder(folder: Path, settings: Settings) -> None:
    """Make the run's folder and write its settings. ReinError where a run is there already."""
    if (folder / "settings.toml").exists():
        raise ReinError(
            f"There is a run in '{folder}' already.",
            f"Go on with it: rein train --resume {folder}   or choose another folder: --work-dir DIR",
            usage=True,
        )
    write_bytes(folder / "settings.toml", to_toml(settings).encode())


def settings_of_run(folder: Path) -> Settings:
    """Settings of a run to resume. ReinError where there is nothing to resume."""
    if not (folder / "settings.toml").exists():
        raise ReinError(
            f"There is no run in '{folder}' (no settings.toml).", "Give the folder of a run.", usage=True
        )
    return build_settings(read_toml(folder / "settings.toml"))


def save(run: Run) -> None:
    """Write `iter_N.pth`, point `last.pth` at it, and drop all but the newest few."""
    training = {
        "iteration": run.iteration,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
    }
    path = run.folder / f"iter_{run.iteration}.pth"
    content = checkpoints.checkpoint_content(run.model, run.settings, run.classes, run.iteration, training)
    checkpoints.write_file(path, content)
    point_at(run.folder / "last.pth", path)
    numbered = sorted(run.folder.glob("iter_*.pth"), key=lambda file: int(file.stem[5:]))
    for old in numbered[: -run.settings.train.keep_checkpoints]:
        old.unlink()


def point_at(pointer: Path, target: Path) -> None:
    """Make `pointer` the same file as `target`; it stays whole when the target is deleted later."""
    temporary = pointer.with_name(f".{pointer.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(target, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(target, temporary)
    os.replace(temporary, pointer)


def restore(run: Run, path: Path) -> None:
    """Go back to a checkpoint: weights, optimiser, scaler, iteration."""
    if not path.exists():
        raise ReinError(
            f"'{path.parent}' has no checkpoint yet.", "Start it anew: remove the folder, then train."
        )
    read = checkpoints.read_checkpoint(path)
    checkpoints.load_trained(run.model, read)
    if read.training is None:
        raise ReinError(
            f"'{path}' holds weights but no state of training.", "Use it as train.start_from instead."
        )
    run.optimizer.load_state_dict(read.training["optimizer"])
    run.scaler.load_state_dict(read.training["scaler"])
    run.iteration = int(read.training["iteration"])


def append_log(folder: Path, entry: dict[str, Any]) -> None:
    """One line of JSON at the end of `log.jsonl`."""
    with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


class _Meter:
    """Means between log lines. Losses are added up on the device and copied once a line."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.steps = 0
        self.waited = 0.0
        self.begun = self.ready = time.perf_counter()

    def data_here(self) -> None:
        self.waited += time.perf_counter() - self.ready

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            self.total[name] = self.total.get(name, torch.zeros_like(value)) + value
        self.steps += 1
        self.ready = time.perf_counter()

    def flush(self, iteration: int, lr: float) -> StepLog:
        values = torch.stack(list(self.total.values())) / self.steps
        losses = dict(zip(self.total, values.tolist(), strict=True))
        passed = time.perf_counter() - self.begun
        entry = StepLog(
            iteration, losses, lr, passed / self.steps, self.waited / passed, peak_memory(self.device)
        )
        self.restart()
        return entry
