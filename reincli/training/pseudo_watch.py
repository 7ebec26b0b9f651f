"""Watching an adaptation that has no labels to be scored on: pseudo-labels over time, and looks at a few images.

`log.jsonl` gets a line a log interval ("kind": "pseudo"), what the pseudo-labels were, and a line a look ("kind":
"look"), how far teacher and student agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reincli.config import Settings, test_size
from reincli.data.dataset import eval_size, to_tensor
from reincli.data.sources import Sample, parse_source
from reincli.data.transforms import resize_image
from reincli.engine.processes import mean_over_processes
from reincli.media.images import read_image
from reincli.ops.pseudo import Pseudo, class_pixels
from reincli.prediction.predict import Predictor
from reincli.training import run_folder
from reincli.training.run import Run
from reincli.training.train import Watch

FEWER_CLASSES = 0.5
"""Pseudo-labels collapse where their classes, counted by `effective`, are fewer than this share of the first ones."""
SEEN, VANISHED = 0.005, 0.1
"""A class vanishes where of a share of SEEN or more at first less than this part is left."""
IDLE = 0.01
"""Mean weight below which pseudo-labels teach nothing."""
REMEDY = "Stop here and try a lower optim.lr, a higher adapt.threshold, or labelled images of that kind in data.train."


@dataclass(frozen=True)
class Seen:
    """What pseudo-labels were in a stretch of steps, over all processes.

    Attributes:
        shares: of the pixels that got a label, by class index; sum 1, or 0 where none did.
        weight: mean weight of a crop. confidence: mean probability of the chosen class. Both 0 to 1.
    """

    shares: tuple[float, ...]
    weight: float
    confidence: float


def effective(shares: Sequence[float]) -> float:
    """How many classes there are, in effect: exp of the entropy of their shares; n for n of the same size."""
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


def warnings(first: Seen, now: Seen, names: Sequence[str]) -> dict[str, str]:
    """What is wrong with pseudo-labels, judged by what they were at first: a sentence by kind; {}: nothing."""
    before, after = effective(first.shares), effective(now.shares)
    said = {}
    if after < FEWER_CLASSES * before:
        index = int(np.argmax(now.shares))
        said["collapse"] = (
            f"The pseudo-labels collapse: '{names[index]}' is {now.shares[index]:.0%} of them, "
            f"{first.shares[index]:.0%} at first; in effect {after:.1f} classes are left of {before:.1f} (mean "
            f"confidence {now.confidence:.2f}). {REMEDY}"
        )
    gone = [
        name
        for name, was, is_ in zip(names, first.shares, now.shares, strict=True)
        if was >= SEEN and is_ < VANISHED * was
    ]
    if gone:
        said["vanished"] = (
            f"The pseudo-labels lose {'a class' if len(gone) == 1 else 'classes'}: {', '.join(gone)}, of which less "
            f"than a {round(1 / VANISHED)}th is left. {REMEDY}"
        )
    if now.weight < IDLE:
        said["idle"] = (
            f"The target teaches next to nothing: {now.weight:.1%} of the pixels reach adapt.threshold (mean "
            f"confidence {now.confidence:.2f}). A model that is so unsure is a poor teacher: train it longer first. A "
            "lower threshold (--set adapt.threshold=0.9) lets it teach all the same; score that on labelled images of "
            "the target (data.val) before you trust it."
        )
    return said


class PseudoWatch:
    """Sums over the steps of a log interval, on the device; copied once a line.

    Args:
        run: whose log may have lines of before.
    """

    def __init__(self, run: Run) -> None:
        kept = [entry for entry in run_folder.read_log(run.folder) if entry["kind"] == "pseudo"]
        self.first = seen_of(kept[0], run.classes.names) if kept else None
        self.told: set[str] = set()
        self.sums: Tensor | None = None
        self.steps = 0

    @torch.no_grad()
    def add(self, pseudo: Sequence[Pseudo], classes: int) -> None:
        """Take note of a step's pseudo-labels."""
        pixels = torch.stack([class_pixels(each.labels, classes).sum(0) for each in pseudo]).sum(0)
        weight = torch.cat([each.shares for each in pseudo]).mean()
        confidence = torch.stack([each.confidence for each in pseudo]).mean()
        sums = torch.cat([pixels, torch.stack([weight, confidence])])
        self.sums = sums if self.sums is None else self.sums + sums
        self.steps += 1

    def log(self, run: Run, watch: Watch) -> None:
        """Write the stretch's line, and warn once of each thing that is wrong; a new stretch begins."""
        if self.sums is None:
            return
        *pixels, weight, confidence = mean_over_processes(self.sums.tolist())
        total = max(sum(pixels), 1.0)
        now = Seen(tuple(p / total for p in pixels), weight / self.steps, confidence / self.steps)
        self.sums, self.steps = None, 0
        self.first = self.first or now
        names = run.classes.names
        if run.rank.rank == 0:
            run_folder.append_log(run.folder, entry_of(run.iteration, now, names))
        for kind, sentence in warnings(self.first, now, names).items():
            if kind not in self.told:
                self.told.add(kind)
                watch.note(sentence)


