"""Scores per domain: predict at the test size, score at the size of the label.

Files are read in threads ahead of the model, and what follows it (resizing to the label's size, argmax, counting) runs
in a thread beside it. K classes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reincli.config import Settings, test_size
from reincli.data.dataset import EvalDataset
from reincli.data.labels import CITYSCAPES, IGNORE
from reincli.data.sources import Sample, each_once, find_samples, label_table, prepare_command
from reincli.engine.ranks import Rank
from reincli.errors import ReinError
from reincli.ops.calibration import Certainty
from reincli.ops.confidence import resized_confidence
from reincli.ops.confusion import confusion_matrix
from reincli.ops.image_counts import sparse
from reincli.ops.window import ViewAverage, resized_argmax
from reincli.prediction.predict import Predictor
from reincli.prediction.results import DomainResult, Evaluation, ImageCount
from reincli.prediction.stream import each_of

Found = tuple[dict[str, Any], Callable[[], Tensor], Callable[[], Tensor] | None]
"""An item of `EvalDataset`, what gives its label map, and what gives its confidence."""
READERS = 8
"""Most threads that read files ahead of the model."""


@dataclass(frozen=True)
class Scored:
    """One image that is done.

    Attributes:
        sample: the image. domain: where it was counted.
        prediction: (H, W) uint8 label map at the image's own size.
        matrix: (K, K) int64, rows = label, columns = prediction; None where the image has no label.
        certainty: how sure its labelled pixels are, where that is counted.
    """

    sample: Sample
    domain: str
    prediction: np.ndarray
    matrix: np.ndarray | None
    size: tuple[int, int]
    certainty: Certainty | None = None


# --- what is scored ----------------------------------------------------------------------------------------


def val_samples(settings: Settings, sources: Sequence[str] | None = None) -> list[Sample]:
    """Images with labels of the given sources, or of the settings' `data.val`."""
    chosen = list(sources) if sources else list(settings.data.val)
    return each_once([(source, find_samples(source, settings.data)) for source in chosen], settings.data)


def domain_names(samples: Sequence[Sample]) -> dict[tuple[str, str], str]:
    """The name under which each (dataset, domain) is scored: its domain, or with the dataset where two share it."""
    pairs = dict.fromkeys((sample.dataset, sample.domain) for sample in samples)
    domains = [domain for _, domain in pairs]
    return {pair: pair[1] if domains.count(pair[1]) == 1 else ":".join(pair) for pair in pairs}


def require_classes(predictor: Predictor, samples: Sequence[Sample]) -> None:
    """ReinError where a dataset has other classes than the model."""
    own, names = predictor.settings.data.own, predictor.classes.names
    for dataset in dict.fromkeys(sample.dataset for sample in samples):
        there = tuple(c.name for c in own[dataset].classes) if dataset in own else CITYSCAPES.names
        if there != names:
            raise ReinError(
                f"The model has {len(names)} classes ({_few(names)}), the dataset '{dataset}' has {len(there)} "
                f"({_few(there)}).",
                "Score it on data of its own classes, in their order: --data NAME.",
                usage=True,
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


# --- the evaluation ----------------------------------------------------------------------------------------


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    size: str | None = None,
    mode: str | None = None,
    tta: bool | None = None,
    workers: int | None = None,
    on_image: Callable[[Scored], None] | None = None,
    into: Evaluation | None = None,
    rank: Rank = Rank(),
    certainty: bool = False,
) -> Evaluation:
    """Predict at the test size, score at the size of the label.

    Args:
        predictor: the model.
        samples: images; those without label are predicted and not scored. The same in every process.
        size: one test size for all; None: by dataset, as the settings say.
        mode: 'slide' or 'whole'; None: as the settings say. tta: average over views; None: as the settings say.
        workers: threads that read ahead; None: one a core, up to 8; 0: everything in this thread.
        on_image: called with every image, in this thread and in their order.
        into: filled as images are done, so that an interrupted run can show what it has.
        rank: which of several processes this is. Each takes its share of the samples; at the end all have the sums,
            for which the process group has to be there.
        certainty: count how sure predictions are, too. Not with `tta`: averages of views are no scores.

    Raises:
        ReinError: classes that differ; a file that is unreadable or does not fit, named; out of memory.
    """
    settings = predictor.settings
    result = into if into is not None else Evaluation(predictor.classes.names)
    result.mode, result.size = mode or settings.test.mode, size
    result.tta = settings.test.tta if tta is None else tta
    require_classes(predictor, samples)
    if certainty:
        predictor.require_scores()
        if result.tta:
            raise ValueError("averages of views have no calibration")
    names = domain_names([sample for sample in samples if sample.label is not None])
    _open_domains(result, samples, names, settings, certainty)
    places = rank.share(range(len(samples)))
    mine = [samples[place] for place in places]
    tables = {name: label_table(name, settings.data) for name in {sample.dataset for sample in mine}}
    dataset = EvalDataset(mine, tables, settings, size, settings.test.tta_scales if result.tta else (1.0,))
    threads = min(READERS, os.cpu_count() or 1) if workers is None else workers
    with (
        closing(each_of(dataset.__getitem__, range(len(mine)), threads, threads + 2)) as items,
        closing(_predicted(predictor, items, result.mode, result.tta, certainty)) as found,
        closing(each_of(partial(_count, predictor, names), found, min(threads, 1), 2)) as counted,
    ):
        for place, scored in zip(places, counted, strict=True):
            if scored.matrix is not None:
                domain = result.domains[scored.domain]
                domain.matrix += scored.matrix
                domain.images += 1
                domain.sizes.add(scored.size)
                if domain.certainty is not None and scored.certainty is not None:
                    domain.certainty += scored.certainty
                domain.counts.append(ImageCount(place, scored.sample.name, sparse(scored.matrix)))
            if on_image is not None:
                on_image(scored)
    if rank.world > 1:
        _sum_over_processes(result, rank)
    result.complete = True
    return result


