"""Self-training on unlabelled images: a step of it, and what is watched on the way (`rein adapt`).

The teacher is the moving average of the student (`Run.ema`); it is what a checkpoint's weights are, and the student's
lie beside them. In each step it says what it sees on target crops, and the student learns up to three things, one
after another, so that a step takes the memory of an ordinary one: labelled crops in strong colours; target crops onto
which half of the classes of a labelled crop are pasted; and target crops with most blocks hidden.

Which classes a pseudo-label has is known on the device alone, and the matching has to know it on the host. It is sent
there when the teacher is done; by the time it is needed, the copy of the costs of the labelled crops has been waited
for, which was asked for later. So a step waits as often as it computes losses.

Sources: VFM-UDA++ (arXiv 2503.10685), ClassMix in DACS (2007.08702), MIC (2212.01322).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reincli.data.adaptation import AdaptDataset, block_side, mixes
from reincli.data.sources import Sample
from reincli.data.targets import draw_frames, find_targets, frame_samples, frames_folder
from reincli.engine.device import autocast
from reincli.engine.processes import wait_for_all
from reincli.model.criterion import Targets, targets_of, targets_with
from reincli.model.segmentor import class_maps
from reincli.ops.confidence import probabilities
from reincli.ops.parts import part
from reincli.ops.pseudo import Pseudo, class_pixels, hide, paste, pseudo_labels
from reincli.training.batches import labelled_crops, slices_of, train_samples
from reincli.training.pseudo_watch import PseudoWatch, look_at
from reincli.training.run import Run, save
from reincli.training.step import add_gradients, normalised, update
from reincli.training.train import Task, Watch, note_surroundings


@dataclass(frozen=True)
class Lesson:
    """What the student is asked about the target crops of one slice, on the device.

    Attributes:
        pseudo: what the teacher says.
        labels, weights: (B, H, W) of the crops with what is pasted onto them, or that are changed in colour.
        present: (2, B, K) bool, classes in `labels` and in the pseudo-labels.
    """

    pseudo: Pseudo
    labels: Tensor
    weights: Tensor
    present: Tensor


class Adaptation(Task):
    """Self-training of a run whose settings name a target.

    Args:
        run: at its start, or resumed.
    """

    def __init__(self, run: Run) -> None:
        self.watched = PseudoWatch(run)
        self.targets: list[Sample] = []

    def batches(self, run: Run, watch: Watch) -> Iterator[list[dict[str, Any]]]:
        """As slices, of `data.adaptation.AdaptDataset`."""
        settings, adapt = run.settings, run.settings.adapt
        self.targets = target_samples(run)
        source, labelled = None, list[Sample]()
        if adapt.source:
            plain = False if adapt.strong_colors else None
            labelled = train_samples(settings, watch.note)
            source = labelled_crops(labelled, settings, photometric=plain)
        note_surroundings(run, [*labelled, *self.targets])
        items = AdaptDataset(source, self.targets, settings.data.augment, adapt, settings.train.seed)
        return slices_of(items, run)

    def begin(self, run: Run, watch: Watch) -> None:
        """Keep the start, too: it may turn out to be the best."""
        if run.iteration == 0:
            save(run)
        look_at(run, self.targets, watch)

    def step(self, run: Run, slices: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One step of the optimiser.

        Returns:
            As `train.train_step`, of which the parts are those of the first thing that is learnt; besides,
            'loss_mix' and 'loss_masked' where there are such, 'pseudo_weight' and 'pseudo_confidence', 0 to 1.
        """
        with part("teacher"):
            lessons = lessons_of(run, slices)
        sent = OnTheWay(torch.stack([lesson.present for lesson in lessons]))
        self.watched.add([lesson.pseudo for lesson in lessons], run.model.classes)
        run.optimizer.zero_grad(set_to_none=True)
        learnt: dict[str, dict[str, Tensor]] = {}
        if run.settings.adapt.source:
            learnt["source"] = from_labels(run, slices)
        learnt |= from_the_teacher(run, slices, lessons, sent.here())
        with part("optimiser"):
            norm, skipped = update(run)
        first = next(iter(learnt.values()))
        total = torch.stack([losses["loss"] for losses in learnt.values()]).sum()
        extra = {f"loss_{name}": losses["loss"] for name, losses in learnt.items() if name != "source"}
        shares = torch.cat([lesson.pseudo.shares for lesson in lessons])
        sure = torch.stack([lesson.pseudo.confidence for lesson in lessons]).mean()
        pseudo = {"pseudo_weight": shares.mean(), "pseudo_confidence": sure}
        return {**first, "loss": total, **extra, **pseudo, "grad_norm": norm, "skipped": skipped}

    def logged(self, run: Run, watch: Watch) -> None:
        """Log which classes the pseudo-labels had, and say so once where they collapse."""
        self.watched.log(run, watch)

    def passed(self, run: Run, watch: Watch) -> bool:
        """Look at a few target images when it is time."""
        return look_at(run, self.targets, watch)


