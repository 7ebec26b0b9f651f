"""Text on pictures: measured and written anti-aliased, in TrueType where OpenCV brings it, else in strokes or letters.

Pictures are (H, W, 3) uint8 RGB. Heights are in pixels from ascender to descender.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from PIL import ImageFont

WEIGHT = 420
"""Of the letters: 400 is regular, 600 semibold."""


def measure(text: str, height: int) -> int:
    """Width in pixels of a line of text whose letters fill `height` pixels from ascender to descender."""
    text = _drawable(text)
    if _font() is None and not text.isascii():
        return math.ceil(_letters(height).getlength(text))
    if _font() is None:
        scale, weight = _hershey(height)
        return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)[0][0]
    box = cv2.getTextSize((10_000, 10_000), text, (0, 0), _font(), _pixels(height), WEIGHT)
    return int(box[2])


def write(
    picture: np.ndarray, text: str, left: int, middle: int, height: int, colour: tuple[int, int, int]
) -> None:
    """Write one line into the picture, centred on the row `middle`; anti-aliased."""
    text = _drawable(text)
    baseline = middle + round(height * 0.3)
    if _font() is None and not text.isascii():
        _write_letters(picture, text, left, baseline, height, colour)
    elif _font() is None:
        scale, weight = _hershey(height)
        cv2.putText(
            picture, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA
        )
    else:
        cv2.putText(picture, text, (left, baseline), colour, _font(), _pixels(height), WEIGHT)


def _letters(height: int) -> ImageFont.FreeTypeFont:
    """The face that matplotlib brings: the strokes of OpenCV 4 know ASCII alone."""
    import matplotlib

    return _face(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _pixels(height))


@functools.cache
def _face(path: Path, pixels: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(path, pixels)


def _write_letters(
    picture: np.ndarray, text: str, left: int, baseline: int, height: int, colour: tuple[int, int, int]
) -> None:
    from PIL import Image, ImageDraw

    drawn = Image.fromarray(picture)
    ImageDraw.Draw(drawn).text((left, baseline), text, fill=colour, font=_letters(height), anchor="ls")
    picture[...] = np.asarray(drawn)


def _drawable(text: str) -> str:
    """The text with '?' for what no encoding knows (names of files are any bytes): OpenCV breaks down over it."""
    return text.encode("utf-8", "replace").decode()


def _font() -> Any:
    """The TrueType face that OpenCV 5 brings; None in OpenCV 4, which has stroke fonts only."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _pixels(height: int) -> int:
    return max(6, round(height * 0.95))


def _hershey(height: int) -> tuple[float, int]:
    """Scale and stroke width; a letter is 21 units high at scale 1, its descender 9 more."""
    return height / 30, max(1, round(height / 16))


def fitted(text: str, height: int, room: int) -> str:
    """The text, cut with dots where it is wider than the room."""
    if measure(text, height) <= room:
        return text
    while text and measure(text + "...", height) > room:
        text = text[:-1]
    return text + "..." if text else ""
