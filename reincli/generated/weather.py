"""Night, fog, rain and snow over a drawn street: only its picture changes, never its label."""

from __future__ import annotations

import cv2
import numpy as np

from reincli.generated.canvas import Canvas
from reincli.generated.street_objects import (
    BICYCLE,
    BUILDING,
    BUS,
    CAR,
    FENCE,
    PERSON,
    RAIL_TRACK,
    RIDER,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    TRUCK,
    VEGETATION,
    WALL,
    Rng,
)

GROUND = (ROAD, SIDEWALK, TERRAIN, RAIL_TRACK)


def apply(canvas: Canvas, domain: str, rng: Rng) -> np.ndarray:
    """The picture of a canvas in a domain, (h, w, 3) uint8 RGB, with the camera's blur and noise."""
    image: np.ndarray = canvas.image.astype(np.float32)
    change = {"night": night, "fog": fog, "rain": rain, "snow": snow}.get(domain)
    noise = rng.uniform(1.0, 4.0)
    if change is not None:
        image = change(canvas, image, rng)
        noise += {"night": 7.0, "rain": 2.0}.get(domain, 0.0)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.7))
    image = image + rng.standard_normal(image.shape).astype(np.float32) * noise
    return np.clip(image, 0, 255).astype(np.uint8)


def night(canvas: Canvas, image: np.ndarray, rng: Rng) -> np.ndarray:
    """Dark and bluish; headlights on the road ahead, lamps and lit windows with their glow."""
    height, width = canvas.label.shape
    dark: np.ndarray = image * np.array([0.15, 0.16, 0.21], np.float32) * rng.uniform(0.6, 1.5)
    sky = canvas.label == SKY
    dark[sky] = np.array([16, 18, 30]) * rng.uniform(0.4, 1.8) + 0.04 * image[sky]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    reach = np.exp(-canvas.depth / rng.uniform(11, 20))
    aside = np.exp(-(((x - canvas.camera.center) / (0.36 * width)) ** 2))
    low = np.clip(1.25 - np.abs(y - canvas.camera.horizon - 0.18 * height) / (0.5 * height), 0.1, 1)
    lit = image * (reach * aside * low)[..., None] * np.array([0.85, 0.8, 0.66], np.float32)
    glow = canvas.glow.astype(np.float32)
    rings = ((0.006, 0.9), (0.02, 0.8), (0.06, 0.7))  # width of a blur in picture widths, strength
    halo = sum(cv2.GaussianBlur(glow, (0, 0), width * wide) * strength for wide, strength in rings)
    street = (
        image / 150 * cv2.GaussianBlur(glow, (0, 0), width * 0.12) * 1.5
    )  # lamps light what is around them
    return dark + lit + street + np.maximum(glow, 0) * 0.9 + np.asarray(halo)


def fog(canvas: Canvas, image: np.ndarray, rng: Rng) -> np.ndarray:
    """Airlight grows with depth; uneven, as banks of fog are."""
    height, width = canvas.label.shape
    sight = rng.uniform(14, 60)
    small = rng.uniform(0.75, 1.25, (4, 7)).astype(np.float32)
    banks = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    through = np.exp(-np.minimum(canvas.depth, 400) / sight * banks)[..., None]
    air = rng.uniform(170, 214) + np.array([-3, 0, 4])
    grey = image.mean(-1, keepdims=True)
    return (0.75 * image + 0.25 * grey) * through + air * (1 - through)


def rain(canvas: Canvas, image: np.ndarray, rng: Rng) -> np.ndarray:
    """Dim and greyish; the wet ground mirrors what stands on it; streaks in the air, drops on the glass."""
    height, width = canvas.label.shape
    grey = image.mean(-1, keepdims=True)
    image = (0.6 * image + 0.4 * grey) * rng.uniform(0.58, 0.86) * np.array([0.95, 1.0, 1.06], np.float32)
    image = _mirror(canvas, image, rng)
    haze = (1 - np.exp(-np.minimum(canvas.depth, 400) / rng.uniform(60, 160)))[..., None]
    image = image * (1 - 0.8 * haze) + 132 * 0.8 * haze
    streaks = np.zeros((height, width), np.float32)
    slant = rng.uniform(-0.3, 0.3)
    for _ in range(int(rng.integers(150, 420))):
        x, y, length = rng.uniform(0, width), rng.uniform(-20, height), rng.uniform(0.02, 0.12) * height
        end = (int(x + slant * length), int(y + length))
        cv2.line(streaks, (int(x), int(y)), end, float(rng.uniform(0.1, 0.55)), 1, cv2.LINE_AA)
    image += (205 - image) * streaks[..., None]
    return _drops(image, rng)


