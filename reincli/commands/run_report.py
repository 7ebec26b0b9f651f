"""What a run shows of itself: `curves.png`, `report.html`, sample predictions."""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from reincli.commands import html_page
from reincli.commands.adapt_page import adaptation
from reincli.config import Settings
from reincli.data.labels import Classes
from reincli.data.sources import Sample
from reincli.data.transforms import resize_image
from reincli.media.images import read_image
from reincli.media.paint import overlay
from reincli.media.whole_files import write_bytes
from reincli.settings_files import to_toml
from reincli.training.run_folder import read_log

SAMPLES, SAMPLE_WIDTH = "samples", 480
"""Folder of sample predictions, `samples/<iteration>/<domain>.jpg`, and their width in pixels."""
SHOWN = 6
"""Validations whose samples the report shows: the first, the last, and some between."""
PARTS = {"loss_cls": "class", "loss_mask": "mask", "loss_dice": "dice"}


def first_of_each_domain(samples: list[Sample]) -> list[Sample]:
    """One image a domain, in the order of the domains."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.domain, sample)
    return list(first.values())


def keep_sample(
    folder: Path, iteration: int, sample: Sample, prediction: np.ndarray, classes: Classes
) -> None:
    """Write one prediction over its image into the run's folder."""
    drawn = overlay(read_image(sample.image), prediction, classes.palette())
    name = re.sub(r'[<>:"/\\|?*]', "_", sample.domain)  # which no file's name has on every system
    path = folder / SAMPLES / str(iteration) / f"{name}.jpg"
    write_bytes(path, html_page.jpeg(drawn, SAMPLE_WIDTH))


def keep_target(
    folder: Path, iteration: int, number: int, image: Path, prediction: np.ndarray, classes: Classes
) -> None:
    """Write what the teacher sees on a target image, at the prediction's size, into the run's folder."""
    picture = resize_image(read_image(image), (prediction.shape[0], prediction.shape[1]))
    path = folder / SAMPLES / str(iteration) / f"target {number}.jpg"
    write_bytes(path, html_page.jpeg(overlay(picture, prediction, classes.palette()), SAMPLE_WIDTH))


def write(folder: Path, settings: Settings) -> None:
    """Draw the curves and the report anew from the run's log."""
    entries = read_log(folder)
    if not entries:
        return
    figure = curves(entries, settings.name)
    picture, drawing = io.BytesIO(), io.StringIO()
    figure.savefig(picture, format="png", dpi=110)
    figure.savefig(drawing, format="svg")
    write_bytes(folder / "curves.png", picture.getvalue())
    page = report_page(folder, settings, entries, drawing.getvalue())
    write_bytes(folder / "report.html", page.encode())


def curves(entries: list[dict[str, Any]], title: str) -> Any:
    """Loss, its parts, learning rate, and mIoU of each domain over the iterations: a matplotlib figure."""
    from matplotlib.figure import Figure  # slow to import

    steps = [entry for entry in entries if entry["kind"] == "step"]
    validations = [entry for entry in entries if entry["kind"] == "validation"]
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    (loss, parts), (rate, score) = figure.subplots(2, 2)
    loss.plot(*_points(steps, [entry["losses"]["loss"] for entry in steps]), color="#2a5bd7")
    loss.set_title("loss, all rounds")
    for key, name in PARTS.items():
        parts.plot(*_points(steps, [entry["losses"][key] for entry in steps]), label=name)
    parts.set_title("last round's parts, weighted")
    parts.legend(frameon=False)
    rate.plot(*_points(steps, [entry["lr"] for entry in steps]), color="#777777")
    rate.set_title("learning rate")
    domains = list(dict.fromkeys(name for entry in validations for name in entry["domains"]))
    for name in domains:
        held = [entry for entry in validations if name in entry["domains"]]
        score.plot(*_points(held, [entry["domains"][name]["mIoU"] for entry in held]), marker="o", label=name)
    if len(domains) > 1:
        means = [entry["mean"]["mIoU"] for entry in validations]
        score.plot(*_points(validations, means), marker="o", color="black", linewidth=2, label="mean")
    score.set_title("mIoU %" if domains else "mIoU %: not validated yet")
    if domains:
        score.legend(frameon=False)
    for axes in (loss, parts, rate, score):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, 1.02 * max([entry["iteration"] for entry in entries] + [1]))
    for axes in (rate, score):
        axes.set_xlabel("iteration")
    return figure


def _points(entries: list[dict[str, Any]], values: list[float | None]) -> tuple[list[int], list[float]]:
    return [entry["iteration"] for entry in entries], [np.nan if v is None else v for v in values]


