"""The best and the worst images of each domain, kept while an evaluation runs and drawn for its page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from reincli.commands.html_page import jpeg
from reincli.config import DataSettings
from reincli.data.labels import Classes
from reincli.data.loading import load_label
from reincli.data.sources import Sample, label_table
from reincli.media.images import read_image_like
from reincli.media.paint import colourise, error, error_rate, mistakes
from reincli.prediction.evaluate import Scored

KEPT = 5
"""Images at each end of a domain."""
WIDTH = 400
"""Pixels of a picture's width on the page."""


@dataclass(frozen=True)
class Example:
    """One image of interest: its score (mean IoU of the classes in its label, percent) and its label map as PNG."""

    score: float
    sample: Sample
    prediction: bytes


class Extremes:
    """Keeps the best and the worst images of each domain among those it is given."""

    def __init__(self) -> None:
        self.worst: dict[str, list[Example]] = {}
        self.best: dict[str, list[Example]] = {}

    def add(self, scored: Scored) -> None:
        """Look at one image; kept as long as it is among the best or the worst."""
        score = image_score(scored.matrix) if scored.matrix is not None else float("nan")
        if np.isnan(score):
            return
        worst = self.worst.setdefault(scored.domain, [])
        best = self.best.setdefault(scored.domain, [])
        if len(worst) < KEPT or score < worst[-1].score or score > best[-1].score:
            encoded = cv2.imencode(".png", scored.prediction)[1].tobytes()
            self._insert(scored.domain, Example(score, scored.sample, encoded))

    def _insert(self, domain: str, example: Example) -> None:
        # images are counted in their order: equal scores keep it, so a run gives the same page again
        self.worst[domain] = sorted([*self.worst[domain], example], key=lambda e: e.score)[:KEPT]
        self.best[domain] = sorted([*self.best[domain], example], key=lambda e: -e.score)[:KEPT]


def merge(parts: Iterable[Extremes]) -> dict[str, tuple[list[Example], list[Example]]]:
    """(worst, best) of each domain over the parts of several processes; no image is in both."""
    everything: dict[str, dict[str, Example]] = {}
    for part in parts:
        for kept in (part.worst, part.best):
            for domain, examples in kept.items():
                everything.setdefault(domain, {}).update({e.sample.name: e for e in examples})
    ends = {}
    for domain, found in everything.items():
        ordered = sorted(found.values(), key=lambda e: (e.score, e.sample.name))
        low = min(KEPT, -(-len(ordered) // 2))
        high = min(KEPT, len(ordered) - low)
        ends[domain] = (ordered[:low], ordered[len(ordered) - high :][::-1])
    return ends


def image_score(matrix: np.ndarray) -> float:
    """Mean IoU in percent over the classes that the image's label holds; NaN where nothing is labelled.

    A class that only the prediction holds counts against those it was taken from, not as a class of its own: a
    single stray pixel would else cost as much as a missed car.
    """
    labelled = matrix.sum(1)
    there = labelled > 0
    if not there.any():
        return float("nan")
    hit = np.diag(matrix)
    union = labelled + matrix.sum(0) - hit
    return float(100 * (hit[there] / union[there]).mean())


@dataclass(frozen=True)
class Panel:
    """A picture on the page: what it shows, and its file (JPEG or PNG)."""

    title: str
    kind: str
    data: bytes


@dataclass(frozen=True)
class Drawing:
    """One example on the page: its pictures, and its commonest mistakes ('road as sidewalk 12.0%')."""

    panels: list[Panel]
    mistakes: list[str]


def draw(example: Example, classes: Classes, data: DataSettings) -> Drawing:
    """Image, label, prediction and error map of one example, all of one width."""
    sample = example.sample
    label = load_label(sample, label_table(sample.dataset, data))
    image = read_image_like(sample.image, (label.shape[0], label.shape[1]))
    prediction = np.asarray(
        cv2.imdecode(np.frombuffer(example.prediction, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8
    )
    palette = classes.palette()
    panels = [
        Panel("image", "jpeg", jpeg(image, WIDTH)),
        Panel("label", "png", _png(colourise(label, palette))),
        Panel("prediction", "png", _png(colourise(prediction, palette))),
        Panel(
            f"error: {error_rate(prediction, label):.1%} wrong",
            "jpeg",
            jpeg(error(image, prediction, label), WIDTH),
        ),
    ]
    names = classes.names
    told = [
        f"{names[right]} as {names[drawn]} {share:.1%}" for right, drawn, share in mistakes(prediction, label)
    ]
    return Drawing(panels, told)


def _png(picture: np.ndarray) -> bytes:
    """Class colours stay as they are: nearest pixels, no losses."""
    height = max(1, round(picture.shape[0] * WIDTH / picture.shape[1]))
    small = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_NEAREST)
    small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", small, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
