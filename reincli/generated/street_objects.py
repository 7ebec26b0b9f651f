"""What stands in a generated street: buildings, walls, fences, trees, poles, people, bicycles.

Every function draws one thing at a place in metres on a `Canvas`, varied by its generator. Numbers are sizes in
metres, colours, and chances; they are taste, not measurement.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from reincli.generated.canvas import Canvas, Color

# labelIds of the Cityscapes benchmark
ROAD, SIDEWALK, RAIL_TRACK, BUILDING, WALL, FENCE, POLE = 7, 8, 10, 11, 12, 13, 17
TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER = 19, 20, 21, 22, 23, 24, 25
CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 26, 27, 28, 31, 32, 33

Rng = np.random.Generator
TEXELS = 12
"""Pixels a metre of a facade's texture."""

FACADES: tuple[Color, ...] = (
    (150, 84, 66), (176, 120, 92), (196, 180, 150), (214, 206, 190), (142, 140, 136),
    (120, 124, 132), (188, 160, 104), (110, 96, 88), (168, 176, 184), (204, 170, 150),
)  # fmt: skip
PAINTS: tuple[Color, ...] = (
    (28, 28, 32), (236, 236, 234), (150, 154, 158), (90, 96, 104), (150, 24, 28),
    (24, 56, 120), (36, 80, 60), (180, 140, 40), (70, 40, 36), (200, 204, 208),
)  # fmt: skip
CLOTHES: tuple[Color, ...] = (
    (30, 32, 40), (60, 66, 90), (150, 40, 44), (210, 200, 190), (44, 84, 130),
    (96, 80, 60), (60, 100, 70), (200, 160, 60), (120, 120, 124), (170, 90, 130),
)  # fmt: skip
SKINS: tuple[Color, ...] = ((224, 178, 148), (196, 146, 112), (142, 96, 70), (92, 62, 46))
GLASS: Color = (46, 56, 66)
WARM: Color = (255, 206, 130)


def pick(rng: Rng, colors: Sequence[Color], spread: int = 14) -> Color:
    """One of the colours, shifted a little."""
    red, green, blue = colors[int(rng.integers(len(colors)))]
    shift = rng.integers(-spread, spread + 1, 3)
    return _level(red + shift[0]), _level(green + shift[1]), _level(blue + shift[2])


def shade(color: Color, factor: float) -> Color:
    """A colour in more or less light."""
    red, green, blue = color
    return _level(red * factor), _level(green * factor), _level(blue * factor)


def _level(value: float) -> int:
    return 0 if value < 0 else 255 if value > 255 else int(value)


# --- along the street --------------------------------------------------------------------------------------


