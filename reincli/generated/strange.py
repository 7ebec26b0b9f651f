"""Generated streets with things on the road that no training street has: boxes, tyres, barrels, animals, lost cargo.

They exist to try whether a model knows what it does not know: nothing else in this program draws them. Labels say of
each pixel whether it is known (0), unknown (1), or of no class (255). Sizes are in metres; numbers are taste.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from reincli.generated import weather
from reincli.generated.canvas import Canvas, Color
from reincli.generated.street_ground import Street
from reincli.generated.street_objects import RAIL_TRACK, Rng, pick, shade
from reincli.generated.streets import SIZE, compose
from reincli.media.images import write_png

STRANGE = 5
"""The labelId of Cityscapes for what moves about and has no class; generated streets have nothing of it."""
CLASSLESS = (0, RAIL_TRACK)
"""labelIds of pixels that have no class and are not strange."""
KNOWN, UNKNOWN, NEITHER = 0, 1, 255
"""Values of the labels."""
CARTONS: tuple[Color, ...] = ((176, 132, 84), (150, 108, 66), (196, 160, 112))
LOUD: tuple[Color, ...] = ((230, 60, 150), (70, 200, 190), (240, 190, 40), (120, 60, 190), (90, 200, 60))
FURS: tuple[Color, ...] = ((120, 84, 52), (70, 58, 48), (190, 170, 140), (40, 36, 34), (170, 110, 60))


def generate_strange(
    seed: int, domain: str = "clear", size: tuple[int, int] = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """One street with one to four strange things; what stands before them hides parts of them.

    Args:
        seed: decides everything; without the things it is the street of `streets.generate`.
        domain: of `streets.DOMAINS`. size: (width, height).

    Returns:
        image: (height, width, 3) uint8 RGB. label: (height, width) uint8, 0 known, 1 unknown, 255 of no class.
    """
    rng = np.random.default_rng([seed, 2])
    canvas = compose(seed, domain, size, lambda bare, street: _scatter(bare, street, rng))
    image = weather.apply(canvas, domain, np.random.default_rng([seed, 1]))
    label = np.full(canvas.label.shape, KNOWN, np.uint8)
    label[np.isin(canvas.label, CLASSLESS)] = NEITHER
    label[canvas.label == STRANGE] = UNKNOWN
    return image, label


def write_strange(
    root: Path,
    count: int,
    *,
    seed: int = 7,
    domain: str = "clear",
    size: tuple[int, int] = SIZE,
    on_file: Callable[[], None] | None = None,
) -> None:
    """Write `root/images/*.png` and `root/labels/*.png`; the same seed writes the same files.

    Raises:
        ReinError: a file cannot be written.
    """
    for number in range(count):
        image, label = generate_strange(seed * 10_000_000 + number, domain, size)
        name = f"strange_{domain}_{seed:06d}_{number:06d}.png"
        write_png(root / "images" / name, image)
        write_png(root / "labels" / name, label)
        if on_file is not None:
            on_file()


def _scatter(canvas: Canvas, street: Street, rng: Rng) -> None:
    """Things on the road ahead, from far to near; one more where what stands before them hides all of them."""
    things = (_box, _tyre, _barrel, _animal, _bale, _ball)
    arrays: list[np.ndarray] = [canvas.image, canvas.label, canvas.depth, canvas.glow]
    left = int(rng.integers(1, 5))
    places = sorted((rng.uniform(4.5, 20) for _ in range(left)), reverse=True)
    while places or not (canvas.label == STRANGE).any():
        z = places.pop(0) if places else rng.uniform(3.5, 6)
        half = 0.45 * canvas.camera.center / canvas.camera.focal * z  # well within the picture
        x = rng.uniform(max(street.left + 0.5, -half), min(street.right - 0.5, half))
        before = [each.copy() for each in arrays]
        things[int(rng.integers(len(things)))](canvas, rng, x, z)
        hidden = before[2] < z - 0.3  # what was there is nearer
        for now, then in zip(arrays, before, strict=True):
            now[hidden] = then[hidden]


def _box(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """Cartons, one or several on each other, askew, with a strip of tape."""
    bottom, wide = 0.0, rng.uniform(0.4, 0.9)
    for _ in range(int(rng.integers(1, 4))):
        high, deep = wide * rng.uniform(0.6, 1.0), wide * rng.uniform(0.5, 1.0)
        color, turn = pick(rng, CARTONS), rng.uniform(-0.3, 0.3) * wide
        _block(canvas, (x, bottom, z), (wide, high, deep), turn, color)
        corners = ((-1, 0.0), (1, 0.0), (1, high), (-1, high))
        tape = [canvas.camera.project(x + side * 0.06 * wide, bottom + up, z) for side, up in corners]
        canvas.shape(tape, shade(color, 1.25), None, z)
        bottom, wide, x = bottom + high, wide * rng.uniform(0.6, 1.0), x + rng.uniform(-0.1, 0.1)


def _bale(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """Cargo under a loud tarpaulin, tied with ropes."""
    wide, high, deep = rng.uniform(0.9, 1.7), rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.2)
    color = pick(rng, LOUD)
    _block(canvas, (x, 0.0, z), (wide, high, deep), rng.uniform(-0.3, 0.3), color)
    for share in (-0.3, 0.0, 0.3):
        low, top = (canvas.camera.project(x + share * wide, height, z) for height in (0.0, high))
        canvas.line(low, top, 0.04 * canvas.camera.scale(z), (60, 52, 40), None, z)


def _block(
    canvas: Canvas,
    foot: tuple[float, float, float],
    size: tuple[float, float, float],
    turn: float,
    color: Color,
) -> None:
    """A cuboid: its back, seen over the top and past one side, then its front. `turn`: how far its back is shifted."""
    (x, y, z), (wide, high, deep) = foot, size
    left, right, top, back = x - wide / 2, x + wide / 2, y + high, z + deep
    for edge in (left, right):  # of the two sides the front hides the one that is not seen
        side = [(edge, y, z), (edge + turn, y, back), (edge + turn, top, back), (edge, top, z)]
        canvas.face(side, shade(color, 0.72), STRANGE)
    lid = [(left, top, z), (right, top, z), (right + turn, top, back), (left + turn, top, back)]
    canvas.face(lid, shade(color, 1.15), STRANGE)
    canvas.face([(left, y, z), (right, y, z), (right, top, z), (left, top, z)], color, STRANGE)


def _tyre(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """Tyres lying on the road, on each other."""
    scale = canvas.camera.scale(z)
    wide, high = rng.uniform(0.3, 0.45) * scale, rng.uniform(0.16, 0.24)
    flat = wide * (0.25 + 0.5 * canvas.camera.height / z)
    for layer in range(int(rng.integers(1, 5))):
        column, row = canvas.camera.project(x, (layer + 0.5) * high, z)
        canvas.ellipse((column, row), (wide, flat + high * scale / 2), (32, 31, 33), STRANGE, z)
        hole = (column, row - high * scale / 3)
        canvas.ellipse(hole, (wide * 0.55, flat * 0.55), (14, 13, 14), None, z)


def _barrel(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """An upright barrel with two hoops."""
    scale, color = canvas.camera.scale(z), pick(rng, LOUD)
    wide, high = rng.uniform(0.28, 0.4) * scale, rng.uniform(0.8, 1.1)
    (column, foot), (_, top) = canvas.camera.project(x, 0, z), canvas.camera.project(x, high, z)
    left, right = column - wide, column + wide
    canvas.ellipse((column, foot), (wide, wide * 0.3), shade(color, 0.8), STRANGE, z)
    canvas.shape([(left, foot), (right, foot), (right, top), (left, top)], color, STRANGE, z)
    for share in (0.25, 0.6):
        row = foot + (top - foot) * share
        canvas.line((left, row), (right, row), 0.12 * scale, shade(color, 0.55), None, z)
    canvas.ellipse((column, top), (wide, wide * 0.3), shade(color, 1.2), STRANGE, z)


def _animal(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """Something on four legs, from a dog to a deer, seen from the side."""
    fur, way = pick(rng, FURS), int(rng.choice((-1, 1)))
    size = rng.uniform(0.5, 1.4) * canvas.camera.scale(z)
    column, foot = canvas.camera.project(x, 0, z)

    def at(ahead: float, up: float) -> tuple[float, float]:
        return column + way * ahead * size, foot - up * size

    def limb(start: tuple[float, float], end: tuple[float, float], width: float, light: float) -> None:
        canvas.line(start, end, width * size, shade(fur, light), STRANGE, z)

    for place in (-0.38, -0.28, 0.3, 0.4):
        limb(at(place, 0.62), at(place + rng.uniform(-0.06, 0.06), 0), 0.08, 0.75)
    canvas.ellipse(at(0, 0.62), (0.55 * size, 0.2 * size), fur, STRANGE, z)
    limb(at(0.42, 0.67), at(0.66, 0.98), 0.17, 1.0)
    canvas.ellipse(at(0.66, 0.98), (0.17 * size, 0.11 * size), shade(fur, 1.1), STRANGE, z)
    for place in (0.56, 0.66):
        limb(at(place, 1.06), at(place - 0.03, 1.19), 0.05, 0.7)
    limb(at(-0.52, 0.67), at(-0.66, 0.87), 0.05, 0.8)


def _ball(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A large ball with a stripe."""
    wide, color = rng.uniform(0.25, 0.6), pick(rng, LOUD)
    centre, size = canvas.camera.project(x, wide, z), wide * canvas.camera.scale(z)
    canvas.ellipse(centre, (size, size), color, STRANGE, z)
    canvas.ellipse(centre, (size * 0.95, size * 0.3), (240, 240, 236), None, z)
