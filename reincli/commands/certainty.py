"""How sure a model is and how often it is right: on the terminal, and as plots of the page of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reincli.commands import console
from reincli.commands.html_plots import Line, plot
from reincli.commands.score_table import percent

SHOWN = (95, 90, 80)
"""Coverages in percent at which the table says what is gained."""


def show_certainty(result: Mapping[str, Any]) -> None:
    """Print calibration and coverage by domain, where an evaluation has them."""
    found = {name: domain for name, domain in result["domains"].items() if "calibration" in domain}
    if not found:
        return
    columns = ["calibration, %", "ECE", "accuracy", "confidence", *(f"mIoU of {share} %" for share in SHOWN)]
    rows = []
    for name, domain in found.items():
        known, curve = domain["calibration"], domain["coverage"]
        rows.append([
            name, *(percent(known[key]) for key in ("ECE", "accuracy", "confidence")),
            *(percent(at_coverage(curve, share)) for share in SHOWN),
        ])  # fmt: skip
    console.table(columns, rows, numbers=set(columns[1:]))
    console.result(
        f"Mean ECE {percent(result['mean']['ECE'])} at temperature {result['protocol']['temperature']:.4g}. "
        "mIoU of 90 %: the least sure pixels are left out, as long as 90 % are kept."
    )


def at_coverage(curve: Mapping[str, Sequence[float]], share: float) -> float | None:
    """The mIoU where most is left out of a curve with still `share` percent kept; None without a labelled pixel."""
    kept = [miou for covered, miou in zip(curve["coverage"], curve["mIoU"], strict=True) if covered >= share]
    return kept[-1] if kept else None


def section(result: Mapping[str, Any]) -> Iterator[str]:
    """The part of the page: a reliability diagram a domain, and the curves of mIoU over coverage."""
    found = {name: domain for name, domain in result["domains"].items() if "calibration" in domain}
    if not found:
        return
    yield (
        f"<h2>Calibration</h2><p class=soft>Temperature {result['protocol']['temperature']:.4g}. Above the dashed line "
        "a model is right more often than it is sure, below it less often; bars are the share of the pixels. The last "
        "plot: what leaving out the least sure pixels gains.</p><div class=plots>"
    )
    for name, domain in found.items():
        bins = domain["calibration"]["bins"]
        total = sum(each["pixels"] for each in bins) or 1
        filled = [each for each in bins if each["pixels"]]
        line = Line(
            f"{name}: ECE {percent(domain['calibration']['ECE'])} %",
            [each["confidence"] / 100 for each in filled],
            [each["accuracy"] / 100 for each in filled],
            dots=True,
            bars=[each["pixels"] / total for each in bins],
        )
        yield plot([line], "confidence %", "accuracy %", diagonal=True)
    curves = []
    for name, domain in found.items():
        kept, miou = ([value / 100 for value in domain["coverage"][key]] for key in ("coverage", "mIoU"))
        curves.append(Line(name, kept, miou))
    yield plot(curves, "coverage %", "mIoU % of what is kept") + "</div>"
