"""Drawing label maps: colours, overlays, outlines, errors, comparisons and sheets of pictures.

Pictures are (H, W, 3) uint8 RGB 0-255; label maps are (H, W) uint8 class indices with 255 for ignored pixels;
a palette is (256, 3) uint8 RGB, black where there is no class; a confidence is (H, W) float32 0-1 (see
`ops.confidence`). Nothing here reads or writes files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from reincli.media.heat import heat, scale
from reincli.media.legend import IGNORED, PAPER, Entry, class_entries, legend, present, strip
from reincli.media.sheet import paper, sheet, title

__all__ = [
    "Look",
    "boundary",
    "colourise",
    "compare",
    "error",
    "error_rate",
    "legend",
    "line_width",
    "overlay",
    "present",
    "render",
    "sheet",
    "side",
    "text_height",
]

STYLES = ("overlay", "side", "mask", "boundary", "error", "anomaly")
"""Ways to draw one prediction; `compare` puts two beside each other."""
WRONG = (230, 75, 20)
"""Wrong pixels of the style `error`: vermilion, which colour-blind people tell from grey, too."""
UNLABELLED = (46, 46, 52)
CONFUSIONS = 3
"""How many kinds of mistake the legend of `error` names, and the least share of pixels that is worth a name."""
WORTH_NAMING = 0.002
SURE, UNSURE = 0.95, 0.35
"""Confidence at and above which colours are full, and at and below which they are gone."""


@dataclass(frozen=True)
class Look:
    """How a prediction is drawn.

    Attributes:
        style: one of `STYLES`.
        alpha: weight of the colours in `overlay`, 0 to 1.
        legend: whether colours are named below the picture.
        threshold: anomaly from which `anomaly` outlines; None: no outline.
        abstain: confidence (0-1) below which pixels were left out of the label map (255), for the legend; None: none.
        every_class: the legend lists all classes at fixed places, absent ones faintly: for the frames of a video,
            which must not change their size.
    """

    style: str = "overlay"
    alpha: float = 0.5
    legend: bool = True
    every_class: bool = False
    threshold: float | None = None
    abstain: float | None = None


# --- one picture -------------------------------------------------------------------------------------------


def colourise(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Each pixel in the colour of its class; ignored pixels are black."""
    colours = np.ascontiguousarray(palette, np.uint8).copy()
    colours[IGNORED] = 0
    return cv2.LUT(cv2.merge([label] * 3), colours[None])