def entry_of(iteration: int, seen: Seen, names: Sequence[str]) -> dict[str, Any]:
    """A line of the log."""
    shares = dict(zip(names, seen.shares, strict=True))
    return {
        "kind": "pseudo", "iteration": iteration, "weight": seen.weight, "confidence": seen.confidence,
        "classes": shares,
    }  # fmt: skip


def seen_of(entry: dict[str, Any], names: Sequence[str]) -> Seen:
    """What `entry_of` wrote."""
    return Seen(tuple(entry["classes"][name] for name in names), entry["weight"], entry["confidence"])


# --- looks -------------------------------------------------------------------------------------------------


def look_at(run: Run, targets: Sequence[Sample], watch: Watch) -> bool:
    """Look at a few target images if it is time, and this iteration has not been looked at; whether it was done.

    The first process looks; the log gets the teacher's mean confidence and the share of pixels on which the student
    agrees, and the caller the teacher's label maps.
    """
    every, done = run.settings.adapt.look_every, run.iteration
    if done % every and done != run.settings.train.iterations:
        return False
    looked = [entry["iteration"] for entry in run_folder.read_log(run.folder) if entry["kind"] == "look"]
    if run.rank.rank or done in looked:
        return run.rank.rank > 0
    count = min(run.settings.adapt.look_images, len(targets))
    chosen = [targets[index * len(targets) // count] for index in range(count)]
    images = [shown_image(sample, run.settings) for sample in chosen]
    assert run.ema is not None
    run.model.eval()
    with run.ema.applied():
        taught = labels_and_confidence(run, images)
    own = labels_and_confidence(run, images)
    run.model.train()
    agreement = float(
        np.mean([(ours == theirs).mean() for (ours, _), (theirs, _) in zip(own, taught, strict=True)])
    )
    confidence = float(np.mean([sure for _, sure in taught]))
    entry = {"kind": "look", "iteration": done, "agreement": agreement, "confidence": confidence}
    run_folder.append_log(run.folder, entry)
    for number, (sample, (label, _)) in enumerate(zip(chosen, taught, strict=True), start=1):
        watch.looked(done, number, sample.image, label)
    return True


def shown_image(sample: Sample, settings: Settings) -> Tensor:
    """A target image at the size at which it is predicted: that of its dataset, of a folder that of what is scored."""
    image = read_image(sample.image)
    scored = (*settings.data.val, *settings.data.train)
    dataset = sample.dataset or parse_source(scored[0], settings.data)[0] if scored else sample.dataset
    size = eval_size(image.shape[0], image.shape[1], test_size(settings, dataset))
    return to_tensor(resize_image(image, size))


def labels_and_confidence(run: Run, images: Sequence[Tensor]) -> list[tuple[np.ndarray, float]]:
    """Label map (H, W) and mean confidence of each image, by the model as it stands."""
    predictor = Predictor(run.model, run.classes, run.settings, run.device, run.precision, in_training=True)
    found = []
    with torch.inference_mode():
        for image in images:
            scores = predictor.class_maps(image)
            sure = scores.amax(0) / scores.sum(0).clamp(min=1)
            found.append((scores.argmax(0).to(torch.uint8).cpu().numpy(), float(sure.mean())))
    return found
