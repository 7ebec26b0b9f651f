"""What an evaluation has counted, and the result as plain data: scores per domain, their mean, the protocol.

K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reincli.config import Settings
from reincli.data.layouts import corruption_of
from reincli.data.sources import parse_source
from reincli.ops.calibration import Certainty
from reincli.ops.confusion import Scores, scores
from reincli.ops.image_counts import Sparse, pack
from reincli.prediction.predict import Predictor
from reincli.settings_files import load_settings, preset_names

HEADLINE_SEVERITY = 5
"""Severity of Cityscapes-C whose mean over the corruptions is the published figure."""


@dataclass(frozen=True)
class ImageCount:
    """What was counted for one image: its place among the samples, its name, its matrix."""

    place: int
    name: str
    matrix: Sparse


@dataclass
class DomainResult:
    """What was counted for one domain: `matrix` is (K, K) int64, rows = label, columns = prediction.

    `test_size` is what was asked for, `sizes` the (height, width) at which its images were predicted.
    `certainty`: how sure its predictions were, where that was counted.
    """

    domain: str
    dataset: str
    test_size: str
    matrix: np.ndarray
    images: int = 0
    counts: list[ImageCount] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    certainty: Certainty | None = None


@dataclass
class Evaluation:
    """Results by domain, in the order met; `complete` is false while images are still to come.

    Attributes:
        mode, tta, size: of the protocol; size None: by dataset, as the settings say.
        left_out: by source, how many images could not be scored for want of a partner.
    """

    classes: tuple[str, ...]
    domains: dict[str, DomainResult] = field(default_factory=dict)
    complete: bool = False
    mode: str = "slide"
    tta: bool = False
    size: str | None = None
    left_out: dict[str, int] = field(default_factory=dict)

    def scores(self) -> dict[str, Scores]:
        """Scores by domain."""
        return {name: scores(result.matrix) for name, result in self.domains.items()}


def mean_domains(settings: Settings, evaluation: Evaluation) -> list[str]:
    """Domains that enter the mean: those that the settings name, else the corruptions at severity 5, else all."""
    there = [name for name, result in evaluation.domains.items() if result.images]
    chosen = [name for name in settings.data.mean or () if name in there]
    corrupted = [name for name in there if (corruption_of(name) or ("", 0))[1] == HEADLINE_SEVERITY]
    return chosen or corrupted or there


def report(
    predictor: Predictor, evaluation: Evaluation, checkpoint: str, sources: Sequence[str] | None = None
) -> dict[str, Any]:
    """The result as plain data, percentages unrounded; a class that does not occur is None.

    Args:
        predictor, evaluation: of `evaluate`.
        checkpoint: what it was read from.
        sources: what was scored, as NAME:SPLIT; None: the settings' `data.val`.
    """
    settings = predictor.settings
    test = settings.test
    by_domain = evaluation.scores()
    chosen = mean_domains(settings, evaluation)
    members = [by_domain[name] for name in chosen]
    sliding = evaluation.mode == "slide"
    sure = any(result.certainty is not None for result in evaluation.domains.values())
    return {
        "preset": settings.name,
        "checkpoint": checkpoint,
        "protocol": {
            "mode": evaluation.mode,
            "window": test.window if sliding else None,
            "stride": test.stride if sliding else None,
            "precision": predictor.precision,
            "tta": evaluation.tta,
            **({"temperature": predictor.temperature} if sure else {}),
            **({"scales": list(test.tta_scales), "flip": test.tta_flip} if evaluation.tta else {}),
        },
        **({"doubts": predictor.doubts} if predictor.doubts else {}),
        "complete": evaluation.complete,
        "domains": {
            name: _domain_report(evaluation.classes, result, by_domain[name])
            for name, result in evaluation.domains.items()
            if result.images
        },
        "mean": {
            "domains": chosen,
            "mIoU": _mean([member.miou for member in members]),
            "mAcc": _mean([member.macc for member in members]),
            "aAcc": _mean([member.aacc for member in members]),
            **({"ECE": _mean_error(evaluation, chosen)} if sure else {}),
        },
        "left_out": dict(evaluation.left_out),
        "published": dict(settings.published),
        "published_mean": _published_mean(settings, evaluation, chosen, sources or settings.data.val),
        "published_protocol": _as_published(settings, evaluation),
    }


def image_matrices(evaluation: Evaluation) -> dict[str, Any]:
    """Confusion matrices of single images, packed, by domain: what a comparison of two results resamples."""
    return {
        name: {
            "names": [count.name for count in domain.counts],
            "matrices": pack([count.matrix for count in domain.counts]),
        }
        for name, domain in evaluation.domains.items()
    }


def _domain_report(classes: Sequence[str], result: DomainResult, found: Scores) -> dict[str, Any]:
    return {
        "dataset": result.dataset,
        "images": result.images,
        "test_size": result.test_size,
        "predicted_at": [f"{width}x{height}" for height, width in sorted(result.sizes)],
        "mIoU": _number(found.miou),
        "mAcc": _number(found.macc),
        "aAcc": _number(found.aacc),
        "IoU": _by_class(classes, found.iou),
        "Acc": _by_class(classes, found.acc),
        **(_certainty_report(result.certainty) if result.certainty is not None else {}),
    }


def _certainty_report(found: Certainty) -> dict[str, Any]:
    """Calibration and coverage of a domain, in percent; bins without a pixel have no accuracy."""
    known, curve = found.reliability, found.coverage()
    accuracy, confidence = known.means()
    count = len(known.pixels)
    return {
        "calibration": {
            "ECE": _number(100 * known.error()),
            "accuracy": _number(100 * accuracy),
            "confidence": _number(100 * confidence),
            "bins": [
                {
                    "from": 100 * place / count,
                    "to": 100 * (place + 1) / count,
                    "pixels": int(known.pixels[place]),
                    "accuracy": _number(100 * known.accuracy[place]),
                    "confidence": _number(100 * known.confidence[place]),
                }
                for place in range(count)
            ],
        },
        "coverage": {
            "threshold": curve.threshold.tolist(),
            "coverage": (100 * curve.coverage).tolist(),
            "mIoU": curve.miou.tolist(),
            "aAcc": curve.accuracy.tolist(),
        },
    }


def _mean_error(evaluation: Evaluation, chosen: Sequence[str]) -> float | None:
    """Mean over domains of the calibration error, in percent; domains without a labelled pixel are out of it."""
    found = [evaluation.domains[name].certainty for name in chosen]
    errors = [100 * each.reliability.error() for each in found if each is not None]
    return _mean([error for error in errors if not math.isnan(error)])


def _published_mean(
    settings: Settings, evaluation: Evaluation, members: Sequence[str], sources: Sequence[str]
) -> float | None:
    """The published score that the mean stands beside, if there is one."""
    published = settings.published
    everything = {parse_source(each, settings.data)[0] for each in settings.data.val}
    if "mean" in published and set(members) == everything:
        return published["mean"]
    if members and all(name in published for name in members):
        return _mean([published[name] for name in members])
    datasets = {evaluation.domains[name].dataset for name in members}
    for source in sources if len(datasets) == 1 else ():
        dataset, split = parse_source(source, settings.data)
        own = dataset in settings.data.own  # its splits have names of their own, and no usual one
        usual = not own and split in (
            parse_source(dataset, settings.data)[1],
            f"severity{HEADLINE_SEVERITY}",
        )
        for key in (f"{dataset}:{split}", dataset if usual else ""):
            if {dataset} == datasets and key in published:
                return published[key]
    return None


def _as_published(settings: Settings, evaluation: Evaluation) -> bool:
    """Whether sizes, mode and views are those of the preset whose published scores are shown."""
    if settings.name not in preset_names():
        return False
    own = load_settings(settings.name).test
    used = settings.test
    same = (used.window, used.stride, used.sizes) == (own.window, own.stride, own.sizes)
    return same and evaluation.size is None and (evaluation.mode, evaluation.tta) == (own.mode, own.tta)


def _by_class(names: Sequence[str], values: np.ndarray) -> Mapping[str, float | None]:
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _mean(values: Sequence[float]) -> float | None:
    return _number(float(np.mean(values))) if values else None
