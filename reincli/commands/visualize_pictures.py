"""Images for `rein visualize`: read ahead, predicted together, drawn and written while others are predicted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reincli.commands.console import note, problem, progress
from reincli.commands.visualize_request import Request, count, label_of
from reincli.errors import ReinError
from reincli.media.anomaly_files import write_anomaly
from reincli.media.drawing import write_drawing
from reincli.media.images import read_image, sliver_of, sliver_remark, write_png
from reincli.media.inputs import Input
from reincli.prediction.stream import batched, mapped

if TYPE_CHECKING:
    import numpy as np

    from reincli.prediction.artist import Artist, Seen

IN_FLIGHT = 3
"""Pictures that are read ahead, and that wait to be written, while others are predicted."""
WORKERS = 2
"""Threads that read, and threads that draw and write."""


@dataclass
class Tally:
    """What has come of the inputs so far; written to by several threads."""

    written: int = 0
    failed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def done(self) -> None:
        """One more is written."""
        with self.lock:
            self.written += 1

    def fail(self, name: str, error: ReinError) -> None:
        """One could not be drawn: say so and go on."""
        problem(str(error) if name in str(error) else f"{name}: {error}")
        with self.lock:
            self.failed.append(name)


@dataclass
class _Job:
    """One picture on its way: filled from stage to stage."""

    picture: Input
    image: np.ndarray | None = None
    truth: np.ndarray | None = None
    seen: Seen | None = None
    error: ReinError | None = None
    sliver: int = 0


def draw_pictures(pictures: list[Input], artist: Artist, request: Request, tally: Tally) -> None:
    """Read ahead, predict, draw and write: the three overlap, and few pictures are in memory at a time."""

    def read(picture: Input) -> _Job:
        job = _Job(picture)
        try:
            job.image = read_image(picture.source)
            job.sliver = sliver_of(picture.source)
            if request.truth is not None:
                job.truth = artist.truth(label_of(picture, request.truth), job.image.shape)
        except ReinError as error:
            job.error = error
        return job

    def seen() -> Iterator[_Job]:
        with closing(mapped(read, pictures, workers=WORKERS, depth=IN_FLIGHT + artist.batch)) as jobs:
            for group in batched(jobs, artist.batch):
                _see([job for job in group if job.image is not None and job.error is None], artist)
                yield from group

    def draw(job: _Job) -> _Job:
        if job.seen is not None and job.error is None:
            made = request.mark_of(job.picture)
            if request.labels:
                write_png(job.picture.label, job.seen.labels[0], mark=made)
            if request.anomaly and job.seen.anomaly is not None:
                write_anomaly(job.picture.anomaly(request.anomaly), job.seen.anomaly, artist.classes, made)
            # last, since it stands for the whole being done
            write_drawing(job.picture.target, artist.draw(job.seen, job.truth), made)
            tally.done()
        return job

    try:
        with progress("predicting", len(pictures)) as advance:
            for job in mapped(draw, seen(), workers=WORKERS, depth=IN_FLIGHT):
                if job.sliver and "sliver" not in artist.told:
                    artist.told.add("sliver")
                    note(sliver_remark(job.picture.source, job.sliver))
                if job.error is not None:
                    tally.fail(str(job.picture.source), job.error)
                advance(note=job.picture.target.name)
    except KeyboardInterrupt:
        done = f"{tally.written} of {count(len(pictures))} are in '{request.out}'."
        raise KeyboardInterrupt(f"{done} The same command goes on from there.") from None


def _see(jobs: list[_Job], artist: Artist) -> None:
    """Predict the pictures together; where that fails, each alone, so that only the one at fault is lost."""
    for job in jobs:
        for remark in artist.remarks(job.image.shape) if job.image is not None else ():
            note(remark)
    try:
        found = artist.see([job.image for job in jobs if job.image is not None])
    except ReinError as error:
        if len(jobs) == 1:
            jobs[0].error = error
            return
        for job in jobs:
            _see([job], artist)
        return
    for job, each in zip(jobs, found, strict=True):
        job.seen = each