def target_samples(run: Run) -> list[Sample]:
    """All target images of a run, in the same order in every process; frames of videos are drawn first."""
    adapt = run.settings.adapt
    found = find_targets(adapt.target, run.settings.data)
    folders = [frames_folder(run.folder, number, video) for number, video in enumerate(found.videos)]
    if run.rank.rank == 0:
        for video, folder in zip(found.videos, folders, strict=True):
            draw_frames(video, folder, adapt.video_frames)
    wait_for_all()
    return found.samples + [sample for folder in folders for sample in frame_samples(folder)]


# --- the teacher -------------------------------------------------------------------------------------------


@torch.no_grad()
def lessons_of(run: Run, slices: Sequence[dict[str, Any]]) -> list[Lesson]:
    """What the teacher makes of the target crops of each slice; the student is as it was afterwards."""
    assert run.ema is not None
    run.model.eval()
    with run.ema.applied():
        lessons = [lesson_of(run, piece) for piece in slices]
    run.model.train()
    return lessons


def lesson_of(run: Run, piece: dict[str, Any]) -> Lesson:
    """The model as it stands is the teacher."""
    adapt, classes = run.settings.adapt, run.model.classes
    images = normalised(run, piece["target"], piece["target_size"])
    shares = class_shares(run, images)
    if adapt.mirror:
        shares = (shares + class_shares(run, images.flip(-1)).flip(-1)) / 2
    pseudo = pseudo_labels(shares, piece["counted"].to(run.device, non_blocking=True), adapt.threshold)
    labels, weights = pseudo.labels, pseudo.weights
    if mixes(adapt):
        where = piece["paste"].to(run.device, non_blocking=True)
        labels = paste(piece["label"].to(run.device, non_blocking=True), labels, where)
        weights = paste(torch.ones_like(weights), weights, where)
    present = torch.stack([class_pixels(each, classes) > 0 for each in (labels, pseudo.labels)])
    return Lesson(pseudo, labels, weights, present)


def class_shares(run: Run, images: Tensor) -> Tensor:
    """Probability of each class, (B, K, H, W) float32, of normalised images."""
    with autocast(run.precision, run.device):
        predictions = run.model(images, every_round=False)
    size = (images.shape[2], images.shape[3])
    return probabilities(class_maps(predictions, size), dim=1)


class OnTheWay:
    """Truth values that travel to the host while the device goes on."""

    def __init__(self, values: Tensor) -> None:
        self.event: torch.cuda.Event | None = None
        self.host = values
        if values.device.type == "cuda":
            self.host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.host.copy_(values, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def here(self) -> np.ndarray:
        """Them; what was sent earlier than something that has been waited for is there already."""
        if self.event is not None:
            self.event.synchronize()
        return self.host.cpu().numpy()


# --- what is learnt ----------------------------------------------------------------------------------------


def from_labels(run: Run, slices: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The usual losses of labelled crops."""
    targets = [targets_of(piece["label"], run.model.classes, run.device) for piece in slices]
    images = [partial(normalised, run, piece["image"], piece["size"]) for piece in slices]
    return add_gradients(run, images, targets, last=False)


def from_the_teacher(
    run: Run, slices: Sequence[dict[str, Any]], lessons: Sequence[Lesson], present: np.ndarray
) -> dict[str, dict[str, Tensor]]:
    """Losses of target crops as the teacher sees them: mixed (or in other colours), and masked.

    Args:
        run, slices, lessons: of this step.
        present: (slices, 2, B, K) bool on the host, as `Lesson.present`.
    """
    masked = run.settings.adapt.masked
    images = [partial(mixed_images, run, piece) for piece in slices]
    targets = [
        weighted(lesson.labels, lesson.weights, there[0])
        for lesson, there in zip(lessons, present, strict=True)
    ]
    learnt = {"mix": add_gradients(run, images, targets, turn=1, last=not masked)}
    if masked:
        images = [partial(masked_images, run, piece) for piece in slices]
        targets = [
            weighted(lesson.pseudo.labels, lesson.pseudo.weights, there[1])
            for lesson, there in zip(lessons, present, strict=True)
        ]
        learnt["masked"] = add_gradients(run, images, targets, turn=2)
    return learnt


def weighted(labels: Tensor, weights: Tensor, present: np.ndarray) -> Targets:
    """Targets of labels on the device; `present`: (B, K) bool on the host."""
    return targets_with(labels, [np.flatnonzero(each) for each in present], weights)


def mixed_images(run: Run, piece: dict[str, Any]) -> Tensor:
    """Target crops with what is pasted onto them; without such, the target crops in strong colours. Normalised."""
    if not mixes(run.settings.adapt):
        return normalised(run, piece["strong"], piece["target_size"])
    source = normalised(run, piece["image"], piece["size"])
    target = normalised(run, piece["target"], piece["target_size"])
    return paste(source, target, piece["paste"].to(run.device, non_blocking=True))


def masked_images(run: Run, piece: dict[str, Any]) -> Tensor:
    """Target crops with blocks hidden, normalised."""
    block = block_side(run.settings.adapt, run.settings.data.augment.crop)
    images = normalised(run, piece["target"], piece["target_size"])
    return hide(images, piece["hidden"].to(run.device, non_blocking=True), block)