# --- the page ----------------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
svg { width: 100%; height: auto; } table { border-collapse: collapse; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.samples { overflow-x: auto; } .samples img { width: 230px; display: block; } .samples td { padding: .2rem; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: 12px; }
.facts span { margin-right: 1.6rem; white-space: nowrap; }
"""


def report_page(folder: Path, settings: Settings, entries: list[dict[str, Any]], drawing: str) -> str:
    """One HTML page that needs nothing else: facts, curves, scores, samples over time, settings."""
    validations = [entry for entry in entries if entry["kind"] == "validation"]
    body = [
        f"<h1>{escape(settings.name)}</h1><p>{escape(settings.description)}</p>",
        facts(settings, entries),
    ]
    body.append("<h2>Curves</h2>" + drawing[drawing.index("<svg") :])
    if validations:
        body.append("<h2>mIoU % over time</h2>" + score_table(settings, validations))
        body.append("<h2>Last validation, IoU %</h2>" + class_table(validations[-1]))
    body.append(adaptation(settings, entries))
    shown = sample_rows(folder)
    if shown:
        body.append(f'<h2>Samples over time</h2><div class="samples"><table>{shown}</table></div>')
    changes = [entry for entry in entries if entry["kind"] == "settings"]
    if changes:
        body.append("<h2>Changed on the way</h2><ul>" + "".join(map(_change, changes)) + "</ul>")
    body.append(f"<h2>Settings</h2><pre>{escape(to_toml(settings))}</pre>")
    return html_page.page(settings.name, STYLE, "".join(body), "train")


def _change(entry: dict[str, Any]) -> str:
    """One change of settings as an item of a list."""
    pairs = ", ".join(f"{name}: {old} -> {new}" for name, (old, new) in entry["changed"].items())
    return f"<li>after iteration {entry['iteration']}: {escape(pairs)}</li>"


def facts(settings: Settings, entries: list[dict[str, Any]]) -> str:
    """How far it is, how fast, how much memory, how well."""
    steps = [entry for entry in entries if entry["kind"] == "step"]
    said = [f"<span>iteration <b>{entries[-1]['iteration']}</b> of {settings.train.iterations}</span>"]
    if steps:
        last = steps[-1]
        said += [
            f"<span>loss <b>{_number(last['losses']['loss'], 2)}</b></span>",
            f"<span><b>{last['images']:.1f}</b> images/s</span>",
            f"<span>waiting for data <b>{last['waiting']:.0%}</b></span>",
            f"<span>peak memory <b>{last['memory'] / 2**30:.1f} GiB</b></span>",
        ]
        skipped = sum(entry["skipped"] for entry in steps)
        if skipped:
            said.append(f"<span>skipped steps <b>{skipped}</b></span>")
    return f'<p class="facts">{"".join(said)}</p>'


def score_table(settings: Settings, validations: list[dict[str, Any]]) -> str:
    """A row a validation, a column a domain, the published score below."""
    domains = list(dict.fromkeys(name for entry in validations for name in entry["domains"]))
    rows = [
        "<tr><th>iteration</th>" + "".join(f"<th>{escape(n)}</th>" for n in domains) + "<th>mean</th></tr>"
    ]
    for entry in validations:
        cells = [_number(entry["domains"].get(name, {}).get("mIoU")) for name in domains]
        cells.append(f"<b>{_number(entry['mean']['mIoU'])}</b>")
        rows.append(
            f"<tr><td>{entry['iteration']}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    if any(name in settings.published for name in domains):
        cells = [_number(settings.published.get(name)) for name in domains]
        rows.append(
            "<tr><td>published</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "<td></td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def class_table(entry: dict[str, Any]) -> str:
    """A row a class, a column a domain."""
    domains = entry["domains"]
    names = list(next(iter(domains.values()))["IoU"])
    rows = ["<tr><th>class</th>" + "".join(f"<th>{escape(name)}</th>" for name in domains) + "</tr>"]
    for name in names:
        cells = "".join(f"<td>{_number(domain['IoU'][name])}</td>" for domain in domains.values())
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def sample_rows(folder: Path) -> str:
    """A row a domain, a column a validation."""
    found = sorted((int(path.name) for path in (folder / SAMPLES).glob("[0-9]*")), key=int)
    if len(found) > SHOWN:
        found = [found[round(index * (len(found) - 1) / (SHOWN - 1))] for index in range(SHOWN)]
    domains = sorted({path.stem for at in found for path in (folder / SAMPLES / str(at)).glob("*.jpg")})
    if not domains:
        return ""
    rows = ["<tr><th></th>" + "".join(f"<th>{at}</th>" for at in found) + "</tr>"]
    for domain in domains:
        cells = [_picture(folder / SAMPLES / str(at) / f"{domain}.jpg") for at in found]
        rows.append(f"<tr><td>{escape(domain)}</td>{''.join(cells)}</tr>")
    return "".join(rows)


def _picture(path: Path) -> str:
    return f"<td>{html_page.image(path.read_bytes(), 'jpeg') if path.exists() else ''}</td>"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
