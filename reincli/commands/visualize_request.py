"""What `rein visualize` is asked for: whether the options go together, times in seconds, what is still to be drawn."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reincli.commands.console import note
from reincli.config import parse_size
from reincli.errors import ReinError, typed
from reincli.media.inputs import IMAGE_SUFFIXES, LIST_SUFFIXES, VIDEO_SUFFIXES, Input
from reincli.media.outputs import Outputs, mark, mark_of
from reincli.media.whole_files import version_of

MAKER = "visualize"
"""How drawings are marked."""


@dataclass(frozen=True)
class Request:
    """What is to be drawn and how: the words of the command line that every kind of input needs.

    Attributes:
        labels: also write class indices. truth: file or folder of right labels.
        anomaly: suffix of the anomaly maps that are written, too; None: none.
        identity: model and style: what decides all drawings.
        start, end: of a video, in seconds. every: take one image or frame of so many.
    """

    out: Path
    labels: bool = False
    force: bool = False
    anomaly: str | None = field(default=None, kw_only=True)
    truth: Path | None = None
    start: float | None = None
    end: float | None = None
    every: int = 1
    identity: Mapping[str, object] = field(default_factory=dict)

    def mark_of(self, each: Input) -> str:
        """The mark of an input's drawing: another one where model, style, options or the file itself are others."""
        facts: dict[str, object] = {**self.identity, "source": stamp(each.source)}
        if each.kind == "video":
            facts["span"] = [self.start, self.end, self.every]
        elif self.truth is not None:
            with contextlib.suppress(ReinError):
                facts["truth"] = stamp(label_of(each, self.truth))
        text = json.dumps(facts, sort_keys=True, default=str)
        return mark(MAKER, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:20])

    def is_done(self, each: Input) -> bool:
        """Whether what is there is what would be drawn."""
        wanted = self.mark_of(each)
        beside = self.beside(each)
        outputs = [each.target, *(beside if each.kind == "image" else [])]
        return all(path.exists() for path in beside) and all(
            mark(*(mark_of(path) or " ").split(" ", 1)) == wanted for path in outputs
        )

    def beside(self, each: Input) -> list[Path]:
        """What is written beside an input's drawing: files, or of a video folders of them."""
        return [
            *([each.label] if self.labels else []),
            *([each.anomaly(self.anomaly)] if self.anomaly else []),
        ]


def stamp(path: Path) -> list[object]:
    """What tells a file from its successor: name, size and time of the last change."""
    try:
        return [os.path.realpath(path), *version_of(path)]
    except OSError:
        return [str(path)]


def require_free(inputs: list[Input], request: Request, reads: Sequence[Path | None], sheet: bool) -> None:
    """ReinError where a drawing would be written over a file that is read, or over somebody else's."""
    outputs = Outputs(MAKER, [*reads, *(each.source for each in inputs)])
    for each in inputs:
        if request.truth is not None:
            with contextlib.suppress(ReinError):
                outputs.protect(label_of(each, request.truth))
    for each in inputs:
        outputs.claim(each.target, "The drawing")
        for path in request.beside(each):
            for file in [path] if each.kind == "image" else sorted(path.glob("*")):
                outputs.claim(file, "The map")
    if sheet:
        outputs.claim(request.out / "contact-sheet.html")


def require_pictures(inputs: Sequence[str]) -> None:
    """Refuse a checkpoint among what is to be drawn: other commands take it there."""
    usual = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *LIST_SUFFIXES)
    others = [each for each in inputs if not each.lower().endswith(usual) and Path(each).is_file()]
    if not others:
        return
    from reincli.engine import weight_files  # torch: seconds that nobody waits for who names pictures
    from reincli.prediction import exported

    models = (*weight_files.SUFFIXES, *exported.SUFFIXES)
    named = [each for each in others if each.lower().endswith(models)]
    if not named:
        return
    # of OpenVINO's two files, the one that is given
    graphs = [Path(each).with_suffix(".xml") for each in named if each.lower().endswith(".bin")]
    found = next((str(each) for each in graphs if each.is_file()), named[0])
    pictures = " ".join(typed(each) for each in inputs if each not in named) or "FOLDER"
    said = f"'{named[0]}' is a checkpoint" if len(named) == 1 else f"{len(named)} files are checkpoints"
    raise ReinError(
        f"{said}; here images, videos and folders are named.",
        f"rein visualize {pictures} --checkpoint {typed(found)}",
        usage=True,
    )


def require_sense(
    size: str,
    style: str,
    compare: Path | None,
    truth: Path | None,
    threshold: float | None = None,
    abstain: float | None = None,
    confidence: bool = False,
) -> None:
    """Refuse options that contradict each other before anything heavy is loaded."""
    if abstain is not None and not 0 < abstain < 1:
        raise ReinError(
            f"--abstain {abstain:g} is no confidence between 0 and 1.", "For example 0.9.", usage=True
        )
    if abstain is not None and (compare is not None or style == "anomaly"):
        other = "--compare" if compare is not None else "--style anomaly"
        raise ReinError(f"--abstain and {other} do not go together.", "Leave out one of them.", usage=True)
    if threshold is not None and style != "anomaly":
        raise ReinError("--threshold outlines in the style anomaly.", "Add --style anomaly.", usage=True)
    if threshold is not None and not threshold <= 0:
        raise ReinError(
            f"--threshold {threshold:g} is above every anomaly: they go from minus the number of classes to 0.",
            "A pixel that one class claims has about -0.76; -0.5 is a beginning.",
            usage=True,
        )
    if style == "anomaly" and confidence:
        raise ReinError(
            "--style anomaly draws no classes, so --confidence has nothing to draw faintly.",
            "Leave out one of them; --anomaly npy writes the anomaly beside any other style.",
            usage=True,
        )
    if style == "anomaly" and truth is not None:
        raise ReinError(
            "--style anomaly does not look at --gt.",
            "Leave it out. Labelled unknown objects are scored by: rein eval CHECKPOINT --anomaly SOURCE",
            usage=True,
        )
    try:
        parse_size(size)
    except ValueError as error:
        raise ReinError(f"--size: {error}.", "Or native, the image's own size.", usage=True) from None
    if style == "error" and truth is None:
        raise ReinError("--style error needs the right labels.", "Give --gt with their folder.", usage=True)
    if style == "compare" and compare is None:
        raise ReinError("--style compare needs a second checkpoint.", "Give --compare FILE.", usage=True)
    if compare is not None and style not in ("overlay", "compare"):
        raise ReinError(
            f"--compare and --style {style} do not go together.", "Leave out one of them.", usage=True
        )
    if truth is not None and not truth.exists():
        raise ReinError(
            f"There is no label or folder of labels at '{truth}' (--gt).",
            "Give the file, or the folder of all.",
            usage=True,
        )


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
        if len(parts) > 3 or not all(0 <= part < 1e9 for part in parts):  # NaN is neither
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
        raise ReinError(f"--end {end} is not after --start {start or 0}.", "Give a later --end.", usage=True)
    return first, last


def not_done(inputs: list[Input], request: Request) -> list[Input]:
    """Those that are still to be drawn; the user is told of the others."""
    if request.force:
        return inputs
    todo = [each for each in inputs if not request.is_done(each)]
    old = sum(each.target.exists() for each in todo)
    if old:
        note(f"{count(old)} of another model, style or version of the file: drawn anew.")
    if len(todo) < len(inputs):
        note(f"Kept as drawn already: {count(len(inputs) - len(todo))}. --force draws anew.")
    return todo


def count(number: int) -> str:
    """'1 picture', '2 pictures'."""
    return f"{number} picture" + ("" if number == 1 else "s")


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
