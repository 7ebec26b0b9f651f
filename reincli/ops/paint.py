"""Drawing label maps: colours, overlays, outlines, legends and sheets of pictures.

Pictures are (H, W, 3) uint8 RGB 0-255; label maps are (H, W) uint8 class indices with 255 for ignored pixels;
a palette is (256, 3) uint8 RGB, black where there is no class. Nothing here reads or writes files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

IGNORED = 255
"""Label of pixels without a class: black in a mask, untouched over an image."""
PAPER = (255, 255, 255)
INK = (38, 38, 38)
WEIGHT = 420
"""Of the letters: 400 is regular, 600 semibold."""


# --- one picture -------------------------------------------------------------------------------------------


def colourise(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Each pixel in the colour of its class; ignored pixels are black."""
    colours = np.ascontiguousarray(palette, np.uint8).copy()
    colours[IGNORED] = 0
    return colours[label]


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Class colours over the image with weight `alpha` (0 to 1), and a fine line where classes meet.

    The line makes neighbours of similar colour tell apart. Ignored pixels show the image.
    """
    _require_same_size(image, label)
    picture = cv2.addWeighted(colourise(label, palette), alpha, image, 1 - alpha, 0)
    ignored = label == IGNORED
    picture[ignored] = image[ignored]
    if alpha == 0:
        return picture
    width = line_width(label.shape)
    strength = 0.8 * alpha if width > 1 else 0.5 * alpha  # one pixel is much of a small picture
    return _blend(
        picture, np.broadcast_to(np.uint8(255), picture.shape), strength * _soft_edges(label, width // 2)
    )


def boundary(image: np.ndarray, label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The image with each region outlined in the colour of its class; a pale core shows on any image."""
    _require_same_size(image, label)
    width = line_width(label.shape)
    outlined = _blend(image, colourise(label, palette), _soft_edges(label, width + 1))
    core = _soft_edges(label, width // 3) * 0.85
    return _blend(outlined, np.broadcast_to(np.uint8(255), image.shape), core)


def side(image: np.ndarray, label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Image and mask beside each other; below each other where the image is very wide."""
    _require_same_size(image, label)
    height, width = label.shape
    gap = max(2, round(math.hypot(height, width) / 200))
    mask = colourise(label, palette)
    if width > 2.5 * height:
        return np.vstack([image, np.full((gap, width, 3), PAPER, np.uint8), mask])
    return np.hstack([image, np.full((height, gap, 3), PAPER, np.uint8), mask])


def render(
    image: np.ndarray,
    label: np.ndarray,
    palette: np.ndarray,
    names: Sequence[str] = (),
    *,
    style: str = "overlay",
    alpha: float = 0.5,
) -> np.ndarray:
    """A prediction in one of the styles overlay, side, mask and boundary.

    Args:
        image: (H, W, 3).
        label: (H, W).
        palette: (256, 3).
        names: class names for a legend below the picture; empty: no legend.
        style: how to draw; ValueError for another word.
        alpha: weight of the colours in `overlay`.
    """
    if style == "overlay":
        picture = overlay(image, label, palette, alpha)
    elif style == "boundary":
        picture = boundary(image, label, palette)
    elif style == "side":
        picture = side(image, label, palette)
    elif style == "mask":
        picture = colourise(label, palette)
    else:
        raise ValueError(f"style '{style}' is none of overlay, side, mask, boundary")
    if not names:
        return picture
    strip = legend(present(label), names, palette, picture.shape[1], text_height(label.shape))
    return np.vstack([picture, strip])


def line_width(shape: tuple[int, ...]) -> int:
    """Width in pixels of an outline that is fine and visible on an image of (H, W): 1 at 320, 5 at 4K."""
    return max(1, round(min(shape[:2]) / 400))


def text_height(shape: tuple[int, ...]) -> int:
    """Height in pixels of text that reads well on an image of (H, W): 11 at 320x240, 53 at 4K."""
    return max(11, round(math.hypot(*shape[:2]) * 0.012))


def _soft_edges(label: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) float32 0-1: 1 where another class is nearer than `reach` pixels, with a smooth fall.

    Two passes over the map, however many classes: where they meet, its local minimum is below its maximum.
    A class next to ignored pixels has no edge there; 255 is no minimum, and 0 in its place no maximum.
    """
    size = 2 * reach + 1 if reach else 2  # 2x2 draws one pixel, 3x3 one on each side
    kernel = (
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        if size > 3
        else np.ones((size, size), np.uint8)
    )
    ignored = label == IGNORED
    highest = cv2.dilate(np.where(ignored, np.uint8(0), label), kernel)
    edges = ((highest > cv2.erode(label, kernel)) & ~ignored).astype(np.float32)
    return cv2.GaussianBlur(edges, (0, 0), 0.35 + 0.12 * reach) if reach else edges


def _blend(below: np.ndarray, above: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`above` over `below` with a weight 0-1 a pixel; touches only the pixels that have one."""
    where = weight > 0.004  # less than one grey level
    share = weight[where][:, None]
    picture = below.copy()
    picture[where] = np.rint(below[where] * (1 - share) + above[where] * share).astype(np.uint8)
    return picture


def _require_same_size(image: np.ndarray, label: np.ndarray) -> None:
    if image.shape[:2] != label.shape:
        raise ValueError(f"image of {image.shape[:2]} and label of {label.shape} differ in size")


# --- text --------------------------------------------------------------------------------------------------


def measure(text: str, height: int) -> int:
    """Width in pixels of a line of text whose letters fill `height` pixels from ascender to descender."""
    if _font() is None:
        scale, weight = _hershey(height)
        return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)[0][0]
    box = cv2.getTextSize((10_000, 10_000), text, (0, 0), _font(), _pixels(height), WEIGHT)
    return int(box[2])


def write(
    picture: np.ndarray, text: str, left: int, middle: int, height: int, colour: tuple[int, int, int]
) -> None:
    """Write one line into the picture, centred on the row `middle`; anti-aliased."""
    baseline = middle + round(height * 0.3)
    if _font() is None:
        scale, weight = _hershey(height)
        cv2.putText(
            picture, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA
        )
    else:
        cv2.putText(picture, text, (left, baseline), colour, _font(), _pixels(height), WEIGHT)


def _font() -> Any:
    """The TrueType face that OpenCV 5 brings; None in OpenCV 4, which has stroke fonts only."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _pixels(height: int) -> int:
    return max(6, round(height * 0.95))


def _hershey(height: int) -> tuple[float, int]:
    """Scale and stroke width; a letter is 21 units high at scale 1, its descender 9 more."""
    return height / 30, max(1, round(height / 16))


# --- legend ------------------------------------------------------------------------------------------------


def present(label: np.ndarray) -> list[int]:
    """Indices of the classes in a label map, ascending, without the ignored."""
    counts = np.bincount(label.ravel(), minlength=256)
    return [int(index) for index in np.flatnonzero(counts) if index != IGNORED]


def legend(
    indices: Sequence[int], names: Sequence[str], palette: np.ndarray, width: int, height: int
) -> np.ndarray:
    """A strip to put below a picture: colour and name of classes, in even columns.

    Args:
        indices: classes to list, see `present`.
        names: class names; a class beyond them is shown by its index.
        palette: (256, 3).
        width: of the strip in pixels.
        height: of the text in pixels, see `text_height`.

    Returns:
        (h, width, 3), h as many rows as it takes; 0 where there is nothing to list.
    """
    if not indices:
        return _paper(0, width)
    shown = [names[i] if i < len(names) else f"class {i}" for i in indices]
    pad, swatch, gap, between = (round(height * share) for share in (0.7, 1.05, 0.45, 1.2))
    room = max(1, width - 2 * pad)
    widest = swatch + gap + max(measure(name, height) for name in shown) + between
    columns = max(1, min(len(shown), (room + between) // widest))
    rows = math.ceil(len(shown) / columns)
    columns = math.ceil(len(shown) / rows)  # the same rows, evenly filled
    step = min(room // columns, round(widest * 1.25))
    line = round(height * 1.6)
    strip = _paper(2 * pad + (rows - 1) * line + swatch, width)
    for position, (index, name) in enumerate(zip(indices, shown, strict=True)):
        row, column = divmod(position, columns)
        left, top = pad + column * step, pad + row * line
        _rounded(strip, left, top, swatch, palette[index])
        text = _fitted(name, height, width - left - swatch - gap)
        write(strip, text, left + swatch + gap, top + swatch // 2, height, INK)
    return strip


def _fitted(text: str, height: int, room: int) -> str:
    """The text, cut with dots where it is wider than the room."""
    if measure(text, height) <= room:
        return text
    while text and measure(text + "...", height) > room:
        text = text[:-1]
    return text + "..." if text else ""


def _rounded(picture: np.ndarray, left: int, top: int, size: int, colour: np.ndarray) -> None:
    """A filled square with soft corners; drawn four times larger and shrunk, so that they are smooth."""
    large, corner = size * 4, round(size * 0.8)
    shape = np.zeros((large, large), np.uint8)
    for x in (corner, large - 1 - corner):
        for y in (corner, large - 1 - corner):
            cv2.circle(shape, (x, y), corner, 255, -1)
    cv2.rectangle(shape, (corner, 0), (large - 1 - corner, large - 1), 255, -1)
    cv2.rectangle(shape, (0, corner), (large - 1, large - 1 - corner), 255, -1)
    weight = cv2.resize(shape, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    window = picture[top : top + size, left : left + size]
    weight = weight[: window.shape[0], : window.shape[1]]
    window[:] = _blend(window, np.broadcast_to(colour, window.shape), weight)


# --- many pictures -----------------------------------------------------------------------------------------


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
    parts = [_titles(columns, left, cell_width, gap, width, text) if columns else _paper(gap, width)]
    for index, row in enumerate(pictures):
        cells = [_fit_width(picture, cell_width) for picture in row]
        band = _paper(max(cell.shape[0] for cell in cells) + gap, width)
        for column, cell in enumerate(cells):
            x = left + column * (cell_width + gap)
            band[: cell.shape[0], x : x + cell_width] = cell
        if index < len(rows):
            band[:-gap, : 2 * text] = _upwards(rows[index], band.shape[0] - gap, text)
        parts.append(band)
    if footer is not None:
        strip = _paper(footer.shape[0], width)
        kept = footer[:, : width - left]
        strip[:, left : left + kept.shape[1]] = kept
        parts.append(strip)
    return np.vstack(parts)


def _titles(columns: Sequence[str], left: int, cell: int, gap: int, width: int, text: int) -> np.ndarray:
    band = _paper(round(text * 2.2), width)
    for index, title in enumerate(columns):
        shown = _fitted(title, text, cell)
        x = left + index * (cell + gap) + (cell - measure(shown, text)) // 2
        write(band, shown, x, band.shape[0] // 2, text, INK)
    return band


def _upwards(title: str, height: int, text: int) -> np.ndarray:
    """(height, 2*text, 3): a title that reads from below, centred."""
    band = _paper(2 * text, height)
    shown = _fitted(title, text, height)
    write(band, shown, (height - measure(shown, text)) // 2, text, text, INK)
    return np.ascontiguousarray(np.rot90(band))


def _fit_width(picture: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    shrinks = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)
