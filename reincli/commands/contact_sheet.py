"""Contact sheets of what `rein visualize` has drawn: PNG pages, and one HTML page that links to the drawings."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from reincli.commands import html_page
from reincli.commands.console import problem, progress
from reincli.commands.visualize_request import MAKER
from reincli.errors import ReinError
from reincli.media.drawing import write_drawing
from reincli.media.images import read_image
from reincli.media.inputs import Input
from reincli.media.outputs import Outputs, mark
from reincli.media.sheet import contact, fit_width
from reincli.media.video import Video
from reincli.media.whole_files import write_bytes
from reincli.prediction.stream import batched, mapped

COLUMNS, ROWS, CELL = 5, 20, 384
"""Pictures in a row, rows on a page, and width of a picture in pixels."""
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:24px;color:#262626;background:#fff}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:16px}"
    "figure{margin:0}img,video{width:100%;display:block}"
    "figcaption{padding:4px 0;color:#555;overflow-wrap:anywhere}"
)


def write_sheets(drawn: list[Input], out: Path) -> list[Path]:
    """Write `contact-sheet.png` (further pages with numbers) and `contact-sheet.html` of the drawings that are there.

    Returns:
        The files, none where nothing is drawn.
    """
    there = sorted((each for each in drawn if each.target.exists()), key=lambda each: str(each.target))
    if not there:
        return []
    base = "contact-sheet"
    while (out / f"{base}.png").resolve() in {each.target.resolve() for each in there}:
        base += "-"  # a picture of that name was drawn
    written = []
    outputs = Outputs(MAKER, (each.source for each in there))
    with progress("contact sheet", len(there)) as advance:
        for page, group in enumerate(batched(there, COLUMNS * ROWS), start=1):
            small = []
            for picture in mapped(_thumbnail, group, workers=2, depth=4):
                small.append(picture)
                advance()
            path = out / (f"{base}.png" if len(there) <= COLUMNS * ROWS else f"{base}-{page}.png")
            names = [each.target.relative_to(out).as_posix() for each in group]
            outputs.claim(path)
            write_drawing(path, contact(small, names, columns=COLUMNS, cell_width=CELL), mark(MAKER))
            written.append(path)
    path = out / f"{base}.html"
    write_bytes(path, _page(there, out).encode())
    return [*written, path]


def _thumbnail(each: Input) -> np.ndarray:
    """A drawing at the width of a cell; of a video the frame in its middle; grey where it cannot be read."""
    try:
        if each.kind == "image":
            return fit_width(read_image(each.target), CELL)
        video = Video(each.target)
        middle = video.frames // 2
        return fit_width(next(iter(video.read(range(middle, middle + 1)))), CELL)
    except (ReinError, StopIteration):
        problem(f"'{each.target}' cannot be read for the contact sheet.")
        return np.full((CELL * 9 // 16, CELL, 3), 200, np.uint8)


def _page(drawn: list[Input], out: Path) -> str:
    figures = []
    for each in drawn:
        name = each.target.relative_to(out).as_posix()
        link, shown = quote(os.fsencode(name)), escape(name)
        media = (
            f'<img loading="lazy" src="{link}" alt="{shown}">'
            if each.kind == "image"
            else f'<p>Video: <a href="{link}">{shown}</a></p>'
        )
        path = Path(os.path.relpath(each.source.absolute(), out.absolute()))
        original = quote(os.fsencode(path.as_posix()))
        figures.append(
            f'<figure><a href="{link}">{media}</a><figcaption>{shown} '
            f'(<a href="{original}">original</a>)</figcaption></figure>'
        )
    title = f"{len(drawn)} drawings"
    return html_page.page(title, STYLE, f"<h1>{title}</h1><main>{''.join(figures)}</main>", MAKER)
