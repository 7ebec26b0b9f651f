"""`rein compare`: two results of `rein eval` in, their differences with confidence intervals out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reincli.commands import console
from reincli.commands.score_table import WIDE, mean_of, percent, protocol_line
from reincli.errors import ReinError, instead_of
from reincli.media.outputs import Outputs, at_work_on, mark
from reincli.media.whole_files import write_bytes
from reincli.ops.bootstrap import Difference, difference, iou, mean_iou, resampled
from reincli.ops.image_counts import areas, unpack


@dataclass(frozen=True)
class Scores:
    """One result file: the report, and areas (N, 3, K) with the names of the N images by domain."""

    path: Path
    report: Mapping[str, Any]
    classes: tuple[str, ...]
    images: Mapping[str, tuple[list[str], np.ndarray]]


@dataclass(frozen=True)
class DomainComparison:
    """A domain in both: how many images were compared, mIoU and IoU by class, and the draws of the mIoU difference."""

    images: int
    miou: Difference
    by_class: dict[str, Difference]
    drawn: np.ndarray


def run(
    first: Path,
    second: Path,
    *,
    draws: int = 2000,
    level: float = 95.0,
    seed: int = 0,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Compare B with A on the images that both have scored.

    Args:
        first, second: JSON of `rein eval`.
        draws: bootstrap samples. level: of the intervals, percent. seed: of the draws.
        json_file: where the result is written too.
    """
    if json_file is not None:
        Outputs("compare", [first, second]).claim(json_file, "--json")
    with at_work_on("compare", json_file):
        result = show_differences(first, second, draws, level, seed)
        if json_file is not None:
            text = json.dumps({"made_by": mark("compare"), **result}, indent=1)
            write_bytes(json_file, (text + "\n").encode())
    return result


def show_differences(first: Path, second: Path, draws: int, level: float, seed: int) -> dict[str, Any]:
    """Read both, compare, print; returns what `--json` writes. ReinError where nothing can be compared."""
    a, b = read_scores(first), read_scores(second)
    if a.classes != b.classes:
        raise ReinError(
            f"'{first}' has {len(a.classes)} classes, '{second}' has {len(b.classes)} others: nothing to compare.",
            "Compare results on the same classes.",
            usage=True,
        )
    shared = [name for name in a.images if name in b.images]
    if not shared:
        raise ReinError(
            f"'{first}' ({', '.join(a.images)}) and '{second}' ({', '.join(b.images)}) have no domain in common.",
            "Evaluate both on the same data.",
            usage=True,
        )
    for text in _differences_of_protocol(a, b, shared):
        console.note(text)
    compared = {}
    for index, name in enumerate(shared):
        found = _compare(a, b, name, draws, level / 100, [seed, index])
        if found is not None:
            compared[name] = found
    if not compared:
        raise ReinError("The two results have no image in common.", "Evaluate both on the same data.")
    members = [name for name in a.report["mean"]["domains"] if name in compared] or list(compared)
    mean = _mean(compared, members, level / 100)
    _show(a, b, compared, mean, members, level)
    return _plain(a, b, compared, mean, members, draws, level)


# --- reading -----------------------------------------------------------------------------------------------


def read_scores(path: Path) -> Scores:
    """A result of `rein eval --json`.

    Raises:
        ReinError: no such file, another kind of file, or one without the matrices of single images.
    """
    if not path.exists() or path.is_dir():  # a pipe may be read
        hint = f"{instead_of(path, ('.json',))} Or write it: rein eval CHECKPOINT --json FILE"
        raise ReinError(f"There is no file '{path}'.", hint)
    try:
        raw = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ReinError(f"'{path}' cannot be read: {error.strerror}.", "Check its owner and mode.") from None
    except (ValueError, RecursionError) as error:
        raise ReinError(
            f"'{path}' cannot be read as JSON: {error}.", "Write it anew: rein eval CHECKPOINT --json FILE"
        ) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("domains"), dict) or "protocol" not in raw:
        raise ReinError(f"'{path}' is no result of rein eval.", "Write one: rein eval CHECKPOINT --json FILE")
    if not isinstance(raw.get("per_image"), dict) or not raw["domains"]:
        raise ReinError(
            f"'{path}' holds no scores of single images, which the intervals need.",
            "Write it anew: rein eval CHECKPOINT --json FILE",
        )
    images = {}
    try:
        classes = tuple(next(iter(raw["domains"].values()))["IoU"])
        protocol_line(raw)
        require_names(raw["mean"]["domains"], "mean.domains")
        for name in raw["domains"]:
            kept = raw["per_image"][name]
            require_names(kept["names"], f"per_image.{name}.names")
            images[name] = (
                kept["names"],
                areas(unpack(kept["matrices"]), len(kept["names"]), len(classes)),
            )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ReinError(f"'{path}' is damaged: {error}.", "Evaluate again.") from None
    return Scores(path, raw, classes, images)


def require_names(found: Any, what: str) -> None:
    """ValueError where something is no list of names, each once: images are put together by them."""
    if not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
        raise ValueError(f"{what} is no list of names")
    if len(set(found)) != len(found):
        raise ValueError(f"{what} has a name twice")


def _differences_of_protocol(a: Scores, b: Scores, shared: Sequence[str]) -> list[str]:
    """Remarks on what is not alike but for the model."""
    remarks = []
    for scores in (a, b):
        if not scores.report.get("complete", True):
            remarks.append(f"'{scores.path}' is partial: the evaluation was interrupted.")
        if scores.report.get("doubts"):
            remarks.append(
                f"'{scores.path}' is of a model that was damaged or changed after it was exported."
            )
    if protocol_line(_only(a, shared)) != protocol_line(_only(b, shared)):
        remarks.append("The protocols differ, and that alone moves scores by points:")
        remarks += [f"  {'AB'[i]}: {protocol_line(_only(scores, shared))}" for i, scores in enumerate((a, b))]
    left_out = [name for scores in (a, b) for name in scores.images if name not in shared]
    if left_out:
        remarks.append(f"Only in one of the two, left out: {', '.join(left_out)}.")
    return remarks


