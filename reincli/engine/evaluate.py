"""Scores per domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from reincli.config import Settings, test_size
from reincli.data.dataset import EvalDataset, init_worker
from reincli.data.labels import IGNORE
from reincli.data.sources import Sample, find_samples, label_table
from reincli.engine.predict import Predictor
from reincli.errors import ReinError
from reincli.ops.confusion import Scores, confusion_matrix, scores
from reincli.ops.window import resized_argmax

OnImage = Callable[[Sample, np.ndarray], None]
"""(sample, (H, W) uint8 label map at the image's own size)."""


@dataclass
class DomainResult:
    """What was counted for one domain: `matrix` is (K, K) int64, rows = label, columns = prediction."""

    domain: str
    test_size: str
    matrix: np.ndarray
    images: int = 0


@dataclass
class Evaluation:
    """Results by domain, in the order met; `complete` is false while images are still to come."""

    classes: tuple[str, ...]
    domains: dict[str, DomainResult] = field(default_factory=dict)
    complete: bool = False

    def scores(self) -> dict[str, Scores]:
        """Scores by domain."""
        return {name: scores(result.matrix) for name, result in self.domains.items()}


def val_samples(settings: Settings, sources: Sequence[str] | None = None) -> list[Sample]:
    """Images with labels of the given sources, or of the settings' `data.val`."""
    chosen = list(sources) if sources else list(settings.data.val)
    return [sample for source in chosen for sample in find_samples(source, settings.data)]


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    size: str | None = None,
    mode: str | None = None,
    workers: int = 2,
    on_image: OnImage | None = None,
    into: Evaluation | None = None,
) -> Evaluation:
    """Predict at the test size, score at the size of the label.

    Args:
        predictor: the model.
        samples: images with labels.
        size: one test size for all; None: by dataset, as the settings say.
        mode: 'slide' or 'whole'; None: as the settings say.
        workers: processes that read ahead.
        on_image: called with every label map.
        into: filled as images are done, so that an interrupted run can show what it has.
    """
    settings, count = predictor.settings, len(predictor.classes)
    result = into if into is not None else Evaluation(predictor.classes.names)
    names = {sample.dataset for sample in samples}
    tables = {name: label_table(name, settings.data) for name in names}
    dataset = EvalDataset(samples, tables, settings, size)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, worker_init_fn=init_worker)
    for item in loader:
        sample: Sample = item["sample"]
        maps = predictor.class_maps(item["image"], mode)
        prediction = resized_argmax(maps, tuple(item["original_size"]))
        label = torch.as_tensor(item["label"]).to(prediction.device)
        if label.shape != prediction.shape:
            raise ReinError(
                f"The label '{sample.label}' is {label.shape[1]}x{label.shape[0]}, but its image is "
                f"{prediction.shape[1]}x{prediction.shape[0]}.",
                f"Find all such pairs: rein prepare-data {sample.dataset} --check",
            )
        if sample.domain not in result.domains:
            shown = size or test_size(settings, sample.dataset)
            result.domains[sample.domain] = DomainResult(
                sample.domain, shown, np.zeros((count, count), np.int64)
            )
        domain = result.domains[sample.domain]
        domain.matrix += confusion_matrix(prediction, label, count, IGNORE).cpu().numpy()
        domain.images += 1
        if on_image is not None:
            on_image(sample, prediction.cpu().numpy())
    result.complete = True
    return result


def mean_domains(settings: Settings, evaluation: Evaluation) -> list[str]:
    """Domains that enter the mean: those the settings name, as far as they were evaluated, else all."""
    chosen = [name for name in settings.data.mean or () if name in evaluation.domains]
    return chosen or list(evaluation.domains)


def report(
    predictor: Predictor, evaluation: Evaluation, checkpoint: str, mode: str | None = None
) -> dict[str, Any]:
    """The result as plain data, percentages unrounded; a class that does not occur is None."""
    settings = predictor.settings
    by_domain = evaluation.scores()
    members = [by_domain[name] for name in mean_domains(settings, evaluation)]
    sliding = (mode or settings.test.mode) == "slide"
    return {
        "preset": settings.name,
        "checkpoint": checkpoint,
        "protocol": {
            "mode": mode or settings.test.mode,
            "window": settings.test.window if sliding else None,
            "stride": settings.test.stride if sliding else None,
            "precision": predictor.precision,
            "tta": False,
        },
        "complete": evaluation.complete,
        "domains": {
            name: {
                "images": result.images,
                "test_size": result.test_size,
                "mIoU": _number(by_domain[name].miou),
                "mAcc": _number(by_domain[name].macc),
                "aAcc": _number(by_domain[name].aacc),
                "IoU": _by_class(evaluation.classes, by_domain[name].iou),
                "Acc": _by_class(evaluation.classes, by_domain[name].acc),
            }
            for name, result in evaluation.domains.items()
        },
        "mean": {
            "domains": mean_domains(settings, evaluation),
            "mIoU": _mean([member.miou for member in members]),
            "mAcc": _mean([member.macc for member in members]),
            "aAcc": _mean([member.aacc for member in members]),
        },
        "published": dict(settings.published),
    }


def _by_class(names: Sequence[str], values: np.ndarray) -> Mapping[str, float | None]:
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _mean(values: Sequence[float]) -> float | None:
    return _number(float(np.mean(values))) if values else None
