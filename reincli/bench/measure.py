"""How fast a model predicts and trains here, what memory it takes, and where the time goes.

What is measured is what the commands run: the predictor of `rein eval`, the step of `rein train`. Weights are random
unless files are given; they do not change the work. Images and labels are random too. What is predicted waits on the
device; a training batch waits on the host, as the loader leaves it.

The rate that a share refers to is that of a large matrix product in the same process and precision: what the device
multiplies at best. FLOPs are counted by torch's counter, on the model as it stands uncompiled. The sampling within
deformable attention, elementwise work and the losses' point sampling are not in them, in whatever form they run; at
the head's sizes sampling would add a few thousandths.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from reincli.bench.speed import count_flops, matrix_rate, timings
from reincli.bench.stopwatch import Stopwatch, timed_adapters, watching
from reincli.config import Settings
from reincli.data.labels import Classes
from reincli.data.sources import classes_of
from reincli.engine import checkpoint as checkpoints
from reincli.engine.backbone_files import load_backbone
from reincli.engine.device import (
    current,
    forget_peak,
    full_fp32,
    is_out_of_memory,
    memory_in_use,
    peak_memory,
    release_cache,
    wait_for,
)
from reincli.model.segmentor import Segmentor
from reincli.ops.parts import heard_by
from reincli.prediction.predict import Predictor, load_model
from reincli.prediction.windows import OutOfMemoryError
from reincli.settings_files import build_settings
from reincli.training.run import Run, new_run
from reincli.training.step import train_step

WORK = ("inference", "slide", "training")
BLOCK = 16
"""Side in pixels of the patches of one class in random labels."""
WARM_UP, INSTRUMENTED = {"cuda": 4, "mps": 4, "cpu": 1}, {"cuda": 3, "mps": 3, "cpu": 1}
"""Calls before the clock runs (counting FLOPs is one more), and calls by part. A graph is recorded in the second."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        settings: of the model. device: where.
        what: of `WORK`. batches: images at a time. precisions: 'fp32', 'bf16', 'fp16'.
        size: (width, height) of the image that is predicted by windows.
        runs: calls that are timed, at most. seconds: after which no further call of a row is begun.
        checkpoint, backbone: weights; None: random ones.
        any_backbone: the two need not belong together.
        attentions: of `model.backbone.attention`, one after another; none: as the settings say.
        by_part: whether each row is run once more, cut into parts.
    """

    settings: Settings
    device: torch.device
    what: tuple[str, ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    size: tuple[int, int]
    runs: int
    seconds: float
    checkpoint: Path | None = None
    backbone: Path | None = None
    any_backbone: bool = False
    attentions: tuple[str, ...] = ()
    by_part: bool = True

    @property
    def compiled(self) -> bool:
        """Whether anything of it is compiled."""
        return self.settings.train.compile or self.settings.test.compile

    @property
    def rows(self) -> int:
        """How many there will be."""
        return len(self.what) * len(self.batches) * len(self.precisions) * max(len(self.attentions), 1)


@dataclass(frozen=True)
class Row:
    """One kind of work at one batch size and precision.

    Attributes:
        what, batch, precision: which. size: 'WxH' of an image.
        runs: calls that were timed.
        median, least, p90: seconds of a call.
        images: a second, by the median.
        memory: peak in bytes; on the CPU what the process grew by since the measuring began.
        flops: of a call. rate: FLOP/s of a large matrix product. share: of that rate, 0 to 1.
        first: seconds of the first call: with compilation, where that was asked for.
        parts: seconds by part of an instrumented call (uncompiled); they sum to that whole call.
        note: what is to be known. failure: why there are no numbers. attention: of the backbone's blocks.
    """

    what: str
    batch: int
    precision: str
    size: str
    runs: int = 0
    median: float | None = None
    least: float | None = None
    p90: float | None = None
    images: float | None = None
    memory: int | None = None
    flops: int | None = None
    rate: float | None = None
    share: float | None = None
    first: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    note: str = ""
    failure: str = ""
    attention: str = "auto"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; units in the names."""
        names = {"median": "median_s", "least": "min_s", "p90": "p90_s", "images": "images_per_s",
                 "memory": "peak_bytes", "rate": "matrix_flops_per_s", "first": "first_call_s",
                 "parts": "parts_s"}  # fmt: skip
        return {names.get(name, name): value for name, value in asdict(self).items()}


