"""Cars, trucks, buses and trains of generated streets: side views extruded across their width.

Sizes in metres, heights from the road, colours RGB; they are taste, not measurement.
"""

from __future__ import annotations

import numpy as np

from reincli.generated.canvas import Canvas, Color, Point
from reincli.generated.street_objects import BUS, CAR, GLASS, PAINTS, TRAIN, TRUCK, WARM, Rng, pick, shade

Profile = tuple[tuple[float, float, bool], ...]
"""Corners of a side view: share of the length from the rear, height in metres, whether glass follows."""

SALOON: Profile = (
    (0.0, 0.32, False), (0.0, 0.92, False), (0.1, 0.96, True), (0.25, 1.4, False), (0.55, 1.43, True),
    (0.72, 0.98, False), (0.98, 0.78, False), (1.0, 0.32, False),
)  # fmt: skip
HATCHBACK: Profile = (
    (0.0, 0.32, False), (0.0, 0.95, True), (0.09, 1.44, False), (0.58, 1.5, True), (0.76, 1.0, False),
    (0.98, 0.82, False), (1.0, 0.32, False),
)  # fmt: skip
ESTATE: Profile = (
    (0.0, 0.4, False), (0.0, 1.05, True), (0.05, 1.72, False), (0.62, 1.74, True), (0.76, 1.14, False),
    (0.99, 1.0, False), (1.0, 0.4, False),
)  # fmt: skip
BOX: Profile = ((0.0, 0.35, False), (0.0, 1.0, False), (1.0, 1.0, False), (1.0, 0.35, False))


def vehicle(
    canvas: Canvas, rng: Rng, x: float, z: float, kind: int, *, oncoming: bool = False, light: float = 1.0
) -> None:
    """A car, truck, bus or train with its middle at x and its near end at z."""
    paint = shade(pick(rng, PAINTS), light)
    if kind == CAR:
        profile = (SALOON, HATCHBACK, ESTATE)[int(rng.integers(3))]
        width, length = rng.uniform(1.65, 1.9), rng.uniform(3.8, 4.8)
        _prism(canvas, profile, x, z, width, length, paint, CAR, oncoming)
        _car_side(canvas, x, z, width, length, oncoming)
    else:
        height, width, length = {
            TRUCK: (rng.uniform(2.7, 3.8), 2.4, rng.uniform(6, 10)),
            BUS: (rng.uniform(2.8, 3.4), 2.5, rng.uniform(9, 13)),
            TRAIN: (rng.uniform(3.3, 3.9), 2.6, rng.uniform(18, 40)),
        }[kind]
        if kind == BUS:
            paint = shade(pick(rng, ((220, 190, 60), (200, 60, 50), (230, 232, 232), (60, 120, 90))), light)
        if kind == TRAIN:
            paint = shade(pick(rng, ((232, 228, 214), (190, 40, 44), (60, 110, 150), (240, 210, 90))), light)
        profile = tuple((share, y * (height if y == 1.0 else 1.0), glass) for share, y, glass in BOX)
        if kind == TRUCK and oncoming:
            cab = pick(rng, PAINTS)
            _prism(canvas, profile, x, z + 1.8, width, length - 1.8, paint, TRUCK, False)
            front: Profile = (
                (0.0, 0.4, False),
                (0.0, 1.3, True),
                (0.12, 2.3, False),
                (1.0, 2.3, False),
                (1.0, 0.4, False),
            )
            _prism(canvas, front, x, z, width * 0.96, 1.8, shade(cab, light), TRUCK, False)
        else:
            _prism(canvas, profile, x, z, width, length, paint, kind, False)
        _coach_work(canvas, rng, kind, x, z, width, length, height, oncoming)
    _wheels_and_lamps(canvas, x, z, width, length, kind, oncoming)


def _visible_side(canvas: Canvas, x: float, z: float, width: float) -> float | None:
    """x of the long side that the camera sees; None: it looks along the vehicle."""
    middle = x + canvas.camera.bend * z * z
    if abs(middle) <= width / 2:
        return None
    return x + width / 2 if middle < 0 else x - width / 2


def _prism(
    canvas: Canvas,
    profile: Profile,
    x: float,
    z: float,
    width: float,
    length: float,
    paint: Color,
    label: int,
    oncoming: bool,
) -> None:
    """A side view extruded across the width: the shadow, then faces from far to near, then the visible side."""
    half = width / 2
    ground: list[Point] = [(x - half - 0.15, 0, z - 0.2), (x + half + 0.15, 0, z - 0.2)]
    ground += [(x + half + 0.15, 0, z + length), (x - half - 0.15, 0, z + length)]
    canvas.face(ground, (26, 27, 30), None)
    points = [(z + (1 - s if oncoming else s) * length, y, glass) for s, y, glass in profile]
    faces = []
    for (z0, y0, glass), (z1, y1, _) in zip(points, points[1:] + points[:1], strict=True):
        tone = 1.15 if abs(z1 - z0) > abs(y1 - y0) else 0.9
        color = GLASS if glass else shade(paint, tone)
        corners: list[Point] = [
            (x - half, y0, z0),
            (x + half, y0, z0),
            (x + half, y1, z1),
            (x - half, y1, z1),
        ]
        faces.append((max(z0, z1), corners, color))
    for _, corners, color in sorted(faces, key=lambda face: -face[0]):
        canvas.face(corners, color, label)
    side = _visible_side(canvas, x, z, width)
    if side is not None:
        canvas.face([(side, y, zz) for zz, y, _ in points], shade(paint, 0.78), label)


