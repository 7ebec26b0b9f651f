"""`rein visualize`: draw predictions on images, videos and what a camera sees."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reincli.commands.console import configure, note, problem, progress, result
from reincli.commands.visualize_video import (
    CutShortError,
    NoVideoError,
    Request,
    draw_video,
    record,
    stamp,
)
from reincli.config import Settings, parse_size
from reincli.engine.ranks import this_rank
from reincli.errors import ReinError
from reincli.media.drawing import write_drawing
from reincli.media.images import read_image, write_png
from reincli.media.inputs import Input, Inputs, find_inputs
from reincli.prediction.stream import batched, mapped
from reincli.settings_files import load_settings

if TYPE_CHECKING:
    import numpy as np

    from reincli.prediction.artist import Artist, Seen

RELEASED = Path("checkpoints/dinov2_rein_and_head.pth")
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


def run(
    inputs: list[str],
    *,
    checkpoint: Path | None = None,
    backbone: Path | None = None,
    preset: str | None = None,
    config: Path | None = None,
    compare: Path | None = None,
    compare_backbone: Path | None = None,
    compare_preset: str | None = None,
    out: Path = Path("work_dirs/show"),
    style: str = "overlay",
    alpha: float = 0.5,
    legend: bool = True,
    confidence: bool = False,
    truth: Path | None = None,
    labels: bool = False,
    sheet: bool = False,
    force: bool = False,
    mode: str | None = None,
    size: str = "native",
    start: str | None = None,
    end: str | None = None,
    every: int = 1,
    precision: str = "auto",
    device: str = "auto",
    suffix: str | None = None,
    match: str | None = None,
) -> None:
    """Predict and draw every input; see `rein visualize --help` for the options.

    Raises:
        ReinError: nothing to read, a checkpoint that does not fit, or (at the end) inputs that failed.
        KeyboardInterrupt: stopped by the user; says how far it came.
    """
    _require_sense(size, style, compare, truth)
    request = Request(out, labels, force, truth, *span(start, end), every)
    settings = load_settings(preset, config) if preset or config else None
    found = find_inputs(inputs, out, suffix=suffix, match=match, every=every)
    rank = this_rank()
    if rank.rank:
        configure(quiet=True)  # remarks and progress come from the first process alone
    else:
        for each in found.missing:
            problem(f"There is no image, video or folder at '{each}'.")
    todo = _not_done(rank.share(found.files), request)
    tally = Tally()
    if todo or found.cameras:
        chosen = [Choice(checkpoint or default_checkpoint(), backbone, settings)]
        if compare is not None:
            chosen.append(Choice(compare, compare_backbone or backbone, compare_preset))
        way = Way(style, alpha, legend, confidence, size, mode)
        artist = build_artist(chosen, way, rank.device(device), precision)
        identity = {"checkpoints": [stamp(each.checkpoint) for each in chosen], **asdict(way)}
        _draw_everything(todo, found.cameras if not rank.rank else [], artist, request, tally, identity)
    parts = rank.gather((tally.written, tally.failed))
    if not rank.rank:
        failed = [name for part in parts for name in part[1]]
        conclude(found, sum(part[0] for part in parts), failed, out, sheet)


@dataclass(frozen=True)
class Choice:
    """A model that was asked for; `settings`, or the name of a preset, where the checkpoint carries none."""

    checkpoint: Path
    backbone: Path | None
    settings: Settings | str | None


@dataclass(frozen=True)
class Way:
    """How to predict and draw, as the options of the same names say."""

    style: str
    alpha: float
    legend: bool
    confidence: bool
    size: str
    mode: str | None


def build_artist(chosen: Sequence[Choice], way: Way, device: str, precision: str) -> Artist:
    """Load one model, or two to compare, and say what there is to say of them.

    Raises:
        ReinError: a checkpoint that does not fit, or two of other classes.
    """
    from reincli.media.paint import Look
    from reincli.prediction.artist import Artist
    from reincli.prediction.predict import load_segmentor

    predictors = [
        load_segmentor(
            each.checkpoint,
            backbone=each.backbone,
            settings=each.settings,
            device=device,
            precision=precision,
        )
        for each in chosen
    ]
    paths = [each.checkpoint for each in chosen]
    if len({predictor.classes.names for predictor in predictors}) > 1:
        raise ReinError(f"'{paths[1]}' and '{paths[0]}' have other classes: they cannot be compared.")
    for remark in dict.fromkeys(remark for each in predictors for remark in each.notes):
        note(remark)
    titles = titles_of(*paths) if len(paths) == 2 else ()
    look = Look("overlay" if way.style == "compare" else way.style, way.alpha, way.legend)
    return Artist(predictors, titles, look, way.confidence, way.size, way.mode)


def conclude(found: Inputs, written: int, failed: list[str], out: Path, sheet: bool) -> None:
    """Say what was drawn where. ReinError where something could not be."""
    if sheet:
        from reincli.commands.contact_sheet import write_sheets

        for path in write_sheets(found.files, out):
            result(f"Contact sheet: '{path}'.")
    result(f"{count(written)} drawn into '{out}'.")
    lost = len(failed) + len(found.missing)
    if lost:
        total = len(found.files) + len(found.cameras) + len(found.missing)
        raise ReinError(
            f"{lost} of {total} inputs could not be drawn.",
            "They are named above; the others are done.",
        )


def default_checkpoint() -> Path:
    """The newest finished run under `work_dirs/`, else the released checkpoint; the user is told which.

    Raises:
        ReinError: there is neither.
    """
    runs = sorted(Path("work_dirs").glob("*/last.pth"), key=lambda path: path.stat().st_mtime)
    if runs:
        note(f"Checkpoint: '{runs[-1]}', the newest run (--checkpoint takes another).")
        return runs[-1]
    if RELEASED.exists():
        note(f"Checkpoint: '{RELEASED}' (--checkpoint takes another).")
        return RELEASED
    raise ReinError(
        f"There is no checkpoint: no 'work_dirs/*/last.pth' and no '{RELEASED}'.",
        "Give one with --checkpoint FILE, or make one: rein demo, rein train --preset gta2citys",
        usage=True,
    )


def titles_of(first: Path, second: Path) -> tuple[str, str]:
    """Names of two checkpoints that tell them apart: of the run's folder, of the file, or both."""
    for name in (lambda p: p.parent.name, lambda p: p.stem, lambda p: f"{p.parent.name}/{p.stem}"):
        titles = name(first.resolve()), name(second.resolve())
        if titles[0] != titles[1] and all(titles) and "checkpoints" not in titles:
            return titles
    return str(first), str(second)


