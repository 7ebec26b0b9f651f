"""A training run in memory, and its way to disk and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reincli.config import Settings
from reincli.data.labels import Classes
from reincli.data.sources import classes_of
from reincli.engine import checkpoint as checkpoints
from reincli.engine.backbone_files import find_backbone
from reincli.engine.device import DTYPES
from reincli.engine.fingerprint import Fingerprint
from reincli.engine.fusing import fused
from reincli.engine.moved_backbone import load_backbone_of
from reincli.engine.processes import share_gradients, share_statistics, slice_size, wait_for_all
from reincli.engine.ranks import Rank
from reincli.engine.weight_files import write_file
from reincli.errors import ReinError
from reincli.model.attention import head_width, require_attention
from reincli.model.segmentor import Segmentor
from reincli.model.weights import half_precision, holds_backbone
from reincli.training import resuming, run_folder
from reincli.training.ema import Ema, even
from reincli.training.optim import build_optimizer
from reincli.training.recording import Recorded, can_record
from reincli.training.run_folder import LAST


@dataclass
class Run:
    """A training run in memory: what is trained, and where it stands.

    Attributes:
        network: the model as training calls it: compiled, its gradients shared among processes.
        slice_size: images that this process computes at a time.
        backbone: fingerprint of the frozen backbone.
        surroundings, before: see `changes.surroundings`: now, and those of the checkpoint that it was resumed from.
    """

    settings: Settings
    folder: Path
    model: Segmentor
    network: nn.Module
    classes: Classes
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: str
    slice_size: int
    rank: Rank = field(default_factory=Rank)
    ema: Ema | None = None
    iteration: int = 0
    backbone: Fingerprint | None = None
    surroundings: dict[str, Any] = field(default_factory=dict)
    before: object = None

    @property
    def trained(self) -> list[nn.Parameter]:
        """Parameters in the optimiser."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def trained_bytes(self) -> int:
        """Size of what trains."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.trained)


def prepare_run(
    settings: Settings,
    folder: Path,
    *,
    device: torch.device,
    precision: str,
    rank: Rank | None = None,
    backbone: Path | None = None,
    any_backbone: bool = False,
    resume: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Run:
    """Build the model, load its backbone, and go back to the last checkpoint where resuming.

    Raises:
        ReinError: weights missing or not fitting; a batch that does not divide; too little space on the disk.
    """
    train, rank = settings.train, rank or Rank()
    slice_size(train.batch_size, rank, train.accumulate)  # refuses before anything is built
    classes = classes_of(settings.data)
    torch.manual_seed(train.seed)
    model = checkpoints.build_model(settings, len(classes))
    read: checkpoints.Checkpoint | None = None
    if resume:
        read, told = resuming.newest_whole(folder)
        note_all(note, told)
    elif train.start_from:
        read = checkpoints.read_checkpoint(Path(train.start_from))
    brought = model.backbone_trains and read is not None and holds_backbone(read.state)
    fingerprint = None if brought else _load_backbone(model, settings, backbone, read, any_backbone, note)
    fresh = None if resume or settings.adapt.target else classes  # what adapts teaches itself by its classes
    if read is not None:  # before the backbone takes its compute type: directions are taken out in fp32
        note_all(note, checkpoints.load_trained(model, read, fresh_for=fresh))
    run = new_run(settings, folder, model, classes, device=device, precision=precision, rank=rank, note=note)
    run.backbone = fingerprint
    if resume:
        assert read is not None
        restore(run, read)
        if read.path.name != LAST and run.rank.rank == 0:
            run_folder.point_at(folder / LAST, read.path)
    run.network = share_gradients(run.network, rank, device, model.some_unread)
    copies = 4 if run.ema else 3  # weights and the optimiser's two moments
    run_folder.check_space(folder, copies * run.trained_bytes, train.keep_checkpoints)
    return run


def note_all(note: Callable[[str], None], remarks: Iterable[str]) -> None:
    """Tell remarks one by one."""
    for remark in remarks:
        note(remark)


def _load_backbone(
    model: Segmentor,
    settings: Settings,
    given: Path | None,
    read: checkpoints.Checkpoint | None,
    any_backbone: bool,
    note: Callable[[str], None],
) -> Fingerprint | None:
    """Load the backbone's file, that of the checkpoint where one is gone on or started from; its fingerprint.

    Raises:
        ReinError: there is none, it does not fit, or the backbone is frozen and random.
    """
    loaded: tuple[Fingerprint | None, list[str]] | None = None
    if read is not None:
        loaded = load_backbone_of(model, read, settings, given, knowingly=any_backbone)
    elif (path := find_backbone(settings, given)) is not None:
        loaded = checkpoints.load_frozen(model, path)
    if loaded is None:
        if model.backbone_trains:
            return None
        raise ReinError(
            "The backbone is frozen and has random weights: nothing would keep them for later use.",
            "Give --backbone FILE, or train it too: --set model.train_backbone=true",
            usage=True,
        )
    note_all(note, loaded[1])
    return loaded[0]


def new_run(
    settings: Settings,
    folder: Path,
    model: Segmentor,
    classes: Classes,
    *,
    device: torch.device,
    precision: str,
    rank: Rank | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Run:
    """A run at its first step, of a model that has its weights; nothing is written or read.

    Raises:
        ReinError: the batch does not divide, or the backbone cannot attend here as the settings say.
    """
    train, rank = settings.train, rank or Rank()
    require_attention(
        model.backbone.settings.attention, device, DTYPES[precision], head_width(model.backbone.body)
    )
    images = slice_size(train.batch_size, rank, train.accumulate)
    for name in ("neck", "plain_decoder"):  # what has batch norms
        if (part := getattr(model, name)) is not None:
            setattr(model, name, share_statistics(part, rank, device))
    model.to(device)
    model.recompute = train.checkpoint_activations
    if not model.backbone_trains:
        if model.minor is None:  # gains do not commute with what is trained beside the weights
            model.merge_gains()
        if precision != "fp32":
            spared = () if model.minor is None else model.minor.parameters()
            half_precision(model.backbone, DTYPES[precision], spared)
    uncut = rank.world > 1 and train.checkpoint_activations
    network: nn.Module = fused(model, uncut=uncut) if train.compile else model
    if (
        can_record(train, device, rank) and not settings.adapt.target
    ):  # which adds gradients of several passes
        network = Recorded(model, precision, note)
    optimizer = build_optimizer(model, settings.optim)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    run = Run(settings, folder, model, network, classes, optimizer, scaler, device, precision, images, rank)
    trained = {name: parameter for name, parameter, _ in model.decays()}
    if settings.adapt.target:  # the teacher is the average
        ramp = even if settings.adapt.teacher_ramp else None
        run.ema = Ema(trained, settings.adapt.teacher_decay, ramp=ramp)
    elif train.ema_decay is not None:
        run.ema = Ema(trained, train.ema_decay, train.ema_from)
    return run


def state_of_run(run: Run) -> dict[str, Any]:
    """Content of a checkpoint. With a moving average that is its weights; those being trained lie beside it."""
    training: dict[str, Any] = {
        "iteration": run.iteration,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "surroundings": run.surroundings,
    }
    if run.ema is None:
        return checkpoints.checkpoint_content(
            run.model, run.settings, run.classes, run.iteration, training, run.backbone
        )
    training["weights"] = {name: value.detach().cpu().clone() for name, value in run.ema.parameters.items()}
    with run.ema.applied():
        content = checkpoints.checkpoint_content(
            run.model, run.settings, run.classes, run.iteration, training, run.backbone
        )
        content["state_dict"] = {name: value.clone() for name, value in content["state_dict"].items()}
    return content


def save(run: Run) -> None:
    """Write `iter_N.pth`, point `last.pth` at it, and drop all but the newest few."""
    try:
        if run.rank.rank == 0:
            write_checkpoint(run)
    finally:
        wait_for_all()


def write_checkpoint(run: Run) -> None:
    """`save` without waiting for other processes."""
    run_folder.require_there(run.folder)
    path = run.folder / f"iter_{run.iteration}.pth"
    write_file(path, state_of_run(run))
    run_folder.point_at(run.folder / LAST, path)
    run_folder.drop_old_checkpoints(run.folder, run.settings.train.keep_checkpoints)


def restore(run: Run, read: checkpoints.Checkpoint) -> None:
    """Go on where a checkpoint stopped, whose weights the model has: average, optimiser, scaler, iteration, log.

    Raises:
        ReinError: it holds no state of training, or one of other parts or factors.
    """
    if read.training is None:
        raise ReinError(
            f"'{read.path}' holds weights but no state of training.", "Use it as train.start_from instead."
        )
    raw = read.training.get("weights")
    if run.ema is not None:
        run.ema.load({name: value.detach().clone() for name, value in run.ema.parameters.items()})
    if raw is not None:
        resuming.load_weights({name: p for name, p, _ in run.model.decays()}, raw, read.path)
    resuming.load_optimizer(run.optimizer, read.training.get("optimizer"), read.path)
    resuming.load_scaler(run.scaler, read.training.get("scaler"), read.path)
    run.iteration = resuming.iteration_in(read.training, read.path)
    run.before = read.training.get("surroundings")
    if run.rank.rank == 0:
        run_folder.rewind_log(read.path.parent, run.iteration)
