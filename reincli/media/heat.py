"""Heat over a picture: how strange each pixel is to a model, the scale that says so, and an outline at a threshold.

Pictures are (H, W, 3) uint8 RGB 0-255; an anomaly is (H, W) float32, at most 0 (see `ops.anomaly`). Colours mean the
same in every picture: the scale is fixed.
"""

from __future__ import annotations

import cv2
import numpy as np

from reincli.media.legend import INK, PAPER
from reincli.media.text import measure, write

COLDEST = -1.0
"""Anomaly at and below which a pixel has the colour of what is known; one that a class claims wholly has -0.76."""
TICKS = (-1.0, -0.75, -0.5, -0.25, 0.0)
OUTLINE = (0, 235, 255)
"""Cyan, which is no colour of the heat."""


def strength(anomaly: np.ndarray) -> np.ndarray:
    """Anomaly -> float32 0-1 along the scale. NaN is as strange as it gets."""
    return np.nan_to_num(1 - anomaly.astype(np.float32) / np.float32(COLDEST), nan=1.0).clip(0, 1)


def heat(
    image: np.ndarray, anomaly: np.ndarray, alpha: float = 0.5, threshold: float | None = None, width: int = 1
) -> np.ndarray:
    """The image in grey, warmer and brighter where it is stranger.

    Args:
        image: (H, W, 3).
        anomaly: (H, W).
        alpha: weight of the colours, 0 to 1.
        threshold: what is at least as strange is outlined; None: no outline.
        width: of the outline in pixels.
    """
    if image.shape[:2] != anomaly.shape:
        raise ValueError(f"image of {image.shape[:2]} and anomaly of {anomaly.shape} differ in size")
    warm = strength(anomaly)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    share = np.clip(alpha * (0.3 + 1.4 * warm), 0, 1)  # what is known lets the street be seen
    picture = cv2.blendLinear(_colours(warm), grey, share, 1 - share)
    if threshold is None:
        return picture
    strange = (anomaly >= threshold).astype(np.uint8)
    outlines, _ = cv2.findContours(strange, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture, outlines, -1, OUTLINE, width, cv2.LINE_AA)


def scale(width: int, height: int, threshold: float | None = None, told: str = "") -> np.ndarray:
    """A strip to put below a picture: the colours with their anomaly, and where the threshold lies.

    Args:
        width: of the strip in pixels. height: of the text in pixels.
        threshold: marked on the bar. told: what is said of it, at the end of the strip where there is room.
    """
    pad, bar, line = round(height * 0.9), round(height * 0.9), round(height * 1.4)
    sides = [measure(text, height) + pad // 2 for text in ("known", "unknown")]
    left, room = pad + sides[0], width - 2 * pad - sum(sides)
    note = measure(told, height) + 2 * pad if told else 0
    note = note if room - note > 12 * height else 0
    length = max(8, min(room - note, 40 * height))
    picture = np.full((pad + bar + line + pad // 2, width, 3), PAPER, np.uint8)
    colours = _colours(np.linspace(0, 1, length, dtype=np.float32)[None])[:, : max(0, width - left)]
    picture[pad : pad + bar, left : left + length] = colours
    middle = pad + bar // 2
    write(picture, "known", pad, middle, height, INK)
    write(picture, "unknown", left + length + pad // 2, middle, height, INK)
    for tick in TICKS if length > 12 * height else (TICKS[0], TICKS[-1]):
        place, text = left + _along(tick, length), f"{tick:g}"
        write(picture, text, place - measure(text, height) // 2, pad + bar + line // 2, height, INK)
    if threshold is not None:
        place, edge = left + _along(threshold, length), max(1, height // 8)
        corner = place + edge, pad + bar + bar // 3
        cv2.rectangle(picture, (place - edge, pad - bar // 3), corner, OUTLINE, -1)
        if note:
            write(picture, told, left + length + sides[1] + pad, middle, height, INK)
    return picture


def _along(value: float, length: int) -> int:
    return round(float(strength(np.array(value))) * (length - 1))


def _colours(warm: np.ndarray) -> np.ndarray:
    """(H, W) 0-1 -> (H, W, 3) uint8 RGB, from near black over purple and orange to pale yellow."""
    levels = np.rint(warm * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