def measure(plan: Plan) -> Iterator[Row]:
    """Measure row after row. Where memory runs out the row says so, and the others go on."""
    base = memory_in_use(plan.device) if plan.device.type == "cpu" else 0
    for precision in plan.precisions:
        with current(plan.device):
            rate = matrix_rate(precision, plan.device)
        for what in plan.what:
            for batch in plan.batches:
                for chosen in _by_attention(plan):
                    empty = Row(what, batch, precision, _size_text(plan, what), rate=rate)
                    attention = chosen.settings.model.backbone.attention
                    yield replace(_row(chosen, empty, base), attention=attention)


def _by_attention(plan: Plan) -> Iterator[Plan]:
    """The plan for each attention in turn: rows to compare stand beside each other, and heat is shared alike."""
    if not plan.attentions:
        yield plan
    for attention in plan.attentions:
        options = {"model.backbone.attention": attention}
        settings = build_settings(plan.settings.model_dump(mode="json"), (), options)
        yield replace(plan, settings=settings)


def _row(plan: Plan, row: Row, base: int) -> Row:
    """One row; whatever it took is given back."""
    try:
        with current(plan.device):
            return _measured(plan, row, base)
    except (RuntimeError, MemoryError, OutOfMemoryError) as error:
        if not (isinstance(error, OutOfMemoryError) or is_out_of_memory(error)):
            raise
    finally:
        _give_back(plan)
    return Row(row.what, row.batch, row.precision, row.size, rate=row.rate, failure="out of memory")


def _measured(plan: Plan, row: Row, base: int) -> Row:
    work = Training(plan, row) if row.what == "training" else Inference(plan, row)
    with full_fp32(plan.device):
        with work.uncompiled():
            flops = count_flops(work.call)
        begun = time.perf_counter()
        work.call()
        wait_for(plan.device)
        first = time.perf_counter() - begun
        for _ in range(WARM_UP[plan.device.type] - 1):
            work.call()
        forget_peak(plan.device)
        seconds = timings(work.call, plan.device, plan.runs, plan.seconds)
        memory = max(peak_memory(plan.device) - base, 0)
        with work.uncompiled():
            parts = work.parts() if plan.by_part else {}
    median = statistics.median(seconds)
    return Row(
        row.what, row.batch, row.precision, row.size, len(seconds), median, min(seconds), _p90(seconds),
        row.batch / median, memory, flops, row.rate, flops / median / row.rate if row.rate else None, first,
        parts, work.note(),
    )  # fmt: skip


# --- kinds of work -----------------------------------------------------------------------------------------


class Inference:
    """A batch of images to label maps on the device, whole or by windows."""

    def __init__(self, plan: Plan, row: Row) -> None:
        self.device, self.mode = plan.device, "slide" if row.what == "slide" else "whole"
        whole = {"test.window_batch": row.batch} if self.mode == "whole" else {}
        settings = build_settings(plan.settings.model_dump(mode="json"), (), whole)
        model, classes = build(plan, settings)
        model.requires_grad_(False)  # torch's counter trips over parameters that seem to want gradients
        self.said: list[str] = []
        self.predictor = Predictor(model, classes, settings, plan.device, row.precision)
        self.predictor.tell = self.said.append
        width, height = map(int, row.size.split("x"))
        shape = (row.batch, 3, height, width)
        self.images = list(torch.randint(0, 256, shape, dtype=torch.uint8, device=plan.device))

    def call(self) -> object:
        """All images once."""
        labels = self.predictor.labels_of(self.images, self.mode)
        if self.mode == "whole" and self.predictor.budget.most_pixels is not None:
            raise OutOfMemoryError(self.said[-1])  # it went on with a smaller batch: no row of this batch
        return labels

    def parts(self) -> dict[str, float]:
        """Seconds by part of one call."""
        predictor, folded = self.predictor, self.predictor.folded

        def instrumented(watch: Stopwatch) -> None:
            predictor.folded = timed_adapters(folded, watch)  # type: ignore[assignment]  # it has their form
            self.call()

        try:
            return by_part(predictor.model, instrumented, self.device)
        finally:
            predictor.folded = folded

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """While it lasts, the model runs as it is: its parts and products can be told apart then."""
        network, replay = self.predictor.network, self.predictor.replay
        self.predictor.network, self.predictor.replay = self.predictor.model, None
        try:
            yield
        finally:
            self.predictor.network, self.predictor.replay = network, replay

    def note(self) -> str:
        """What the predictor said."""
        return " ".join([*self.predictor.notes, *self.said])


