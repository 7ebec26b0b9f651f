"""Fitting the one temperature of a model on labelled images, and trying it on others of the same domains.

Every second image of a domain is held out: it takes no part in the fit, and says what the temperature is worth.
K classes, (H, W) an image, P pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from reincli.data.dataset import EvalDataset
from reincli.data.labels import IGNORE
from reincli.data.sources import Sample, label_table
from reincli.errors import ReinError
from reincli.ops.calibration import Reliability, fit_temperature
from reincli.ops.confidence import outcomes, resized_confidence
from reincli.ops.resample import resized_bands
from reincli.ops.window import resized_argmax
from reincli.prediction.evaluate import READERS, domain_names, predicted_maps, require_classes
from reincli.prediction.predict import Predictor
from reincli.prediction.stream import each_of

MOST_PIXELS, MOST_OF_AN_IMAGE, LEAST_OF_AN_IMAGE = 2**19, 4096, 64
"""Pixels that a temperature is fitted to, and those of one image among them: drawn at random, always the same."""
ROWS = 64


@dataclass
class Fit:
    """What came of it.

    Attributes:
        temperature: the best on the images that it was fitted on. fitted, held_out: how many images.
        before, after: reliability on those held out, by domain: at temperature 1, and at the fitted one.
    """

    temperature: float
    fitted: int
    held_out: int
    before: dict[str, Reliability] = field(default_factory=dict)
    after: dict[str, Reliability] = field(default_factory=dict)

    def errors(self) -> tuple[float, float]:
        """Expected calibration error over all held-out pixels, before and after, 0-1."""
        return _total(self.before).error(), _total(self.after).error()


def halves(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Images to fit on, and those held out: of each domain every second one.

    Raises:
        ReinError: no domain has two images.
    """
    names = domain_names(samples)
    domains: dict[str, list[Sample]] = {}
    for sample in samples:
        domains.setdefault(names[sample.dataset, sample.domain], []).append(sample)
    fitted = [sample for each in domains.values() for sample in each[::2]]
    held_out = [sample for each in domains.values() for sample in each[1::2]]
    if not held_out:
        raise ReinError(
            f"A temperature needs two labelled images of a domain, to fit and to try; there are {len(samples)}.",
            "Give more: --data NAME:SPLIT.",
            usage=True,
        )
    return fitted, held_out


def fit(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    size: str | None = None,
    mode: str | None = None,
    workers: int | None = None,
    on_image: Callable[[str], None] | None = None,
) -> Fit:
    """Fit on half of the images and try on the other half; each image is predicted once.

    Args:
        predictor: the model; a temperature that it has already is not looked at.
        samples: with labels. size, mode, workers: as of `evaluate.evaluate`.
        on_image: called with the domain of every image that is done.

    Raises:
        ReinError: too few images, no labelled pixel, files that do not fit.
    """
    predictor.require_scores()
    require_classes(predictor, samples)
    fitted, held_out = halves(samples)
    names = domain_names(samples)
    tell = on_image or (lambda domain: None)
    share = max(LEAST_OF_AN_IMAGE, min(MOST_OF_AN_IMAGE, MOST_PIXELS // len(fitted)))
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    for place, (sample, maps, label) in enumerate(_each(predictor, fitted, size, mode, workers)):
        drawn.append(draw_pixels(maps, label, share, np.random.default_rng([0, place])))
        tell(names[sample.dataset, sample.domain])
    labels = np.concatenate([label for _, label in drawn])
    if not len(labels):
        raise ReinError(
            f"No pixel of the {len(fitted)} images to fit on has a class.",
            "Look at the labels: rein prepare-data NAME --check",
        )
    result = Fit(
        fit_temperature(np.concatenate([each for each, _ in drawn]), labels), len(fitted), len(held_out)
    )
    for sample, maps, label in _each(predictor, held_out, size, mode, workers):
        domain = names[sample.dataset, sample.domain]
        for kept, temperature in ((result.before, 1.0), (result.after, result.temperature)):
            kept.setdefault(domain, Reliability()).add(*_sure_and_right(maps, label, temperature))
        tell(domain)
    return result


def draw_pixels(
    maps: Tensor, label: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and labels of some labelled pixels of an image.

    Args:
        maps: (K, h, w) scores. label: (H, W) class indices, 255 not labelled. most: how many pixels at most.

    Returns:
        (P, K + 1) float32 and (P,) int64, for `ops.calibration.fit_temperature`.
    """
    labelled = np.flatnonzero(label.ravel() != IGNORE)
    if len(labelled) > most:
        labelled = np.sort(rng.choice(labelled, most, replace=False))
    width = label.shape[1]
    found = []
    for part, band in resized_bands(maps, (label.shape[0], width), ROWS):
        first, last = np.searchsorted(labelled, (part.start * width, part.stop * width))
        here = torch.from_numpy(labelled[first:last] - part.start * width).to(maps.device)
        found.append(outcomes(band.reshape(len(maps), -1)[:, here]).cpu().numpy())
    return np.concatenate(found), label.ravel()[labelled].astype(np.int64)


def _sure_and_right(maps: Tensor, label: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether the prediction is right, of the labelled pixels."""
    size = (label.shape[0], label.shape[1])
    counted = label != IGNORE
    right = resized_argmax(maps, size).cpu().numpy() == label
    return resized_confidence(maps, size, temperature=temperature).cpu().numpy()[counted], right[counted]


def _each(
    predictor: Predictor, samples: Sequence[Sample], size: str | None, mode: str | None, workers: int | None
) -> Generator[tuple[Sample, Tensor, np.ndarray]]:
    """Every image with its scores and its label."""
    settings = predictor.settings
    tables = {name: label_table(name, settings.data) for name in {sample.dataset for sample in samples}}
    dataset = EvalDataset(samples, tables, settings, size)
    threads = min(READERS, os.cpu_count() or 1) if workers is None else workers
    with (
        closing(each_of(dataset.__getitem__, range(len(samples)), threads, threads + 2)) as items,
        closing(predicted_maps(predictor, items, mode or settings.test.mode)) as found,
    ):
        for item, maps in found:
            predictor.require_numbers(bool(torch.isfinite(maps.sum())))
            yield item["sample"], maps, item["label"]


def _total(found: Mapping[str, Reliability]) -> Reliability:
    return sum(found.values(), Reliability())