def seconds(text: str | None, option: str) -> float | None:
    """'90', '1:30', '0:01:30.5' -> seconds.

    Raises:
        ReinError: no time.
    """
    if text is None:
        return None
    total = 0.0
    try:
        parts = [float(part) for part in text.split(":")]
        if len(parts) > 3 or any(part < 0 for part in parts):
            raise ValueError
    except ValueError:
        raise ReinError(
            f"{option} '{text}' is no time.", "Write seconds (90), or minutes and hours (1:30, 0:01:30.5).",
            usage=True,
        ) from None  # fmt: skip
    for part in parts:
        total = 60 * total + part
    return total


def span(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    """`--start` and `--end` in seconds.

    Raises:
        ReinError: no times, or an end that is not after the start.
    """
    first, last = seconds(start, "--start"), seconds(end, "--end")
    if last is not None and last <= (first or 0.0):
        raise ReinError(f"--end {end} is not after --start {start or 0}.", usage=True)
    return first, last


def count(number: int) -> str:
    """'1 picture', '2 pictures'."""
    return f"{number} picture" + ("" if number == 1 else "s")


def _require_sense(size: str, style: str, compare: Path | None, truth: Path | None) -> None:
    """Refuse options that contradict each other before anything heavy is loaded."""
    try:
        parse_size(size)
    except ValueError as error:
        raise ReinError(f"--size: {error}.", usage=True) from None
    if style == "error" and truth is None:
        raise ReinError("--style error needs the right labels.", "Give --gt with their folder.", usage=True)
    if style == "compare" and compare is None:
        raise ReinError("--style compare needs a second checkpoint.", "Give --compare FILE.", usage=True)
    if compare is not None and style not in ("overlay", "compare"):
        raise ReinError(
            f"--compare and --style {style} do not go together.", "Leave out one of them.", usage=True
        )
    if truth is not None and not truth.exists():
        raise ReinError(f"There is no label or folder of labels at '{truth}' (--gt).", usage=True)


def _not_done(inputs: list[Input], request: Request) -> list[Input]:
    """Those that are still to be drawn; the user is told of the others."""
    if request.force:
        return inputs
    todo = [
        each for each in inputs
        if not each.target.exists() or (request.labels and not each.label.exists())
    ]  # fmt: skip
    if len(todo) < len(inputs):
        note(f"{count(len(inputs) - len(todo))} already drawn are kept; --force draws them again.")
    return todo


def _draw_everything(
    todo: list[Input],
    cameras: list[int],
    artist: Artist,
    request: Request,
    tally: Tally,
    identity: dict[str, object],
) -> None:
    """Images first, then videos one by one, then cameras."""
    pictures = [each for each in todo if each.kind == "image"]
    if pictures:
        _draw_pictures(pictures, artist, request, tally)
    for each in todo:
        if each.kind == "video":
            try:
                draw_video(each, artist, request, identity)
                tally.done()
            except CutShortError as error:  # it is written as far as it could be read
                tally.done()
                tally.fail(str(each.source), error)
            except NoVideoError as error:
                tally.fail(str(each.source), error)
    for number in cameras:
        record(number, artist, request)
        tally.done()


# --- pictures ----------------------------------------------------------------------------------------------


@dataclass
class _Job:
    """One picture on its way: filled from stage to stage."""

    picture: Input
    image: np.ndarray | None = None
    truth: np.ndarray | None = None
    seen: Seen | None = None
    error: ReinError | None = None


def _draw_pictures(pictures: list[Input], artist: Artist, request: Request, tally: Tally) -> None:
    """Read ahead, predict, draw and write: the three overlap, and few pictures are in memory at a time."""

    def read(picture: Input) -> _Job:
        job = _Job(picture)
        try:
            job.image = read_image(picture.source)
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
            if request.labels:
                write_png(job.picture.label, job.seen.labels[0])
            # last, since it stands for the whole being done
            write_drawing(job.picture.target, artist.draw(job.seen, job.truth))
            tally.done()
        return job

    try:
        with progress("predicting", len(pictures)) as advance:
            for job in mapped(draw, seen(), workers=WORKERS, depth=IN_FLIGHT):
                if job.error is not None:
                    tally.fail(str(job.picture.source), job.error)
                advance(note=job.picture.target.name)
    except KeyboardInterrupt:
        done = f"{tally.written} of {count(len(pictures))} are in '{request.out}'."
        raise KeyboardInterrupt(f"{done} The same command goes on from there.") from None


def _see(jobs: list[_Job], artist: Artist) -> None:
    """Predict the pictures together; where that fails, each alone, so that only the one at fault is lost."""
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


def label_of(picture: Input, truth: Path) -> Path:
    """The file of right labels of a picture: `truth` itself, or in that folder the one of the same name.

    Names of the known datasets are turned as they turn theirs (`_leftImg8bit` -> `_gtFine_labelTrainIds`).

    Raises:
        ReinError: there is none.
    """
    if truth.is_file():
        return truth
    stem = picture.source.stem
    stems = [stem, f"{stem}_labelTrainIds"]
    for ending, label in (("_leftImg8bit", "_gtFine_labelTrainIds"), ("_rgb_anon", "_gt_labelTrainIds")):
        if stem.endswith(ending):
            stems.append(stem.removesuffix(ending) + label)
    folders = dict.fromkeys((truth / picture.name.parent, truth))
    for path in (folder / f"{each}.png" for folder in folders for each in stems):
        if path.is_file():
            return path
    raise ReinError(
        f"'{picture.source}' has no label under '{truth}'.",
        f"Expected '{truth / picture.name.parent / stem}.png' or '..._labelTrainIds.png'.",
    )