def _mirror(canvas: Canvas, image: np.ndarray, rng: Rng) -> np.ndarray:
    """Wet ground: below each column's lowest upright thing the picture is mirrored at its foot."""
    height, width = canvas.label.shape
    ground = np.isin(canvas.label, GROUND)
    rows = np.arange(height)[:, None]
    foot = np.maximum.accumulate(np.where(ground, 0, rows), axis=0)
    source = np.clip(2 * foot - rows + 1, 0, height - 1)
    mirrored = np.take_along_axis(image, source[..., None], axis=0)
    mirrored = cv2.GaussianBlur(mirrored, (0, 0), sigmaX=1.0 + width * 0.002, sigmaY=height * 0.02)
    small = rng.uniform(0.15, 0.75, (12, 9)).astype(np.float32)
    puddles = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    share = np.where(ground, puddles * np.where(canvas.label == ROAD, 1.0, 0.5), 0)
    return image * (1 - share[..., None]) + (mirrored * 0.95 + 8) * share[..., None]


def _drops(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Drops on the windscreen: small upside-down pictures of the street."""
    height, width = image.shape[:2]
    flipped = cv2.GaussianBlur(image[::-1], (0, 0), 2.0)
    mask: np.ndarray = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(4, 30))):
        r = rng.uniform(0.004, 0.018) * width
        center = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        cv2.ellipse(mask, center, (max(int(r), 1), max(int(r * rng.uniform(1, 1.6)), 1)), 0, 0, 360, 0.7, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None]
    return image * (1 - mask) + (flipped * 0.9 + 26) * mask


WHITENED = {TERRAIN: 0.95, SIDEWALK: 0.8, ROAD: 0.6, RAIL_TRACK: 0.7, VEGETATION: 0.3}
"""How white lying snow makes a surface."""
CAPPED = (BUILDING, WALL, FENCE, VEGETATION, CAR, TRUCK, BUS, BICYCLE, PERSON, RIDER)
"""Things on whose upper edges snow lies."""


def snow(canvas: Canvas, image: np.ndarray, rng: Rng) -> np.ndarray:
    """White ground with tracks, caps on upper edges, grey light, flakes."""
    height, width = canvas.label.shape
    grey = image.mean(-1, keepdims=True)
    image = (0.7 * image + 0.3 * grey) * rng.uniform(0.75, 0.95)
    small = rng.standard_normal((20, 30)).astype(np.float32)
    patches = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    amount = np.zeros(256, np.float32)
    for label, share in WHITENED.items():
        amount[label] = share * rng.uniform(0.6, 1.05)
    cover: np.ndarray = amount[canvas.label] * np.clip(0.95 + 0.22 * patches, 0, 1)
    columns = np.arange(width)[None] - canvas.camera.center
    x = columns * canvas.depth / canvas.camera.focal - canvas.camera.bend * canvas.depth**2
    track = np.exp(-(((np.mod(np.abs(x), 3.3) - 0.8) / 0.25) ** 2))
    cover = np.where(canvas.label == ROAD, cover * (1 - 0.7 * track), cover)
    cover = np.maximum(cover, _caps(canvas) * rng.uniform(0.6, 1.0))
    white = (rng.uniform(205, 236) + 6 * patches[..., None]) * np.array([0.97, 0.99, 1.03], np.float32)
    image = image * (1 - cover[..., None]) + white * cover[..., None]
    haze = (1 - np.exp(-np.minimum(canvas.depth, 400) / rng.uniform(50, 140)))[..., None]
    image = image * (1 - 0.75 * haze) + 202 * 0.75 * haze
    return _flakes(image, rng)


def _caps(canvas: Canvas) -> np.ndarray:
    """Where snow lies on things: a strip below each upper edge, as thick as 12 cm look there."""
    capped = np.isin(canvas.label, CAPPED)
    above = np.zeros_like(canvas.label)
    above[1:] = canvas.label[:-1]
    rows = np.arange(canvas.label.shape[0])[:, None]
    edge = np.maximum.accumulate(np.where(above != canvas.label, rows, 0), axis=0)
    thick = 0.12 * canvas.camera.focal / np.maximum(canvas.depth, 1.0)
    return (capped & (rows - edge < np.clip(thick, 0.6, 6))).astype(np.float32)


def _flakes(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Falling flakes in three layers of distance."""
    height, width = image.shape[:2]
    for size, count, blur in ((0.7, 700, 0.5), (1.3, 180, 0.8), (3.0, 24, 1.8)):
        layer: np.ndarray = np.zeros((height, width), np.float32)
        for _ in range(int(count * rng.uniform(0.4, 1.4))):
            center = (int(rng.uniform(0, width) * 8), int(rng.uniform(0, height) * 8))
            radius = max(int(size * rng.uniform(0.6, 1.4) * width / 512 * 8), 4)
            cv2.circle(layer, center, radius, float(rng.uniform(0.4, 0.95)), -1, cv2.LINE_AA, 3)
        layer = cv2.GaussianBlur(layer, (0, 0), blur)[..., None]
        image = image * (1 - layer) + 246 * layer
    return image
