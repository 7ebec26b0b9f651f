"""Sheets of pictures: grids with titles, and contact sheets with the name below each picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from reincli.media.legend import INK, PAPER
from reincli.media.text import fitted, measure, write


def sheet(
    pictures: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    *,
    cell_width: int = 480,
    footer: np.ndarray | None = None,
) -> np.ndarray:
    """Pictures in a grid with titles: columns above, rows at the left, turned upwards.

    Args:
        pictures: rows of pictures of any size; each is fitted to the width of a cell, its ratio kept.
        columns: titles of the columns, or none.
        rows: titles of the rows, or none.
        cell_width: in pixels.
        footer: a strip to put below, such as a legend; cut or filled up with paper to the width of the sheet.
    """
    text = max(13, round(cell_width * 0.042))
    gap = max(3, cell_width // 80)
    left = 2 * text + gap if rows else gap
    count = max(len(row) for row in pictures)
    width = left + count * (cell_width + gap)
    parts = [_titles(columns, left, cell_width, gap, width, text) if columns else paper(gap, width)]
    for index, row in enumerate(pictures):
        cells = [fit_width(picture, cell_width) for picture in row]
        band = paper(max(cell.shape[0] for cell in cells) + gap, width)
        for column, cell in enumerate(cells):
            x = left + column * (cell_width + gap)
            band[: cell.shape[0], x : x + cell_width] = cell
        if index < len(rows):
            band[:-gap, : 2 * text] = _upwards(rows[index], band.shape[0] - gap, text)
        parts.append(band)
    if footer is not None:
        strip = paper(footer.shape[0], width)
        kept = footer[:, : width - left]
        strip[:, left : left + kept.shape[1]] = kept
        parts.append(strip)
    return np.vstack(parts)


def contact(
    pictures: Sequence[np.ndarray], names: Sequence[str], *, columns: int, cell_width: int = 320
) -> np.ndarray:
    """Pictures in rows with the name of each below it; a name that is too long keeps its end.

    Args:
        pictures: of any size; each is fitted to the width of a cell, its ratio kept.
        names: one a picture.
        columns: pictures in a row.
        cell_width: in pixels.
    """
    text, gap = max(11, round(cell_width * 0.04)), max(4, cell_width // 40)
    columns = min(columns, len(pictures))
    width = gap + columns * (cell_width + gap)
    parts = [paper(gap, width)]
    for start in range(0, len(pictures), columns):
        cells = [fit_width(picture, cell_width) for picture in pictures[start : start + columns]]
        tallest = max(len(cell) for cell in cells)
        band = paper(tallest + round(2.2 * text) + gap, width)
        for column, cell in enumerate(cells):
            left = gap + column * (cell_width + gap)
            band[: len(cell), left : left + cell_width] = cell
            name = names[start + column]
            while measure(name, text) > cell_width and len(name) > 4:
                name = "..." + name[4:]
            write(band, name, left, len(cell) + round(1.1 * text), text, INK)
        parts.append(band)
    return np.vstack(parts)


def _titles(columns: Sequence[str], left: int, cell: int, gap: int, width: int, text: int) -> np.ndarray:
    band = paper(round(text * 2.2), width)
    for index, title in enumerate(columns):
        shown = fitted(title, text, cell)
        x = left + index * (cell + gap) + (cell - measure(shown, text)) // 2
        write(band, shown, x, band.shape[0] // 2, text, INK)
    return band


def title(title: str, width: int, text: int) -> np.ndarray:
    """A title over one panel, centred."""
    band = paper(round(text * 2.2), width)
    shown = fitted(title, text, width)
    write(band, shown, (width - measure(shown, text)) // 2, band.shape[0] // 2, text, INK)
    return band


def _upwards(title: str, height: int, text: int) -> np.ndarray:
    """(height, 2*text, 3): a title that reads from below, centred."""
    band = paper(2 * text, height)
    shown = fitted(title, text, height)
    write(band, shown, (height - measure(shown, text)) // 2, text, text, INK)
    return np.ascontiguousarray(np.rot90(band))


def fit_width(picture: np.ndarray, width: int) -> np.ndarray:
    """A picture at another width, its ratio kept."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    shrinks = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def paper(height: int, width: int) -> np.ndarray:
    """(height, width, 3), white."""
    return np.full((height, width, 3), PAPER, np.uint8)
