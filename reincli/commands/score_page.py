"""The report of an evaluation: one HTML page with everything in it, which opens without any other file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from reincli.commands import html_page, html_plots
from reincli.commands.certainty import section
from reincli.commands.score_examples import Example, Panel, draw
from reincli.commands.score_table import WIDE, mean_of, percent, protocol_line
from reincli.config import DataSettings
from reincli.data.labels import Classes

STYLE = """
:root{--ink:#22252a;--soft:#666e78;--line:#dfe3e8;--blue:32,96,160;--red:214,72,28}
*{box-sizing:border-box}
body{font:14px/1.45 system-ui,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:#fff;margin:0 auto;
 max-width:1720px;padding:24px 32px 64px}
h1{font-size:22px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 10px;border-bottom:1px solid var(--line);
 padding-bottom:6px}h3{font-size:15px;margin:22px 0 6px}
p{margin:4px 0}.soft{color:var(--soft)}.warn{background:#fff3d6;border-left:4px solid #e0a100;padding:8px 12px}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}
.tile{border:1px solid var(--line);border-radius:8px;padding:10px 16px;min-width:120px}
.tile b{display:block;font-size:24px;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th{font-weight:600;text-align:left;padding:3px 10px}td{padding:3px 10px;text-align:right}
.scores thead th{text-align:right}.scores thead th:first-child{text-align:left}
.scores td{background:linear-gradient(90deg,rgba(var(--blue),.22) var(--v,0%),transparent var(--v,0%));
 border-left:3px solid #fff;min-width:84px}
.scores tr.sum td,.scores tr.sum th{border-top:1px solid var(--line);font-weight:600}
.pair{display:flex;flex-wrap:wrap;gap:0 56px}.pair section{min-width:0;max-width:100%}.pair p{max-width:620px}
.swatch{display:inline-block;width:13px;height:13px;border-radius:3px;margin-right:7px;vertical-align:-2px;
 border:1px solid rgba(0,0,0,.25)}
.matrix{font-size:11px}.matrix td{padding:0;width:30px;min-width:30px;height:22px;text-align:center}
.matrix th{padding:0 8px;white-space:nowrap;font-weight:500}
.matrix thead th{height:118px;vertical-align:bottom;padding:0 0 4px}
.matrix thead span.turn{writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap}
.matrix thead .swatch{margin:0 0 6px;transform:rotate(180deg)}
details{margin:8px 0}summary{cursor:pointer;font-weight:600}
.classes{display:flex;flex-wrap:wrap;gap:4px 18px}
figure{margin:0 0 16px}figcaption{margin-bottom:4px;overflow-wrap:anywhere}
.row{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:6px}
.row div{font-size:12px;color:var(--soft)}.row img{width:100%;display:block;border-radius:3px}
"""


def page(
    result: Mapping[str, Any],
    matrices: Mapping[str, np.ndarray],
    classes: Classes,
    ends: Mapping[str, tuple[Sequence[Example], Sequence[Example]]],
    data: DataSettings,
) -> str:
    """The whole page.

    Args:
        result: of `prediction.results.report`.
        matrices: (K, K) by domain.
        classes: names and colours.
        ends: (worst, best) images of each domain; of more domains than a table has columns for, only those of the mean
            are drawn.
        data: where the examples' files lie.
    """
    drawn = list(ends) if len(ends) <= WIDE else [name for name in ends if name in result["mean"]["domains"]]
    parts = [
        *_head(result),
        "<div class=pair><section><h2>Scores</h2>",
        *_scores(result, classes),
        "</section><section><h2>Confusion</h2>",
        "<p class=soft>Rows are labels, columns predictions; a cell is the share of the row's pixels in percent. "
        "Blue: found. Red: taken for another class.</p>",
        *_matrices(matrices, classes),
        "</section></div>",
        *section(result),
        "<h2>Classes</h2>",
        f"<div class=classes>{''.join(f'<span>{_named(classes, i)}</span>' for i in range(len(classes)))}</div>",
        "<h2>Images</h2>",
        "<p class=soft>The score of an image is the mean IoU of the classes in its label. Error map: vermilion is "
        "wrong, dark is not labelled.</p>",
    ]
    for domain in drawn:
        for title, examples in zip(("worst", "best"), ends[domain], strict=True):
            if examples:
                parts.append(f"<h3>{escape(domain)}: {title}</h3>")
                parts += [_figure(example, classes, data) for example in examples]
    return html_page.page(
        f"Scores of {result['checkpoint']}", STYLE + html_plots.STYLE, "\n".join(parts), "eval"
    )


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h1>{escape(result['preset'] or 'Evaluation')}</h1>"
    yield f"<p class=soft>{escape(result['checkpoint'])}</p><p>{escape(protocol_line(result))}</p>"
    if not result["complete"]:
        yield "<p class=warn>Partial: the evaluation was interrupted. These are not scores to cite.</p>"
    for text in result.get("doubts", ()):
        yield f"<p class=warn>{escape(text)}</p>"
    for source, count in result["left_out"].items():
        yield f"<p class=warn>{count} files of {escape(source)} were left out for want of image or label.</p>"
    mean = result["mean"]
    tiles = [(f"mean mIoU of {mean_of(mean['domains'])}", mean["mIoU"])]
    if result["published_mean"] is not None:
        tiles.append(("published", result["published_mean"]))
    if len(result["domains"]) <= WIDE:
        tiles += [(f"{name} mIoU", domain["mIoU"]) for name, domain in result["domains"].items()]
    cells = "".join(f"<div class=tile><b>{percent(value)}</b>{escape(name)}</div>" for name, value in tiles)
    yield f"<div class=tiles>{cells}</div>"
    if result["published"] and not result["published_protocol"]:
        yield "<p class=soft>The published scores are of the setting's own test sizes and mode, not of these.</p>"


def _scores(result: Mapping[str, Any], classes: Classes) -> Iterator[str]:
    domains, published = result["domains"], result["published"]
    yield "<div class=scroll><table class=scores><thead><tr><th>IoU %</th>"
    yield from (f"<th>{escape(name)}</th>" for name in domains)
    yield "</tr></thead><tbody>"
    for index, name in enumerate(classes.names):
        cells = "".join(_bar(domain["IoU"][name]) for domain in domains.values())
        yield f"<tr><th>{_named(classes, index)}</th>{cells}</tr>"
    for key in ("mIoU", "mAcc", "aAcc"):
        cells = "".join(_bar(domain[key]) for domain in domains.values())
        yield f"<tr class=sum><th>{key}</th>{cells}</tr>"
    if any(name in published for name in domains):
        yield f"<tr><th>published</th>{''.join(_bar(published.get(name)) for name in domains)}</tr>"
    for key, title in (("images", "images"), ("test_size", "test size")):
        cells = "".join(f"<td>{escape(str(domain[key]))}</td>" for domain in domains.values())
        yield f"<tr><th>{title}</th>{cells}</tr>"
    yield "</tbody></table></div>"


def _bar(value: float | None) -> str:
    return f'<td style="--v:{value or 0:.1f}%">{percent(value)}</td>'


def _named(classes: Classes, index: int) -> str:
    red, green, blue = classes.colors[index]
    return (
        f'<span class=swatch style="background:rgb({red},{green},{blue})"></span>'
        f"{escape(classes.names[index])}"
    )


def _matrices(matrices: Mapping[str, np.ndarray], classes: Classes) -> Iterator[str]:
    if len(matrices) > 1:
        whole = sum(matrices.values(), np.zeros((len(classes), len(classes)), np.int64))
        yield f"<details open><summary>all domains together</summary>{_matrix(whole, classes)}</details>"
    for index, (name, matrix) in enumerate(matrices.items()):
        shown = " open" if index == 0 and len(matrices) == 1 else ""
        yield f"<details{shown}><summary>{escape(name)}</summary>{_matrix(matrix, classes)}</details>"


def _matrix(matrix: np.ndarray, classes: Classes) -> str:
    columns = "".join(
        f'<th><span class=turn><span class=swatch style="background:rgb{classes.colors[i]}"></span>'
        f"{escape(name)}</span></th>"
        for i, name in enumerate(classes.names)
    )
    rows = []
    for row, counts in enumerate(matrix):
        total = int(counts.sum())
        cells = [_cell(int(count), total, row, column, classes.names) for column, count in enumerate(counts)]
        rows.append(f"<tr><th>{_named(classes, row)}</th>{''.join(cells)}</tr>")
    return (
        f"<div class=scroll><table class=matrix><thead><tr><th></th>{columns}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(count: int, total: int, row: int, column: int, names: Sequence[str]) -> str:
    if not count:
        return "<td></td>"
    share = count / total
    colour = "blue" if row == column else "red"
    strength = 0.08 + 0.8 * share**0.5 if share >= 0.001 else 0.0
    ink = ";color:#fff" if strength > 0.7 else ""
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    title = escape(f"{names[row]} as {names[column]}: {share:.2%}, {count:,} pixels", quote=True)
    return f'<td title="{title}" style="background:rgba(var(--{colour}),{strength:.2f}){ink}">{text}</td>'


def _figure(example: Example, classes: Classes, data: DataSettings) -> str:
    drawing = draw(example, classes, data)
    mistakes = "; ".join(drawing.mistakes)
    caption = f"<b>{example.score:.1f}</b> {escape(example.sample.name)}"
    if mistakes:
        caption += f" <span class=soft>{escape(mistakes)}</span>"
    panels = "".join(_picture(panel) for panel in drawing.panels)
    return f"<figure><figcaption>{caption}</figcaption><div class=row>{panels}</div></figure>"


def _picture(panel: Panel) -> str:
    return f"<div>{html_page.image(panel.data, panel.kind, panel.title)}{escape(panel.title)}</div>"