def overlay(
    image: np.ndarray,
    label: np.ndarray,
    palette: np.ndarray,
    alpha: float = 0.5,
    confidence: np.ndarray | None = None,
) -> np.ndarray:
    """Class colours over the image with weight `alpha` (0 to 1), and a fine line where classes meet.

    The line makes neighbours of similar colour tell apart. Ignored pixels show the image, and with a confidence
    all the more of it shows the less sure the prediction is.
    """
    _require_same_size(image, label)
    if confidence is None:
        picture = cv2.addWeighted(colourise(label, palette), alpha, image, 1 - alpha, 0)
    else:
        picture = _mix(image, colourise(label, palette), alpha * _strength(confidence))
    ignored = label == IGNORED
    if ignored.any():
        picture[ignored] = image[ignored]
    if alpha == 0:
        return picture
    width = line_width(label.shape)
    strength = 0.8 * alpha if width > 1 else 0.5 * alpha  # one pixel is much of a small picture
    return _blend(picture, np.array(PAPER, np.uint8), strength * _soft_edges(label, width // 2))


def boundary(
    image: np.ndarray, label: np.ndarray, palette: np.ndarray, confidence: np.ndarray | None = None
) -> np.ndarray:
    """The image with each region outlined in the colour of its class; a pale core shows on any image.

    Where two classes meet no model is sure: outlines go by the surest pixel near them.
    """
    _require_same_size(image, label)
    width = line_width(label.shape)
    sure: np.ndarray | float = 1.0
    if confidence is not None:
        reach = round(math.hypot(*label.shape) / 60)
        sure = 0.15 + 0.85 * _strength(
            cv2.dilate(confidence, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        )
    outlined = _blend(image, colourise(label, palette), _soft_edges(label, width + 1) * sure)
    return _blend(outlined, np.array(PAPER, np.uint8), _soft_edges(label, width // 3) * 0.85 * sure)


def mask(label: np.ndarray, palette: np.ndarray, confidence: np.ndarray | None = None) -> np.ndarray:
    """Class colours, ignored pixels black; with a confidence they fade to paper where it is low."""
    picture = colourise(label, palette)
    if confidence is None:
        return picture
    return _mix(np.broadcast_to(np.array(PAPER, np.uint8), picture.shape), picture, _strength(confidence))


def side(
    image: np.ndarray, label: np.ndarray, palette: np.ndarray, confidence: np.ndarray | None = None
) -> np.ndarray:
    """Image and mask beside each other; below each other where the image is very wide."""
    _require_same_size(image, label)
    return _beside([image, mask(label, palette, confidence)])


def error(
    image: np.ndarray, label: np.ndarray, truth: np.ndarray, confidence: np.ndarray | None = None
) -> np.ndarray:
    """Where a prediction is wrong: vermilion over the image in grey; what has no label (255) is dark.

    With a confidence, mistakes made with assurance are vivid and doubtful ones faint.
    """
    _require_same_size(image, label)
    _require_same_size(image, truth)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    grey = cv2.addWeighted(
        grey, 0.75, np.full_like(grey, 255), 0.25, 0
    )  # paler: vermilion shows on black, too
    weight = np.where((label != truth) & (truth != IGNORED), np.float32(0.78), np.float32(0))
    if confidence is not None:
        weight *= 0.15 + 0.85 * _strength(confidence)
    weight[truth == IGNORED] = 0
    picture = _blend(grey, np.array(WRONG, np.uint8), weight)
    dark = truth == IGNORED
    picture[dark] = (grey[dark] * 0.28 + np.array(UNLABELLED, np.float32) * 0.5).astype(np.uint8)
    return picture


def error_rate(label: np.ndarray, truth: np.ndarray) -> float:
    """Share of wrong pixels among those with a label, 0 to 1; 0 where nothing has a label."""
    counted = truth != IGNORED
    return float(((label != truth) & counted).sum() / max(1, counted.sum()))


def mistakes(label: np.ndarray, truth: np.ndarray, most: int = CONFUSIONS) -> list[tuple[int, int, float]]:
    """The commonest mistakes, commonest first: (right class, drawn class, share of the labelled pixels 0 to 1)."""
    counted = truth != IGNORED
    wrong = counted & (label != truth)
    pairs = np.bincount(truth[wrong].astype(np.int64) * 256 + label[wrong], minlength=1)
    total = max(1, int(counted.sum()))
    top = [int(pair) for pair in np.argsort(-pairs, kind="stable")[:most] if pairs[pair]]
    return [(*divmod(pair, 256), float(pairs[pair] / total)) for pair in top]


def render(
    image: np.ndarray,
    label: np.ndarray,
    palette: np.ndarray,
    names: Sequence[str] = (),
    look: Look | None = None,
    *,
    truth: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    anomaly: np.ndarray | None = None,
) -> np.ndarray:
    """A prediction in one of the `STYLES`, with its legend below.

    Args:
        image: (H, W, 3).
        label: (H, W).
        palette: (256, 3).
        names: class names for the legend.
        look: style and options.
        truth: (H, W), the right labels; needed by `error` alone.
        confidence: (H, W) 0-1: what is unsure is drawn faintly.
        anomaly: (H, W), at most 0; needed by `anomaly` alone, which draws no classes.

    Raises:
        ValueError: an unknown style, `error` without truth, `anomaly` without anomaly, or sizes that differ.
    """
    look = look or Look()
    if look.style == "anomaly":
        if anomaly is None:
            raise ValueError("style 'anomaly' needs the anomaly of each pixel")
        return _strange(image, anomaly, look)
    if look.style == "overlay":
        picture = overlay(image, label, palette, look.alpha, confidence)
    elif look.style == "boundary":
        picture = boundary(image, label, palette, confidence)
    elif look.style == "side":
        picture = side(image, label, palette, confidence)
    elif look.style == "mask":
        picture = mask(label, palette, confidence)
    elif look.style == "error" and truth is not None:
        picture = error(image, label, truth, confidence)
    elif look.style == "error":
        raise ValueError("style 'error' needs the right labels")
    else:
        raise ValueError(f"style '{look.style}' is none of {', '.join(STYLES)}")
    if not look.legend:
        return picture
    if look.style == "error" and truth is not None:
        entries = _error_entries(label, truth, names, palette)
    else:
        entries = _entries(present(label), names, palette, look)
    if look.abstain is not None:
        share = (label == IGNORED).mean()
        entries.append(Entry(f"left out, less than {look.abstain:.0%} sure: {share:.1%}", UNLABELLED))
    if confidence is not None:
        entries.append(Entry("faint: unsure", (70, 70, 70), fades=True))
    return np.vstack([picture, strip(entries, picture.shape[1], text_height(label.shape))])


def _strange(image: np.ndarray, anomaly: np.ndarray, look: Look) -> np.ndarray:
    """The style `anomaly`: heat, and its scale below with the share of what is outlined."""
    picture = heat(image, anomaly, look.alpha, look.threshold, line_width(anomaly.shape))
    if not look.legend:
        return picture
    told = ""
    if look.threshold is not None:
        told = f"outlined: from {look.threshold:g}, {(anomaly >= look.threshold).mean():.1%} of the pixels"
    return np.vstack([picture, scale(picture.shape[1], text_height(anomaly.shape), look.threshold, told)])


def compare(
    image: np.ndarray,
    labels: Sequence[np.ndarray],
    palette: np.ndarray,
    titles: Sequence[str],
    names: Sequence[str] = (),
    look: Look | None = None,
    *,
    truth: np.ndarray | None = None,
    confidences: Sequence[np.ndarray | None] = (),
) -> np.ndarray:
    """Predictions of several models beside each other, titles above, one legend below.

    Args:
        image: (H, W, 3).
        labels: (H, W) of each model.
        palette: (256, 3).
        titles: one a model.
        names: class names for the legend.
        look: alpha and legend; each model is drawn as an overlay.
        truth: (H, W): with it, each is drawn as in the style `error`, its share of wrong pixels in the title.
        confidences: (H, W) of each model, or none.
    """
    look = look or Look()
    sure = list(confidences) or [None] * len(labels)
    if truth is None:
        panels = [
            overlay(image, label, palette, look.alpha, c) for label, c in zip(labels, sure, strict=True)
        ]
        shown = list(titles)
        entries = _entries(sorted({i for label in labels for i in present(label)}), names, palette, look)
    else:
        panels = [error(image, label, truth, c) for label, c in zip(labels, sure, strict=True)]
        rates = [f"{error_rate(label, truth):.1%} wrong" for label in labels]
        shown = [f"{each}: {rate}" for each, rate in zip(titles, rates, strict=True)]
        entries = [Entry("wrong", WRONG), Entry("right", (200, 200, 200)), Entry("not labelled", UNLABELLED)]
    if any(c is not None for c in sure):
        entries.append(Entry("faint: unsure", (70, 70, 70), fades=True))
    text = text_height(image.shape)
    titled = [np.vstack([title(t, p.shape[1], text), p]) for t, p in zip(shown, panels, strict=True)]
    picture = _beside(titled)
    return np.vstack([picture, strip(entries, picture.shape[1], text)]) if look.legend else picture


def line_width(shape: tuple[int, ...]) -> int:
    """Width in pixels of an outline that is fine and visible on an image of (H, W): 1 at 320, 5 at 4K."""
    return max(1, round(min(shape[:2]) / 400))


def text_height(shape: tuple[int, ...]) -> int:
    """Height in pixels of text that reads well on an image of (H, W): 11 at 320x240, 53 at 4K."""
    return max(11, round(math.hypot(*shape[:2]) * 0.012))


# --- what a legend lists -----------------------------------------------------------------------------------


def _entries(shown: Sequence[int], names: Sequence[str], palette: np.ndarray, look: Look) -> list[Entry]:
    if not look.every_class:
        return class_entries(shown, names, palette)
    return class_entries(range(len(names)), names, palette, pale=set(range(len(names))) - set(shown))


def _error_entries(
    label: np.ndarray, truth: np.ndarray, names: Sequence[str], palette: np.ndarray
) -> list[Entry]:
    """How much is wrong, and the commonest mistakes: left half of a swatch the right class, right half the drawn."""
    entries = [Entry(f"wrong: {error_rate(label, truth):.1%}", WRONG)]
    if (truth == IGNORED).any():
        entries.append(Entry("not labelled", UNLABELLED))
    for right_class, drawn_class, share in mistakes(label, truth):
        if share < WORTH_NAMING:
            break
        right, drawn = class_entries((right_class, drawn_class), names, palette)
        entries.append(Entry(f"{right.text} as {drawn.text}: {share:.1%}", right.color, other=drawn.color))
    return entries


# --- pixels ------------------------------------------------------------------------------------------------


def _strength(confidence: np.ndarray) -> np.ndarray:
    """(H, W) 0-1 -> (H, W) float32 0-1: how much of a colour is drawn."""
    return np.clip((confidence.astype(np.float32) - UNSURE) / (SURE - UNSURE), 0, 1)


def _beside(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Panels of one size with a gap between, side by side; one above the other where they are very wide."""
    height, width = panels[0].shape[:2]
    gap = max(2, round(math.hypot(height, width) / 200))
    stacks = width > 2.5 * height
    space = paper(gap, width) if stacks else paper(height, gap)
    parts = [part for panel in panels for part in (space, panel)][1:]
    return np.vstack(parts) if stacks else np.hstack(parts)


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
    """`above` (a picture or one colour) over `below` with a weight 0-1 a pixel; touches only pixels that have one."""
    where = weight > 0.004  # less than one grey level
    share = weight[where][:, None]
    over = above if above.ndim == 1 else above[where]
    picture = below.copy()
    picture[where] = np.rint(below[where] * (1 - share) + over * share).astype(np.uint8)
    return picture


def _mix(below: np.ndarray, above: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`above` over `below` where every pixel has a weight (H, W) 0-1."""
    share = np.ascontiguousarray(weight, np.float32)
    return cv2.blendLinear(above, np.ascontiguousarray(below), share, 1 - share)


def _require_same_size(image: np.ndarray, label: np.ndarray) -> None:
    if image.shape[:2] != label.shape:
        raise ValueError(f"image of {image.shape[:2]} and label of {label.shape} differ in size")