def _open_domains(
    result: Evaluation,
    samples: Sequence[Sample],
    names: Mapping[tuple[str, str], str],
    settings: Settings,
    certainty: bool,
) -> None:
    count = len(result.classes)
    for sample in samples:
        name = names.get((sample.dataset, sample.domain))
        if name is not None and name not in result.domains:
            shown = result.size or test_size(settings, sample.dataset)
            domain = DomainResult(name, sample.dataset, shown, np.zeros((count, count), np.int64))
            domain.certainty = Certainty.empty(count) if certainty else None
            result.domains[name] = domain


def _predicted(
    predictor: Predictor, items: Iterable[dict[str, Any]], mode: str, tta: bool, certainty: bool
) -> Generator[Found]:
    """Each item with what gives its (H, W) label map and, if wanted, its confidence, on the device."""
    waiting: deque[dict[str, Any]] = deque()
    mirrored = (False, True) if tta and predictor.settings.test.tta_flip else (False,)

    def views() -> Iterator[Tensor]:
        for item in items:
            require_label_size(item)
            waiting.append(item)
            for image in item["images"]:
                yield from (image.flip(-1) if mirror else image for mirror in mirrored)

    stream = predictor.stream(views(), mode)
    for maps in stream:
        item = waiting.popleft()
        size = item["original_size"]
        if not tta:
            sure = partial(resized_confidence, maps, size, temperature=predictor.temperature)
            yield item, partial(resized_argmax, maps, size), sure if certainty else None
            continue
        average = ViewAverage(len(predictor.classes), size, predictor.device)
        for index in range(len(item["images"]) * len(mirrored)):
            average.add(maps if index == 0 else next(stream), mirrored=mirrored[index % len(mirrored)])
        yield item, average.label, None


def predicted_maps(
    predictor: Predictor, items: Iterable[dict[str, Any]], mode: str
) -> Generator[tuple[dict[str, Any], Tensor]]:
    """Each item of `EvalDataset` with the scores (K, h, w) of its first view, on the device."""
    waiting: deque[dict[str, Any]] = deque()

    def views() -> Iterator[Tensor]:
        for item in items:
            require_label_size(item)
            waiting.append(item)
            yield item["images"][0]

    for maps in predictor.stream(views(), mode):
        yield waiting.popleft(), maps


def require_label_size(item: dict[str, Any]) -> None:
    """ReinError where the label of an item of `EvalDataset` has another size than its image."""
    sample, label, (height, width) = item["sample"], item["label"], item["original_size"]
    if label is not None and label.shape != (height, width):
        raise ReinError(
            f"The label '{sample.label}' is {label.shape[1]}x{label.shape[0]}, but its image is {width}x{height}.",
            f"Find all such pairs: {prepare_command(sample)} --check",
        )


@torch.inference_mode()
def _count(
    predictor: Predictor,
    names: Mapping[tuple[str, str], str],
    found: Found,
) -> Scored:
    item, label_map, confidence = found
    sample: Sample = item["sample"]
    prediction = label_map()
    shown = predictor.on_host(prediction)
    matrix = certainty = None
    if item["label"] is not None:
        label = torch.as_tensor(item["label"]).to(prediction.device)
        matrix = confusion_matrix(prediction, label, len(predictor.classes), IGNORE).cpu().numpy()
        if confidence is not None:
            counted = label != IGNORE
            maps = (confidence(), prediction.long(), label.long())
            certainty = Certainty.empty(len(predictor.classes))
            certainty.add(*(each[counted].cpu().numpy() for each in maps))
    domain = names.get((sample.dataset, sample.domain), sample.domain)
    return Scored(sample, domain, shown, matrix, item["size"], certainty)


def _sum_over_processes(result: Evaluation, rank: Rank) -> None:
    """Add up what every process has counted; afterwards all have the same."""
    import torch.distributed as distributed

    if not distributed.is_initialized():
        raise RuntimeError("several processes share an evaluation, but they form no process group")
    gathered = rank.gather(result.domains)
    for name, domain in result.domains.items():
        parts = [part[name] for part in gathered]
        domain.matrix = sum((part.matrix for part in parts), np.zeros_like(domain.matrix))
        domain.images = sum(part.images for part in parts)
        certainties = [part.certainty for part in parts if part.certainty is not None]
        domain.certainty = sum(certainties[1:], certainties[0]) if certainties else None
        domain.sizes = set().union(*(part.sizes for part in parts))
        domain.counts = sorted((c for part in parts for c in part.counts), key=lambda count: count.place)