def facade(rng: Rng, length: float, height: float, light: float) -> tuple[np.ndarray, np.ndarray]:
    """A facade with windows, and perhaps shops, as (texture, what is lit at night), both RGB."""
    columns, rows = max(int(length * TEXELS), 8), max(int(height * TEXELS), 8)
    base = pick(rng, FACADES)
    texture = np.full((rows, columns, 3), shade(base, light), np.uint8)
    glow = np.zeros_like(texture)
    if rng.random() < 0.4:  # courses of brick or stone
        step = int(rng.integers(3, 9))
        texture[::step] = shade(base, light * 0.86)
    storey = int(rng.uniform(2.7, 3.6) * TEXELS)
    pitch = int(rng.uniform(1.8, 3.4) * TEXELS)
    wide, tall = int(pitch * rng.uniform(0.38, 0.75)), int(storey * rng.uniform(0.4, 0.68))
    frame = pick(rng, ((230, 228, 220), (80, 70, 64), shade(base, 0.7)))
    pane = pick(rng, ((58, 70, 84), (92, 112, 130), (36, 40, 46)))
    shop = rng.random() < 0.45
    for top in range(rows - 2 * storey, -storey, -storey):
        for left in range((pitch - wide) // 2, columns - wide, pitch):
            corner = (left, top + storey // 5)
            opposite = (left + wide, top + storey // 5 + tall)
            cv2.rectangle(
                texture, (corner[0] - 1, corner[1] - 1), (opposite[0] + 1, opposite[1] + 1), frame, -1
            )
            cv2.rectangle(texture, corner, opposite, shade(pane, light * rng.uniform(0.7, 1.3)), -1)
            if rng.random() < 0.3:
                cv2.rectangle(glow, corner, opposite, shade(WARM, rng.uniform(0.15, 0.7)), -1)
    ground = rows - storey
    if shop:
        awning = pick(rng, PAINTS)
        texture[ground : ground + storey // 4] = awning
        texture[ground + storey // 4 : rows - 3] = shade(GLASS, light * 1.2)
        glow[ground + storey // 4 : rows - 3] = shade(WARM, rng.uniform(0.0, 0.5))
        texture[ground:, :: max(pitch, 2)] = shade(base, light * 0.6)
    else:
        for left in range(pitch // 3, columns - wide, pitch * 2):
            cv2.rectangle(
                texture, (left, ground + storey // 4), (left + wide, rows - 1), shade(frame, 0.5), -1
            )
    texture[: max(TEXELS // 3, 2)] = shade(base, light * 0.7)  # cornice
    return texture, glow


def building(
    canvas: Canvas, rng: Rng, x: float, near: float, far: float, outward: float, light: float
) -> None:
    """A house: its street side at x from `near` to `far`, its end wall `outward` metres long."""
    height = rng.uniform(5.5, 19.0)
    texture, glow = facade(rng, far - near, height, light)
    side, side_glow = facade(rng, abs(outward), height, light * 0.8)
    if outward < 0:  # on the left: its end wall lies left of its street side
        canvas.wall((x + outward, near), (x, near), height, side, BUILDING, side_glow)
        canvas.wall((x, near), (x, far), height, texture, BUILDING, glow)
    else:
        canvas.wall((x, near), (x + outward, near), height, side, BUILDING, side_glow)
        canvas.wall((x, far), (x, near), height, texture, BUILDING, glow)


def low_wall(canvas: Canvas, rng: Rng, x: float, near: float, far: float, light: float) -> None:
    """A wall of brick or concrete along the street."""
    height = rng.uniform(1.1, 2.8)
    texture = np.full((int(height * 16), max(int((far - near) * 16), 8), 3), 0, np.uint8)
    texture[:] = pick(rng, ((150, 140, 128), (134, 76, 60), (168, 166, 160)))
    texture[::4] = texture[0, 0] * 0.82
    texture[:, :: int(rng.integers(12, 40))] = texture[1, 1] * 0.76
    texture[:3] = texture[1, 1] * 0.7
    texture = (texture * light).clip(0, 255).astype(np.uint8)
    canvas.wall(*_ends(x, near, far), height, texture, WALL)


def fence(canvas: Canvas, rng: Rng, x: float, near: float, far: float, light: float) -> None:
    """Railings or boards: what shows between the bars is labelled as fence too, as in the benchmark."""
    height = rng.uniform(1.0, 2.0)
    shape = (int(height * 20), max(int((far - near) * 20), 8))
    texture = np.empty((*shape, 3), np.uint8)
    texture[:] = shade(pick(rng, ((60, 62, 60), (220, 220, 214), (120, 84, 52), (90, 110, 96))), light)
    opacity = np.full(shape, 40, np.uint8)
    step = int(rng.integers(3, 8))
    thick = int(rng.integers(1, step))
    for offset in range(thick):
        opacity[:, offset::step] = 235
    for bar in (0, 1, 2, shape[0] // 2, shape[0] - 3, shape[0] - 4):
        opacity[bar % shape[0]] = 255
    canvas.wall(*_ends(x, near, far), height, texture, FENCE, opacity=opacity)


def _ends(x: float, near: float, far: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The feet of a wall along the street, left one in the picture first."""
    return ((x, near), (x, far)) if x < 0 else ((x, far), (x, near))


def tree(canvas: Canvas, rng: Rng, x: float, z: float, light: float, height: float | None = None) -> None:
    """A tree, conifer or bush; trunk and crown are vegetation."""
    scale = canvas.camera.scale(z)
    column, foot = canvas.camera.project(x, 0.0, z)
    tall = (height or rng.uniform(4.0, 10.0)) * scale
    green = pick(rng, ((58, 92, 40), (84, 110, 46), (44, 72, 44), (112, 116, 50), (140, 96, 40)), 12)
    trunk = shade((86, 66, 50), light)
    bush = height is not None and height < 2.5
    if not bush:
        canvas.line((column, foot), (column, foot - tall * 0.5), 0.28 * scale, trunk, VEGETATION, z)
    if rng.random() < 0.2 and not bush:
        for level in range(5):
            top, half = foot - tall * (0.35 + 0.16 * level), tall * (0.2 - 0.035 * level)
            outline = [(column - half, top), (column, top - tall * 0.3), (column + half, top)]
            canvas.shape(outline, shade(green, light * (0.6 + 0.09 * level)), VEGETATION, z)
        return
    middle = foot - tall * (0.5 if bush else 0.68)
    reach = (
        tall * rng.uniform(0.5, 0.8) if bush else tall * rng.uniform(0.22, 0.34),
        tall * (0.5 if bush else 0.3),
    )
    blobs = int(np.clip(tall * 0.5, 12, 40))
    draws = rng.random((blobs, 4))
    for i, (turn, radius, spread, tone) in enumerate(draws):
        angle, radius, done = turn * 2 * np.pi, np.sqrt(radius), i / blobs
        dx, dy = np.cos(angle) * radius, np.sin(angle) * radius
        size = tall * (0.06 + 0.07 * spread) * (1.3 if blobs < 20 else 1.0)
        leaf = shade(green, light * (0.54 + 0.16 * tone + 0.6 * done - 0.22 * dy * done))
        place = (column + dx * reach[0], min(middle + dy * reach[1], foot))
        canvas.ellipse(place, (size, size * 0.85), leaf, VEGETATION, z)


def street_lamp(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A lamp post leaning its arm over the road."""
    scale, height = canvas.camera.scale(z), rng.uniform(5.5, 8.5)
    grey = pick(rng, ((90, 94, 96), (60, 66, 64), (140, 140, 138)))
    foot, top = canvas.camera.project(x, 0, z), canvas.camera.project(x, height, z)
    arm = canvas.camera.project(x - np.sign(x) * rng.uniform(0.6, 2.0), height + 0.2, z)
    canvas.line(foot, top, 0.16 * scale, grey, POLE, z)
    canvas.line(top, arm, 0.1 * scale, grey, POLE, z)
    canvas.ellipse(arm, (0.36 * scale, 0.12 * scale), (214, 214, 200), POLE, z, glow=(255, 214, 150))


def traffic_light(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A signal on its pole; one of the three lamps is lit."""
    scale, height = canvas.camera.scale(z), rng.uniform(2.6, 3.6)
    column, foot = canvas.camera.project(x, 0, z)
    top = canvas.camera.project(x, height, z)[1]
    canvas.line((column, foot), (column, top), 0.13 * scale, (80, 84, 84), POLE, z)
    wide, tall = 0.26 * scale, 0.95 * scale
    outline = [
        (column - wide, top),
        (column + wide, top),
        (column + wide, top + tall),
        (column - wide, top + tall),
    ]
    canvas.shape(outline, (22, 24, 24), TRAFFIC_LIGHT, z)
    lit = int(rng.integers(3))
    for lamp, color in enumerate(((255, 52, 40), (255, 190, 40), (60, 240, 130))):
        place = (column, top + tall * (0.2 + 0.3 * lamp))
        shown = color if lamp == lit else shade(color, 0.2)
        glow = color if lamp == lit else (0, 0, 0)
        canvas.ellipse(place, (wide * 0.62, tall * 0.12), shown, None, z, glow)


def traffic_sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A sign on its pole: round, triangular, square or the blue direction board."""
    scale, height = canvas.camera.scale(z), rng.uniform(2.1, 3.0)
    column, foot = canvas.camera.project(x, 0, z)
    top = canvas.camera.project(x, height, z)[1]
    canvas.line((column, foot), (column, top), 0.09 * scale, (130, 132, 130), POLE, z)
    r = rng.uniform(0.32, 0.46) * scale
    kind = int(rng.integers(5))
    rim, face = (((196, 30, 34), (236, 236, 232)), ((24, 74, 160), (30, 84, 176)))[int(rng.random() < 0.3)]
    if kind <= 1:
        canvas.ellipse((column, top), (r, r), rim, TRAFFIC_SIGN, z)
        canvas.ellipse((column, top), (r * 0.72, r * 0.72), face, None, z)
        canvas.line((column - r * 0.4, top), (column + r * 0.4, top), r * 0.25, (20, 20, 24), None, z)
    elif kind == 2:
        for size, color, label in ((1.0, rim, TRAFFIC_SIGN), (0.62, face, None)):
            outline = [(column, top - r * size), (column + r * size, top + r * size * 0.75)]
            canvas.shape([*outline, (column - r * size, top + r * size * 0.75)], color, label, z)
    else:
        wide = r * (1.0 if kind == 3 else 2.0)
        for size, color, label in ((1.0, (236, 236, 232), TRAFFIC_SIGN), (0.84, (26, 78, 166), None)):
            w, h = wide * size, r * size
            box = [(column - w, top - h), (column + w, top - h), (column + w, top + h), (column - w, top + h)]
            canvas.shape(box, color, label, z)
        canvas.line((column - wide / 2, top), (column + wide / 2, top), r * 0.2, (240, 240, 240), None, z)


# --- people ------------------------------------------------------------------------------------------------


def person(canvas: Canvas, rng: Rng, x: float, z: float, label: int = PERSON, lift: float = 0.0) -> None:
    """Somebody on foot, or the rider whose seat is `lift` metres up."""
    scale = canvas.camera.scale(z)
    column, foot = canvas.camera.project(x, lift, z)
    tall = rng.uniform(1.5, 1.9) * scale
    coat, trousers = pick(rng, CLOTHES), pick(rng, CLOTHES)
    skin, hair = pick(rng, SKINS), pick(rng, ((30, 24, 20), (90, 64, 40), (150, 120, 80), (120, 120, 120)))
    lean = rng.uniform(-0.03, 0.03) * tall
    hip, neck = foot - tall * 0.48, foot - tall * 0.83
    if lift:
        hip, neck, foot = foot - tall * 0.12, foot - tall * 0.5, foot + tall * 0.2
    stride = rng.uniform(0.03, 0.15) * tall
    for side, tone in ((-1, 0.8), (1, 1.0)):
        canvas.line(
            (column, hip), (column + side * stride, foot), tall * 0.095, shade(trousers, tone), label, z
        )
    w = tall * rng.uniform(0.1, 0.14)
    outline = [(column - w, neck), (column + w, neck), (column + w * 0.85, hip + tall * 0.04)]
    canvas.shape([*outline, (column - w * 0.85, hip + tall * 0.04)], coat, label, z)
    for side in (-1, 1):
        hand = (column + side * w * rng.uniform(0.9, 1.7), neck + tall * rng.uniform(0.25, 0.36))
        canvas.line(
            (column + side * w * 0.9, neck + tall * 0.03), hand, tall * 0.06, shade(coat, 0.86), label, z
        )
    head = (column + lean, neck - tall * 0.09)
    canvas.ellipse(head, (tall * 0.058, tall * 0.08), skin, label, z)
    cap = (head[0], head[1] - tall * 0.035)
    canvas.ellipse(cap, (tall * 0.062, tall * 0.055), hair, label, z)


def two_wheeler(
    canvas: Canvas, rng: Rng, x: float, z: float, *, motor: bool, ridden: bool, across: bool
) -> None:
    """A bicycle or motorcycle, seen from behind or (`across`) from the side, with or without its rider."""
    scale = canvas.camera.scale(z)
    label = MOTORCYCLE if motor else BICYCLE
    paint, tyre = pick(rng, PAINTS), (24, 24, 26)
    column, foot = canvas.camera.project(x, 0, z)
    wheel = (0.3 if motor else 0.34) * scale
    canvas.ellipse((column, foot), ((0.9 if across else 0.35) * scale, 0.08 * scale), (34, 34, 36), None, z)
    if across:
        for side in (-1, 1):
            hub = (column + side * (0.7 if motor else 0.55) * scale, foot - wheel)
            canvas.ellipse(hub, (wheel, wheel), tyre, label, z)
            canvas.ellipse(hub, (wheel * 0.72, wheel * 0.72), (120, 122, 124), None, z)
        body = 0.42 * scale if motor else 0.07 * scale
        front, back = (
            (column + 0.5 * scale, foot - 0.95 * scale),
            (column - 0.25 * scale, foot - 0.85 * scale),
        )
        pedal = (column - 0.05 * scale, foot - 0.35 * scale)
        for start, end in ((front, pedal), (pedal, back), (back, front)):
            canvas.line(start, end, body * (0.6 if motor else 1.0), paint, label, z)
        for hub_x, end in ((0.55, front), (-0.55, back)):
            canvas.line((column + hub_x * scale, foot - wheel), end, body * 0.5, paint, label, z)
    else:
        wide = (0.16 if motor else 0.06) * scale
        canvas.ellipse((column, foot - wheel), (max(wide, 1), wheel), tyre, label, z)
        body = (0.28 if motor else 0.1) * scale
        outline = [(column - body, foot - 1.0 * scale), (column + body, foot - 1.0 * scale)]
        canvas.shape(
            [*outline, (column + wide, foot - wheel), (column - wide, foot - wheel)], paint, label, z
        )
        bar = 0.36 * scale
        canvas.line(
            (column - bar, foot - 1.02 * scale),
            (column + bar, foot - 1.02 * scale),
            0.07 * scale,
            tyre,
            label,
            z,
        )
        if motor:
            lamp = (column, foot - 0.8 * scale)
            canvas.ellipse(lamp, (0.09 * scale, 0.07 * scale), (220, 40, 36), None, z, glow=(220, 30, 26))
    if ridden:
        person(canvas, rng, x, z, RIDER, lift=0.85)