def _only(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    return {
        **scores.report,
        "complete": True,
        "domains": {name: scores.report["domains"][name] for name in names},
    }


# --- comparing ---------------------------------------------------------------------------------------------


def _compare(
    a: Scores, b: Scores, domain: str, draws: int, level: float, seed: Sequence[int]
) -> DomainComparison | None:
    """One domain, on the images that both have; None where there is none."""
    (names_a, areas_a), (names_b, areas_b) = a.images[domain], b.images[domain]
    place = {name: index for index, name in enumerate(names_b)}
    pairs = [(index, place[name]) for index, name in enumerate(names_a) if name in place]
    if not pairs:
        console.note(f"{domain}: no image is in both; left out.")
        return None
    if len(pairs) < max(len(names_a), len(names_b)):
        console.note(
            f"{domain}: compared on the {len(pairs)} images that both have (A {len(names_a)}, B {len(names_b)})."
        )
    left, right = areas_a[[i for i, _ in pairs]], areas_b[[j for _, j in pairs]]
    drawn_a, drawn_b = resampled(left, right, draws, seed)
    if len(pairs) == 1:  # every draw is that image: an interval of no width, and a star on any difference
        console.note(
            f"{domain}: one image has no interval; whether chance explains a difference cannot be told."
        )
        drawn_a = np.full_like(drawn_a, np.nan)
    iou_a, iou_b = iou(left.sum(0)), iou(right.sum(0))
    drawn = mean_iou(drawn_b) - mean_iou(drawn_a)
    by_class = {
        name: difference(
            float(iou_a[index]), float(iou_b[index]), drawn_b[:, index] - drawn_a[:, index], level
        )
        for index, name in enumerate(a.classes)
    }
    whole = difference(float(mean_iou(iou_a)), float(mean_iou(iou_b)), drawn, level)
    return DomainComparison(len(pairs), whole, by_class, drawn)


def _mean(compared: Mapping[str, DomainComparison], members: Sequence[str], level: float) -> Difference:
    """The mean over domains: their images are drawn apart, so draws of the same number are put together."""
    chosen = [compared[name] for name in members]
    drawn = np.mean([each.drawn for each in chosen], axis=0)
    a, b = (float(np.mean([getattr(each.miou, side) for each in chosen])) for side in ("a", "b"))
    return difference(a, b, drawn, level)


# --- showing -----------------------------------------------------------------------------------------------


def _show(
    a: Scores,
    b: Scores,
    compared: Mapping[str, DomainComparison],
    mean: Difference,
    members: Sequence[str],
    level: float,
) -> None:
    console.result(f"A: {a.report.get('checkpoint')} ({a.path})\nB: {b.report.get('checkpoint')} ({b.path})")
    columns = ["mIoU %", "images", "A", "B", "B - A", f"{level:g}% interval", ""]
    rows = [
        [name, str(found.images), *_cells(found.miou), _verdict(found.miou)]
        for name, found in compared.items()
    ]
    footer = [
        f"mean of {mean_of(members)}",
        str(sum(compared[name].images for name in members)),
        *_cells(mean),
        _verdict(mean),
    ]
    console.table(columns, rows, numbers=set(columns[1:6]), footer=footer)
    if len(compared) <= WIDE:
        heads = ["IoU %, B - A", *compared]
        rows = [[name, *(_short(each.by_class[name]) for each in compared.values())] for name in a.classes]
        console.table(heads, rows, numbers=set(heads[1:]))
    console.result(
        f"Intervals: {level:g}% of bootstrap draws of the test images. * leaves 0 out: more than the choice of images "
        "explains. Chance in training (another seed) is not in them."
    )


def _cells(found: Difference) -> list[str]:
    if math.isnan(found.value):
        return [percent(_number(found.a)), percent(_number(found.b)), "-", "-"]
    return [
        percent(found.a),
        percent(found.b),
        f"{found.value:+.2f}",
        "-" if math.isnan(found.low) else f"{found.low:+.2f} to {found.high:+.2f}",
    ]


def _verdict(found: Difference) -> str:
    return "*" if found.beyond_chance else ""


def _short(found: Difference) -> str:
    if math.isnan(found.value):
        return "-"
    if found.low == found.value == found.high == 0:
        return "= "
    if math.isnan(found.low):
        return f"{found.value:+.2f} "
    return f"{found.value:+.2f} ({found.low:+.1f} to {found.high:+.1f}){_verdict(found) or ' '}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _plain(
    a: Scores,
    b: Scores,
    compared: Mapping[str, DomainComparison],
    mean: Difference,
    members: Sequence[str],
    draws: int,
    level: float,
) -> dict[str, Any]:
    """The comparison as data; None where a difference is not defined."""

    def plain(found: Difference) -> dict[str, Any]:
        values = {"a": found.a, "b": found.b, "difference": found.value, "low": found.low, "high": found.high}
        return {key: _number(value) for key, value in values.items()} | {"beyond_chance": found.beyond_chance}

    return {
        "a": str(a.path),
        "b": str(b.path),
        "draws": draws,
        "level": level,
        "domains": {
            name: {
                "images": found.images,
                "mIoU": plain(found.miou),
                "IoU": {key: plain(each) for key, each in found.by_class.items()},
            }
            for name, found in compared.items()
        },
        "mean": {"domains": list(members), "mIoU": plain(mean)},
    }