class Training:
    """A step of the optimiser on one batch of random crops."""

    def __init__(self, plan: Plan, row: Row) -> None:
        options = {"train.batch_size": row.batch}
        settings = build_settings(plan.settings.model_dump(mode="json"), (), options)
        model, classes = build(plan, settings)
        self.said: list[str] = []
        self.run: Run = new_run(
            settings,
            Path(),
            model,
            classes,
            device=plan.device,
            precision=row.precision,
            note=self.said.append,
        )
        self.run.model.train()
        self.images = row.batch
        self.slices = random_slices(self.run)

    def call(self) -> object:
        """One step."""
        return train_step(self.run, self.slices)

    def parts(self) -> dict[str, float]:
        """Seconds by part of one step."""
        return by_part(self.run.model, lambda watch: self.call(), self.run.device)

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """As of `Inference`."""
        network, self.run.network = self.run.network, self.run.model
        try:
            yield
        finally:
            self.run.network = network

    def note(self) -> str:
        """What the run said: that its passes could not be recorded."""
        return " ".join(self.said)


def build(plan: Plan, settings: Settings) -> tuple[Segmentor, Classes]:
    """The model with its weights: from files where they were given, else random, made on the device."""
    if plan.checkpoint is not None:
        loaded = load_model(plan.checkpoint, plan.backbone, settings, plan.any_backbone)
        return loaded.model, loaded.classes
    classes = classes_of(settings.data)
    torch.manual_seed(settings.train.seed)
    with plan.device:
        model = checkpoints.build_model(settings, len(classes))
    if plan.backbone is not None:
        load_backbone(model, plan.backbone)
    return model, classes


def random_slices(run: Run) -> list[dict[str, Any]]:
    """A batch as the loader gives it: images and labels on the host, pinned for a GPU; labels in blocks."""
    side, count = run.settings.data.augment.crop, run.slice_size
    blocks = -(-side // BLOCK)
    slices = []
    for _ in range(run.settings.train.accumulate):
        label = torch.randint(0, len(run.classes), (count, blocks, blocks), dtype=torch.uint8)
        tall = label.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
        piece = {
            "image": torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8),
            "label": tall[:, :side, :side].contiguous(),
            "size": torch.tensor([[side, side]] * count),
        }
        on_gpu = run.device.type == "cuda"
        slices.append({name: each.pin_memory() if on_gpu else each for name, each in piece.items()})
    return slices


# --- on the way -------------------------------------------------------------------------------------------


def by_part(model: Segmentor, call: Callable[[Stopwatch], object], device: torch.device) -> dict[str, float]:
    """Mean seconds of each part of a call, largest first."""
    count = INSTRUMENTED[device.type]
    total: dict[str, float] = {}
    for _ in range(count):
        watch = Stopwatch(device)
        with watching(model, watch), heard_by(watch):
            watch.cut()
            call(watch)
            watch.cut()
        for name, seconds in watch.seconds().items():
            total[name] = total.get(name, 0.0) + seconds / count
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _size_text(plan: Plan, what: str) -> str:
    side = plan.settings.data.augment.crop
    width, height = plan.size if what == "slide" else (side, side)
    return f"{width}x{height}"


def _p90(seconds: list[float]) -> float:
    """The smallest time that nine of ten calls stay within."""
    ordered = sorted(seconds)
    return ordered[-(-9 * len(ordered) // 10) - 1]


def _give_back(plan: Plan) -> None:
    """Free what the last row took, compiled code included."""
    if plan.compiled:
        torch.compiler.reset()
    gc.collect()
    release_cache(plan.device)
