"""What the report of an adaptation shows besides: pseudo-labels and agreement over time."""

from __future__ import annotations

import io
from html import escape
from typing import Any

from reincli.config import Settings

LISTED = 8
"""Classes that are drawn; the rest together."""


def adaptation(settings: Settings, entries: list[dict[str, Any]]) -> str:
    """A section of the report; '' for a run that does not adapt.

    Args:
        settings: of the run. entries: its log.
    """
    if not settings.adapt.target:
        return ""
    looks = [entry for entry in entries if entry["kind"] == "look"]
    pseudo = [entry for entry in entries if entry["kind"] == "pseudo"]
    alone = "" if settings.adapt.source else " without labelled images"
    said = [
        f"<p>Adapted to {escape(', '.join(settings.adapt.target))}{alone}. Scores and pictures are the teacher's.</p>"
    ]
    if pseudo:
        first, last = pseudo[0]["classes"], pseudo[-1]["classes"]
        rows = ["<tr><th>class</th><th>first</th><th>last</th></tr>"]
        rows += [
            f"<tr><td>{escape(name)}</td><td>{first[name]:.1%}</td><td>{last[name]:.1%}</td></tr>"
            for name in last
        ]
        said.append(f"<h3>Share of the pseudo-labels</h3><table>{''.join(rows)}</table>")
    return f"<h2>Pseudo-labels over time</h2>{said[0]}{drawing(looks, pseudo)}{''.join(said[1:])}"


def verdict(entries: list[dict[str, Any]]) -> str | None:
    """Whether an adaptation gained by its scores, in a sentence; None where the start or what came of it has none."""
    scored = [e for e in entries if e["kind"] == "validation" and e["mean"]["mIoU"] is not None]
    later = [entry for entry in scored if entry["iteration"] > 0]
    if not later or later == scored:
        return None
    start, best = scored[0]["mean"]["mIoU"], max(later, key=lambda entry: entry["mean"]["mIoU"])
    reached = best["mean"]["mIoU"]
    if reached > start:
        return (
            f"Mean mIoU {start:.1f} at the start, {reached:.1f} at iteration {best['iteration']}: best.pth."
        )
    return (
        f"The adaptation gained nothing: mean mIoU {start:.1f} at the start, {reached:.1f} at best (iteration "
        f"{best['iteration']}). best.pth is the start."
    )


def drawing(looks: list[dict[str, Any]], pseudo: list[dict[str, Any]]) -> str:
    """Confidence, weight and agreement, and the shares of the classes, over the iterations: an SVG element."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    sure, classes = figure.subplots(1, 2)
    for key, name in (("confidence", "mean confidence"), ("weight", "mean weight")):
        sure.plot([e["iteration"] for e in pseudo], [e[key] for e in pseudo], label=name)
    agreement = [entry["agreement"] for entry in looks]
    sure.plot([e["iteration"] for e in looks], agreement, marker="o", label="teacher and student agree")
    sure.set_ylim(0, 1.02)
    sure.set_title("pseudo-labels")
    sure.legend(frameon=False)
    if pseudo:
        names = sorted(pseudo[-1]["classes"], key=lambda name: -pseudo[0]["classes"][name])
        shares = [[entry["classes"][name] for entry in pseudo] for name in names[:LISTED]]
        rest = [sum(entry["classes"][name] for name in names[LISTED:]) for entry in pseudo]
        labels = names[:LISTED] + (["others"] if len(names) > LISTED else [])
        layers = shares + ([rest] if len(names) > LISTED else [])
        classes.stackplot([entry["iteration"] for entry in pseudo], layers, labels=labels)
        classes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    classes.set_title("classes of the pseudo-labels")
    for axes in (sure, classes):
        axes.set_xlabel("iteration")
        axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]
