"""The page of a score on unknown objects: figures, curves, and the images in which they were found best and worst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import cv2
import numpy as np

from reincli.commands import html_page, html_plots
from reincli.commands.html_plots import Line, plot
from reincli.commands.score_page import STYLE
from reincli.commands.score_table import percent, protocol_line
from reincli.data.labels import IGNORE
from reincli.media.heat import heat
from reincli.media.images import read_image_like
from reincli.media.paint import line_width
from reincli.ops.anomaly import from_16_bit, to_16_bit
from reincli.ops.pooled import UNKNOWN
from reincli.prediction.unknowns import ScoredUnknown

KEPT = 5
"""Images at each end of a source."""
WIDTH = 400
"""Pixels of a picture's width on the page."""
UNKNOWN_INK, LEFT_OUT = (255, 120, 0), (46, 46, 52)
"""Of unknown pixels and of pixels that are left out, in the picture of a label."""


@dataclass(frozen=True)
class Example:
    """One image of interest, without its arrays; anomaly (16 bits) and label as PNGs of the page's width.

    `shape`: (height, width) of the label's file, as which the image is to lie.
    """

    scored: ScoredUnknown
    shape: tuple[int, int]
    anomaly: bytes
    label: bytes

    @property
    def ap(self) -> float:
        """In percent."""
        return 100 * self.scored.figures.ap


class Ends:
    """Keeps of each source the images of highest and of lowest AP among those it is given."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.worst: dict[str, list[Example]] = {}
        self.best: dict[str, list[Example]] = {}

    def add(self, scored: ScoredUnknown) -> None:
        """Look at one image; one without an unknown pixel has no AP."""
        if not scored.figures.unknown:
            return
        worst, best = self.worst.setdefault(scored.source, []), self.best.setdefault(scored.source, [])
        ap = 100 * scored.figures.ap
        if len(worst) < KEPT or ap < worst[-1].ap or ap > best[-1].ap:
            example = self._example(scored)
            self.worst[scored.source] = sorted([*worst, example], key=lambda each: each.ap)[:KEPT]
            self.best[scored.source] = sorted([*best, example], key=lambda each: -each.ap)[:KEPT]

    def _example(self, scored: ScoredUnknown) -> Example:
        height, width = scored.label.shape
        size = (WIDTH, max(1, round(height * WIDTH / width)))
        small = cv2.resize(scored.anomaly, size, interpolation=cv2.INTER_AREA)
        label = cv2.resize(scored.label, size, interpolation=cv2.INTER_NEAREST)
        nothing = np.zeros((0, 0), np.float32)
        light = replace(scored, anomaly=nothing, confidence=nothing, label=nothing.astype(np.uint8))
        return Example(light, (height, width), _png(to_16_bit(small, self.classes)), _png(label))


def merge(parts: Sequence[Ends]) -> dict[str, tuple[list[Example], list[Example]]]:
    """(worst, best) of each source over the parts of several processes; no image is in both."""
    ends = {}
    for source in dict.fromkeys(name for part in parts for name in part.worst):
        found = {
            each.scored.place: each
            for part in parts
            for each in (*part.worst.get(source, ()), *part.best.get(source, ()))
        }
        ordered = sorted(found.values(), key=lambda each: (each.ap, each.scored.place))
        low = min(KEPT, -(-len(ordered) // 2))
        high = min(KEPT, len(ordered) - low)
        ends[source] = (ordered[:low], ordered[len(ordered) - high :][::-1])
    return ends


def page(
    result: Mapping[str, Any], ends: Mapping[str, tuple[Sequence[Example], Sequence[Example]]], classes: int
) -> str:
    """The whole page.

    Args:
        result: of `prediction.unknowns.report_unknowns`. ends: of `merge`. classes: K.
    """
    sources = result["unknown"]
    parts = [
        *_head(result),
        "<h2>Curves</h2><div class=plots>",
        *_plots(sources),
        "</div><h2>Images</h2><p class=soft>In the label, orange is unknown and dark is left out. The outline lies "
        "where 95 % of the unknown pixels of all images are found.</p>",
    ]
    for source, both in ends.items():
        for title, examples in zip(("worst", "best"), both, strict=True):
            if examples:
                parts.append(f"<h3>{escape(source)}: {title}</h3>")
                parts += [_figure(each, sources[source]["threshold"], classes) for each in examples]
    style = STYLE + html_plots.STYLE + ".row{grid-template-columns:repeat(3,minmax(0,1fr))}"
    return html_page.page(f"Unknown objects: {result['checkpoint']}", style, "\n".join(parts), "eval")


def figure_rows(sources: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """What is told of the sources, row by row: figures of the anomaly, and of low confidence for comparison."""
    keys = ("AP", "AUROC", "FPR95")
    rows = [(key, [found[key] for found in sources.values()]) for key in keys]
    rows.insert(1, ("AP by chance", [found["chance_AP"] for found in sources.values()]))
    for key in keys:
        rows.append((f"{key} of low confidence", [found["confidence"][key] for found in sources.values()]))
    return rows


def as_domains(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with its sources in the place of domains, for what speaks of the protocol."""
    return {**result, "domains": result["unknown"]}


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    yield "<h1>Unknown objects</h1>"
    yield f"<p class=soft>{escape(result['checkpoint'])}</p><p>{escape(protocol_line(as_domains(result)))}</p>"
    yield "<div class=scroll><table class=scores><thead><tr><th>%</th>"
    yield from (f"<th>{escape(name)}</th>" for name in result["unknown"])
    yield "</tr></thead><tbody>"
    for title, values in figure_rows(result["unknown"]):
        cells = "".join(f'<td style="--v:{value or 0:.1f}%">{percent(value)}</td>' for value in values)
        yield f"<tr><th>{title}</th>{cells}</tr>"
    yield "</tbody></table></div>"


def _plots(sources: Mapping[str, Any]) -> Iterator[str]:
    curves = {name: found["curve"] for name, found in sources.items()}
    yield plot(
        [Line(name, c["recall"], c["precision"]) for name, c in curves.items()], "recall %", "precision %"
    )
    rates = [Line(name, [0.0, *c["fpr"]], [0.0, *c["recall"]]) for name, c in curves.items()]
    yield plot(rates, "false positive rate %", "true positive rate %", diagonal=True, level=0.95)


def _figure(example: Example, threshold: float | None, classes: int) -> str:
    figures, sample = example.scored.figures, example.scored.sample
    strange, label = from_16_bit(_decoded(example.anomaly), classes), _decoded(example.label)
    height, width = label.shape
    image = cv2.resize(
        read_image_like(sample.image, example.shape), (width, height), interpolation=cv2.INTER_AREA
    )
    truth = image.copy()
    truth[label == IGNORE], truth[label == UNKNOWN] = LEFT_OUT, UNKNOWN_INK
    drawn = heat(image, strange, 0.5, threshold, line_width(strange.shape))
    panels = "".join(
        f"<div>{html_page.image(html_page.jpeg(picture, WIDTH), 'jpeg', title)}{title}</div>"
        for title, picture in (("image", image), ("label", truth), ("anomaly", drawn))
    )
    told = f"chance {100 * figures.chance:.2f}, FPR95 {100 * figures.fpr95:.1f}"
    caption = f"<b>AP {example.ap:.1f}</b> ({told}) {escape(sample.name)}"
    return f"<figure><figcaption>{caption}</figcaption><div class=row>{panels}</div></figure>"


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes()


def _decoded(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
