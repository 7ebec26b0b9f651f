"""Strong colour changes of labelled images in an adaptation (arXiv 2503.10685), each as torchvision defines it.

Images are (H, W, 3) uint8 0-255 RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

JITTER, HUE = 0.8, 0.4
"""Factors of brightness, contrast and saturation are 1 +- JITTER, the turn of hue is +- HUE of the circle."""
JITTERED, GREY, BLURRED = 0.8, 0.1, 0.5
"""How often colours are changed, taken away, and the image is blurred."""
SIGMA = (0.15, 1.15)
"""Of the blur, in pixels."""
LUMA = (0.299, 0.587, 0.114)
"""Parts of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True)
class StrongChange:
    """What was drawn for one image; None or False: not applied.

    Attributes:
        order: in which brightness (0), contrast (1), saturation (2) and hue (3) are changed; empty: they stay.
        brightness, contrast, saturation: factors. hue: turn, in circles.
    """

    order: tuple[int, ...] = ()
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    grey: bool = False
    sigma: float | None = None


def draw_strong_change(rng: np.random.Generator) -> StrongChange:
    """Draw a change; as many numbers are drawn whatever comes of them."""
    jittered, grey, blurred = (rng.uniform(size=3) < (JITTERED, GREY, BLURRED)).tolist()
    order = tuple(rng.permutation(4).tolist())
    brightness, contrast, saturation = rng.uniform(1 - JITTER, 1 + JITTER, 3).tolist()
    hue, sigma = float(rng.uniform(-HUE, HUE)), float(rng.uniform(*SIGMA))
    return StrongChange(
        order if jittered else (), brightness, contrast, saturation, hue, grey, sigma if blurred else None
    )


def recolored(image: np.ndarray, change: StrongChange) -> np.ndarray:
    """An image with its colours changed, (H, W, 3) uint8; computed in float32 and rounded once."""
    colors: np.ndarray = image.astype(np.float32) / 255
    for which in change.order:
        if which == 0:
            colors = colors * change.brightness
        elif which == 1:
            colors = _blend(colors, np.float32(_grey(colors).mean()), change.contrast)
        elif which == 2:
            colors = _blend(colors, _grey(colors)[..., None], change.saturation)
        else:
            colors = _turned(colors, change.hue)
        colors = np.clip(colors, 0, 1)
    if change.grey:
        colors = np.repeat(_grey(colors)[..., None], 3, axis=2)
    if change.sigma is not None:
        colors = cv2.GaussianBlur(colors, (0, 0), change.sigma)
    return np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)


def _grey(colors: np.ndarray) -> np.ndarray:
    return colors @ np.asarray(LUMA, np.float32)


def _blend(colors: np.ndarray, other: np.ndarray | np.float32, factor: float) -> np.ndarray:
    return np.float32(factor) * colors + np.float32(1 - factor) * other


def _turned(colors: np.ndarray, hue: float) -> np.ndarray:
    hsv = cv2.cvtColor(np.ascontiguousarray(colors, np.float32), cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv[..., 0] = (hsv[..., 0] + 360 * hue) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
