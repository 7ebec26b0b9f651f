"""An exported file's speed beside PyTorch's, on the same random images, in one run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from reincli.bench.speed import timings
from reincli.engine.checkpoint import build_model
from reincli.engine.device import DTYPES, fast_bf16
from reincli.model.exportable import Exportable
from reincli.prediction.exported import open_session
from reincli.prediction.exported_about import About

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Timed:
    """One runtime: seconds of a call, median and least, and how much faster than PyTorch in fp32 it is."""

    runtime: str
    precision: str
    median: float
    least: float
    gain: float


def compared(path: Path, runs: int, seconds: float) -> Iterator[Timed]:
    """Time PyTorch with a model of the file's settings and random weights, then the file.

    Both take a batch as the file does (one image where any number goes) and answer alike. One call goes before.

    Raises:
        ReinError: the file is missing or not ours, or its runtime is not installed.
    """
    session, about = open_session(path, "cpu")
    images = example(about)
    first: float | None = None
    for precision in ("fp32", "bf16") if fast_bf16() else ("fp32",):
        model = plain_model(about, precision)
        with torch.inference_mode():
            model(images)
            found = timings(lambda model=model: model(images), CPU, runs, seconds)  # type: ignore[misc]
        median = statistics.median(found)
        first = first or median
        yield Timed("PyTorch", precision, median, min(found), first / median)
        del model
    given = images.numpy()
    session.run(given)
    found = timings(lambda: session.run(given), CPU, runs, seconds)
    median = statistics.median(found)
    assert first is not None
    yield Timed(session.runtime, about.precision, median, min(found), first / median)


def example(about: About) -> torch.Tensor:
    """A batch of random pixels in the file's layout."""
    (width, height), batch = about.size, about.batch or 1
    shape = (batch, 3, height, width) if about.layout == "nchw" else (batch, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def plain_model(about: About, precision: str) -> Exportable:
    """The file's model in PyTorch, as prediction runs it; weights do not change the work."""
    torch.manual_seed(0)
    model = build_model(about.settings, len(about.classes))
    stream = getattr(model.backbone, "stream", None)
    made = Exportable(model, (about.size[1], about.size[0]), about.answer, about.layout, DTYPES[precision])
    if stream is not None:  # what stands in the way of an export is faster here
        model.backbone.stream = stream
    return made.eval()