def _car_side(canvas: Canvas, x: float, z: float, width: float, length: float, oncoming: bool) -> None:
    side = _visible_side(canvas, x, z, width)
    if side is None:
        return
    panes = (
        ((0.2, 0.98), (0.28, 1.33), (0.42, 1.36), (0.42, 0.98)),
        ((0.45, 0.98), (0.45, 1.36), (0.55, 1.34), (0.66, 0.98)),
    )
    for pane in panes:
        corners = [(side, y, z + (1 - s if oncoming else s) * length) for s, y in pane]
        canvas.face(corners, GLASS, None)


def _coach_work(
    canvas: Canvas,
    rng: Rng,
    kind: int,
    x: float,
    z: float,
    width: float,
    length: float,
    height: float,
    oncoming: bool,
) -> None:
    """Windows of buses and trains, doors of trucks."""
    half, side = width / 2, _visible_side(canvas, x, z, width)
    inside = shade(WARM, 0.3)
    if kind == TRUCK:
        if not oncoming:
            canvas.face(
                [(x - 0.03, 0.6, z), (x + 0.03, 0.6, z), (x + 0.03, height, z), (x - 0.03, height, z)],
                (50, 50, 52),
                None,
            )
        if side is not None:
            band = pick(rng, PAINTS)
            canvas.face(
                [(side, 1.2, z + 2), (side, 1.9, z + 2), (side, 1.9, z + length), (side, 1.2, z + length)],
                band,
                None,
            )
        return
    top, bottom = height * 0.82, height * 0.45
    screen: list[Point] = [(x - half * 0.86, bottom, z), (x + half * 0.86, bottom, z)]
    screen += [(x + half * 0.86, top, z), (x - half * 0.86, top, z)]
    canvas.face(screen, GLASS, None, glow=shade(WARM, 0.15))
    board: list[Point] = [(x - half * 0.6, height * 0.86, z), (x + half * 0.6, height * 0.86, z)]
    board += [(x + half * 0.6, height * 0.96, z), (x - half * 0.6, height * 0.96, z)]
    canvas.face(board, (30, 30, 30), None, glow=(190, 130, 40))
    if side is not None:
        start = z + 0.8
        while start + 1.3 < z + length:
            window = [
                (side, bottom, start),
                (side, top, start),
                (side, top, start + 1.2),
                (side, bottom, start + 1.2),
            ]
            canvas.face(window, GLASS, None, glow=inside)
            start += 1.6


def _wheels_and_lamps(
    canvas: Canvas, x: float, z: float, width: float, length: float, kind: int, oncoming: bool
) -> None:
    half, side = width / 2, _visible_side(canvas, x, z, width)
    radius = 0.32 if kind == CAR else 0.48
    if kind != TRAIN:
        for place in (x - half + 0.05, x + half - 0.3):
            tread: list[Point] = [(place, 0, z + 0.2), (place + 0.25, 0, z + 0.2)]
            canvas.face([*tread, (place + 0.25, 0.38, z + 0.2), (place, 0.38, z + 0.2)], (20, 20, 22), kind)
        if side is not None:
            angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            for axle in (z + length * 0.18, z + length * 0.82):
                for r, color in ((radius, (22, 22, 24)), (radius * 0.55, (128, 130, 132))):
                    rim = [(side, radius + r * np.sin(a), axle + r * np.cos(a)) for a in angles]
                    canvas.face(rim, color, kind)
    lamp = (240, 238, 220) if oncoming else (196, 26, 28)
    glow = (255, 246, 220) if oncoming else (230, 24, 22)
    for place in (x - half + 0.08, x + half - 0.36):
        box: list[Point] = [
            (place, 0.62, z),
            (place + 0.28, 0.62, z),
            (place + 0.28, 0.8, z),
            (place, 0.8, z),
        ]
        canvas.face(box, lamp, None, glow=glow)
    plate: list[Point] = [(x - 0.26, 0.45, z), (x + 0.26, 0.45, z), (x + 0.26, 0.57, z), (x - 0.26, 0.57, z)]
    canvas.face(plate, (232, 232, 224), None)
