"""`rein visualize`: draw predictions on images, videos and what a camera sees."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reincli.commands.console import configure, note, problem, remarks, result
from reincli.commands.visualize_pictures import Tally, draw_pictures
from reincli.commands.visualize_request import (
    MAKER,
    Request,
    count,
    not_done,
    require_free,
    require_pictures,
    require_sense,
    span,
    stamp,
)
from reincli.commands.visualize_video import CutShortError, NoVideoError, draw_video, record
from reincli.config import Settings
from reincli.engine.backbone_files import used_backbone
from reincli.engine.ranks import this_rank
from reincli.errors import ReinError
from reincli.media.anomaly_files import FORMS
from reincli.media.inputs import Input, Inputs, find_inputs, lists_of
from reincli.media.outputs import at_work
from reincli.settings_files import load_settings

if TYPE_CHECKING:
    from reincli.prediction.artist import Artist

RELEASED = Path("checkpoints/dinov2_rein_and_head.pth")
"""Where the original's released adapters and head usually lie."""


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
    abstain: float | None = None,
    threshold: float | None = None,
    truth: Path | None = None,
    labels: bool = False,
    anomaly: str | None = None,
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
    any_backbone: bool = False,
) -> None:
    """Predict and draw every input; see `rein visualize --help` for the options.

    Raises:
        ReinError: nothing to read, a checkpoint that does not fit, or (at the end) inputs that failed.
        KeyboardInterrupt: stopped by the user; says how far it came.
    """
    require_pictures(inputs)
    require_sense(size, style, compare, truth, threshold, abstain, confidence)
    settings = load_settings(preset, config) if preset or config else None
    found = find_inputs(inputs, out, suffix=suffix, match=match, every=every)
    rank = this_rank()
    if rank.rank:
        configure(quiet=True)  # remarks and progress come from the first process alone
    else:
        tell_what_is_not_drawn(found)
    checkpoint = checkpoint or (default_checkpoint() if found.files or found.cameras else None)
    way = Way(style, alpha, legend, confidence, size, mode, threshold, anomaly is not None, abstain)
    used = [path for path in (checkpoint, compare, backbone, compare_backbone, config) if path is not None]
    identity = {"files": [stamp(path) for path in used], "preset": [preset, compare_preset], **asdict(way)}
    request = Request(out, labels, force, truth, *span(start, end), every, identity,
                      anomaly=FORMS[anomaly] if anomaly else None)  # fmt: skip
    usual = used_backbone(settings, backbone) if settings is not None else backbone
    require_free(found.files, request, [*used, usual, *lists_of(inputs)], sheet)
    with nullcontext() if rank.rank else at_work(out, MAKER):
        todo = not_done(rank.share(found.files), request)
        tally = Tally()
        if checkpoint is not None and (todo or found.cameras):
            chosen = [Choice(checkpoint, backbone, settings)]
            if compare is not None:
                chosen.append(Choice(compare, compare_backbone or backbone, compare_preset))
            artist = build_artist(chosen, way, rank.device(device), precision, any_backbone)
            _draw_everything(todo, found.cameras if not rank.rank else [], artist, request, tally)
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
    threshold: float | None = None
    anomaly: bool = False
    abstain: float | None = None


def build_artist(
    chosen: Sequence[Choice], way: Way, device: str, precision: str, any_backbone: bool = False
) -> Artist:
    """Load one model, or two to compare, and say what there is to say of them.

    Raises:
        ReinError: a checkpoint that does not fit, or two of other classes.
    """
    from reincli.media.paint import Look
    from reincli.prediction.artist import Artist
    from reincli.prediction.opening import open_segmentor

    predictors = [
        open_segmentor(
            each.checkpoint,
            backbone=each.backbone,
            settings=each.settings,
            device=device,
            precision=precision,
            any_backbone=any_backbone,
        )
        for each in chosen
    ]
    paths = [each.checkpoint for each in chosen]
    if len({predictor.classes.names for predictor in predictors}) > 1:
        raise ReinError(
            f"'{paths[1]}' and '{paths[0]}' have other classes: they cannot be compared.",
            "Compare checkpoints of the same classes, in the same order.",
        )
    doubts = [text for each in predictors for text in each.doubts]
    remarks(dict.fromkeys(text for each in predictors for text in each.notes), doubts)
    titles = titles_of(*paths) if len(paths) == 2 else ()
    style = "overlay" if way.style == "compare" else way.style
    look = Look(style, way.alpha, way.legend, threshold=way.threshold, abstain=way.abstain)
    artist = Artist(predictors, titles, look, way.confidence, way.size, way.mode, way.anomaly, way.abstain)
    if artist.scored:
        for predictor in predictors:
            predictor.require_scores()
    return artist


def tell_what_is_not_drawn(found: Inputs) -> None:
    """Lines on what was named or lies in the folders and will not be seen in the drawings."""
    for each in found.missing:
        problem(f"There is no image, video or folder at '{each}'.")
    if found.passed:
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in found.passed.most_common())
        note(f"Passed over, as kinds that are not read in folders: {kinds}. Save them as PNG or JPEG.")
    if found.others:
        kinds = ", ".join(f"{n} {end or 'without suffix'}" for end, n in found.others.most_common(4))
        more = ", …" if len(found.others) > 4 else ""
        note(f"Not drawn, as no images or videos by their names: {kinds}{more}.")
    if found.several:
        note(
            f"Pictures with several pages or frames: {found.several}. Of each the first is drawn; save them apart."
        )


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


def _draw_everything(
    todo: list[Input],
    cameras: list[int],
    artist: Artist,
    request: Request,
    tally: Tally,
) -> None:
    """Images first, then videos one by one, then cameras."""
    pictures = [each for each in todo if each.kind == "image"]
    if pictures:
        draw_pictures(pictures, artist, request, tally)
    for each in todo:
        if each.kind == "video":
            try:
                draw_video(each, artist, request)
                tally.done()
            except CutShortError as error:  # it is written as far as it could be read
                tally.done()
                tally.fail(str(each.source), error)
            except NoVideoError as error:
                tally.fail(str(each.source), error)
    for number in cameras:
        record(number, artist, request)
        tally.done()
