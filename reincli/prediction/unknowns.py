"""Scoring how well a model tells unknown objects from what it knows: the pixels of a source are one pool.

Shapes: (H, W) an image, (K, h, w) the scores of its classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reincli.config import test_size
from reincli.data.dataset import EvalDataset
from reincli.data.sources import Sample
from reincli.data.unknowns import Unknowns
from reincli.engine.ranks import Rank
from reincli.ops.anomaly import resized_anomaly
from reincli.ops.confidence import resized_confidence
from reincli.ops.pooled import Figures, Pool, image_figures
from reincli.prediction.evaluate import READERS, predicted_maps
from reincli.prediction.predict import Predictor
from reincli.prediction.stream import each_of


@dataclass(frozen=True)
class ScoredUnknown:
    """One image that is done.

    Attributes:
        sample: the image. source: name under which it was counted. place: among the samples of its source.
        anomaly, confidence: (H, W) float32. label: (H, W) uint8, 0 known, 1 unknown, 255 left out.
        figures: of the anomaly in this image alone; NaN where it has no unknown pixel.
        size: (height, width) at which it was predicted.
    """

    sample: Sample
    source: str
    place: int
    anomaly: np.ndarray
    confidence: np.ndarray
    label: np.ndarray
    figures: Figures
    size: tuple[int, int]


@dataclass
class UnknownResult:
    """What was counted for one source; `images` holds (place, name, figures) of each.

    `pool` is of the anomaly; `unsure` of minus the confidence: what every model has, and the anomaly has to beat.
    """

    name: str
    test_size: str
    pool: Pool = field(default_factory=Pool)
    unsure: Pool = field(default_factory=Pool)
    images: list[tuple[int, str, Figures]] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)


@dataclass
class UnknownEvaluation:
    """Results by source; `complete` is false while images are still to come."""

    sources: dict[str, UnknownResult] = field(default_factory=dict)
    complete: bool = False
    mode: str = "slide"


def evaluate_unknowns(
    predictor: Predictor,
    sources: Sequence[Unknowns],
    *,
    size: str | None = None,
    mode: str | None = None,
    workers: int | None = None,
    on_image: Callable[[ScoredUnknown], None] | None = None,
    into: UnknownEvaluation | None = None,
    rank: Rank = Rank(),
) -> UnknownEvaluation:
    """Predict at the test size, take the anomaly at the size of the label, and pool its pixels by source.

    Args:
        predictor: the model. sources: of `data.unknowns`. The same in every process.
        size: one test size for all; None: the size of the images, unless the settings have another for a source.
        mode: 'slide' or 'whole'; None: as the settings say.
        workers: threads that read ahead; None: one a core, up to 8; 0: everything in this thread.
        on_image: called with every image, in this thread and in their order.
        into: filled as images are done. rank: as of `evaluate.evaluate`.

    Raises:
        ReinError: a file that is unreadable or does not fit; a predictor without scores; out of memory.
    """
    predictor.require_scores()
    settings = predictor.settings
    result = into if into is not None else UnknownEvaluation()
    result.mode = mode or settings.test.mode
    for source in sources:
        result.sources[source.name] = UnknownResult(source.name, size or test_size(settings, source.name))
    for source in sources:
        found = result.sources[source.name]
        with closing(_scored(predictor, source, size, result.mode, workers, rank)) as images:
            for each in images:
                found.pool.add(each.anomaly, each.label)
                found.unsure.add(-each.confidence, each.label)
                found.images.append((each.place, each.sample.name, each.figures))
                found.sizes.add(each.size)
                if on_image is not None:
                    on_image(each)
    if rank.world > 1:
        _sum_over_processes(result, rank)
    result.complete = True
    return result


def _scored(
    predictor: Predictor, source: Unknowns, size: str | None, mode: str, workers: int | None, rank: Rank
) -> Generator[ScoredUnknown]:
    places = rank.share(range(len(source.samples)))
    mine = [source.samples[place] for place in places]
    tables = {sample.dataset: source.table for sample in mine}
    dataset = EvalDataset(mine, tables, predictor.settings, size)
    threads = min(READERS, os.cpu_count() or 1) if workers is None else workers

    @torch.inference_mode()
    def count(found: tuple[int, tuple[dict[str, Any], Tensor]]) -> ScoredUnknown:
        place, (item, maps) = found
        strange = resized_anomaly(maps, item["original_size"]).cpu().numpy()
        predictor.require_numbers(np.isfinite(strange).all())
        sure = resized_confidence(maps, item["original_size"]).clamp(max=1).cpu().numpy()
        figures = image_figures(strange, item["label"])
        return ScoredUnknown(
            item["sample"], source.name, place, strange, sure, item["label"], figures, item["size"]
        )

    with (
        closing(each_of(dataset.__getitem__, range(len(mine)), threads, threads + 2)) as items,
        closing(predicted_maps(predictor, items, mode)) as found,
        closing(each_of(count, zip(places, found, strict=True), min(threads, 1), 2)) as counted,
    ):
        yield from counted


def _sum_over_processes(result: UnknownEvaluation, rank: Rank) -> None:
    """Add up what every process has counted; afterwards all have the same."""
    gathered = rank.gather(result.sources)
    for name, found in result.sources.items():
        parts = [part[name] for part in gathered]
        found.pool, found.unsure = Pool(), Pool()
        for part in parts:
            found.pool += part.pool
            found.unsure += part.unsure
        found.images = sorted((each for part in parts for each in part.images), key=lambda each: each[0])
        found.sizes = set().union(*(part.sizes for part in parts))


# --- as plain data -----------------------------------------------------------------------------------------


def report_unknowns(predictor: Predictor, evaluation: UnknownEvaluation, checkpoint: str) -> dict[str, Any]:
    """The result as plain data, percentages unrounded; what is not defined is None."""
    test, sliding = predictor.settings.test, evaluation.mode == "slide"
    return {
        "preset": predictor.settings.name,
        "checkpoint": checkpoint,
        "protocol": {
            "mode": evaluation.mode,
            "window": test.window if sliding else None,
            "stride": test.stride if sliding else None,
            "precision": predictor.precision,
            "tta": False,
        },
        **({"doubts": predictor.doubts} if predictor.doubts else {}),
        "complete": evaluation.complete,
        "unknown": {
            name: _source_report(found) for name, found in evaluation.sources.items() if found.images
        },
    }


def _source_report(found: UnknownResult) -> dict[str, Any]:
    figures, curve = found.pool.figures(), found.pool.curve()
    loose = dict(zip(("AP", "AUROC", "FPR95"), figures.uncertainty, strict=True))
    return {
        "images": len(found.images),
        "with_unknown": sum(1 for _, _, each in found.images if each.unknown),
        "test_size": found.test_size,
        "predicted_at": [f"{width}x{height}" for height, width in sorted(found.sizes)],
        "pixels": {"known": figures.known, "unknown": figures.unknown},
        **_percentages(figures),
        "chance_AP": _number(100 * figures.chance),
        "confidence": _percentages(found.unsure.figures()),
        "threshold": _number(figures.threshold),
        "uncertainty": {name: 100 * value for name, value in loose.items()},
        "curve": {
            "recall": curve.recall.tolist(),
            "precision": curve.precision.tolist(),
            "fpr": curve.fpr.tolist(),
        },
        "per_image": {
            name: {"known": each.known, "unknown": each.unknown, **_percentages(each)}
            for _, name, each in found.images
        },
    }


def _percentages(figures: Figures) -> dict[str, float | None]:
    values = {"AP": figures.ap, "AUROC": figures.auroc, "FPR95": figures.fpr95}
    return {name: _number(100 * value) for name, value in values.items()}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
