"""The sky, the skyline and the ground of generated streets."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from reincli.generated import street_objects as objects
from reincli.generated.canvas import Canvas
from reincli.generated.street_objects import Rng

LANE = 3.3
"""Width of a lane in metres."""


@dataclass(frozen=True)
class Street:
    """Where the strips of a street end, in metres from the camera's line; `left` and `right` are the kerbs."""

    left: float
    right: float
    rails: tuple[float, float] | None
    pavement: tuple[float, float]
    verge: tuple[float, float]
    crossing: float | None
    sunny: bool
    sun_side: int
    wear: float


def draw_street(rng: Rng) -> Street:
    """Draw the widths of the strips; the camera drives in one of the lanes."""
    lanes = int(rng.integers(2, 5))
    own = int(rng.integers(0, lanes))
    left = -(own + 0.5) * LANE - rng.uniform(0, 2.2)
    right = (lanes - own - 0.5) * LANE + rng.uniform(0, 2.2)
    rails = None
    if rng.random() < 0.42:
        rails = (left - 3.4, left) if rng.random() < 0.5 else (right, right + 3.4)
    return Street(
        left=left - (3.4 if rails and rails[1] == left else 0),
        right=right + (3.4 if rails and rails[0] == right else 0),
        rails=rails,
        pavement=(rng.uniform(1.4, 4.5), rng.uniform(1.4, 4.5)),
        verge=tuple(rng.uniform(0.4, 5) * (rng.random() < 0.6) for _ in range(2)),  # type: ignore[arg-type]
        crossing=rng.uniform(7, 26) if rng.random() < 0.4 else None,
        sunny=bool(rng.random() < 0.5),
        sun_side=int(rng.choice((-1, 1))),
        wear=rng.uniform(0.3, 1.0),
    )


def smooth_noise(rng: Rng, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise of about unit deviation, features about `cell` pixels wide, as (h, w) float32."""
    small = rng.standard_normal((max(int(shape[0] / cell), 1) + 3, max(int(shape[1] / cell), 1) + 3))
    big = cv2.resize(small.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return big * 1.4


def paint_sky(canvas: Canvas, rng: Rng, *, overcast: bool) -> None:
    """A gradient with clouds, and the sun where it shines into the camera."""
    height, width = canvas.label.shape
    tops = np.array(
        [(96, 150, 214), (130, 170, 214), (176, 186, 198), (150, 160, 184), (214, 176, 150)], float
    )
    top = tops[int(rng.integers(len(tops)))] + rng.uniform(-12, 12, 3)
    bottom = np.clip(top + rng.uniform(20, 60) + np.array([14, 6, -4]), 0, 246)
    coverage, sun = rng.uniform(-1.2, 1.2), rng.random() < 0.2
    place = (rng.uniform(0, width), canvas.camera.horizon * rng.uniform(0.1, 0.8))
    rows = np.linspace(0, 1, max(int(canvas.camera.horizon), 1), dtype=np.float32)
    share = np.pad(rows, (0, max(height - len(rows), 0)), mode="edge")[:height, None, None]
    sky = top * (1 - share) + bottom * share
    noise = smooth_noise(rng, (height, width), 90) + 0.6 * smooth_noise(rng, (height, width), 30)
    cloud = np.clip(noise + coverage, 0, 1.6)[..., None] / 1.6
    sky = sky * (1 - 0.85 * cloud) + (236 - 40 * rng.random() * cloud) * 0.85 * cloud
    if overcast:
        sky = 0.3 * sky + 0.7 * (186 + 10 * noise[..., None])
    elif sun:
        y, x = np.mgrid[:height, :width].astype(np.float32)
        distance = np.hypot(x - place[0], y - place[1])[..., None] / width
        sky = sky + 255 * np.exp(-((distance / 0.035) ** 2)) + 70 * np.exp(-distance / 0.12)
    canvas.image[:] = np.clip(sky, 0, 255).astype(np.uint8)
    canvas.label[:] = objects.SKY


def paint_skyline(canvas: Canvas, rng: Rng) -> None:
    """Hills, woods and far houses at the horizon."""
    width, horizon = canvas.label.shape[1], canvas.camera.horizon
    x = np.linspace(-5, width + 5, 60)
    for z, label, color in (
        (600.0, objects.VEGETATION, (124, 140, 140)),
        (350.0, objects.VEGETATION, (90, 108, 84)),
    ):
        if rng.random() < 0.6:
            waves = sum(np.sin(x / width * f + rng.uniform(0, 6)) / f for f in (5.0, 11.0, 27.0, 60.0))
            crest = horizon - width * 0.035 * (1 + 2.2 * np.asarray(waves)) * rng.uniform(0.3, 1.0)
            outline = np.concatenate(
                [np.stack([x, crest], -1), [[width + 5, horizon + 3], [-5, horizon + 3]]]
            )
            canvas.shape(outline, objects.pick(rng, (color,)), label, z)
    start = -10.0
    while start < width and rng.random() < 0.93:
        wide = rng.uniform(0.02, 0.07) * width
        top = horizon - rng.uniform(0.01, 0.09) * width
        box = [(start, top), (start + wide, top), (start + wide, horizon + 3), (start, horizon + 3)]
        canvas.shape(box, objects.pick(rng, ((150, 152, 158), (128, 126, 130))), objects.BUILDING, 200.0)
        start += wide * rng.uniform(0.9, 2.0)


def paint_ground(canvas: Canvas, street: Street, rng: Rng) -> None:
    """Every pixel below the horizon is looked up on the plane: its strip, marking, wear and shadow."""
    camera = canvas.camera
    height, width = canvas.label.shape
    first = int(np.ceil(camera.horizon + 0.6))
    rows = np.arange(first, height, dtype=np.float32)[:, None]
    z = camera.focal * camera.height / (rows + 0.5 - camera.horizon)
    x = (
        np.arange(width, dtype=np.float32)[None] + 0.5 - camera.center
    ) * z / camera.focal - camera.bend * z * z
    z = np.broadcast_to(z, x.shape)
    label = np.full(x.shape, objects.TERRAIN, np.uint8)
    color = np.empty((*x.shape, 3), np.float32)
    color[:] = objects.pick(rng, ((96, 116, 58), (122, 124, 70), (116, 100, 78), (84, 108, 60)))
    on_left, on_right = street.left - street.pavement[0], street.right + street.pavement[1]
    paved = (x > on_left) & (x < on_right)
    slab = np.asarray(
        objects.pick(rng, ((150, 146, 142), (168, 156, 142), (134, 134, 138), (160, 130, 116))), float
    )
    joints = 1 - 0.12 * ((np.mod(x, 0.9) < 0.06) | (np.mod(z, 0.9) < 0.07)) * (z < 14)
    color[paved] = (slab * joints[..., None])[paved]
    label[paved] = objects.SIDEWALK
    road = (x > street.left) & (x < street.right)
    asphalt = np.asarray(
        objects.pick(rng, ((92, 92, 96), (76, 78, 84), (112, 110, 110), (66, 66, 68)), 8), float
    )
    color[road] = asphalt
    label[road] = objects.ROAD
    kerb = ((x > street.left - 0.18) & (x < street.left)) | ((x < street.right + 0.18) & (x > street.right))
    color[kerb] = slab * 1.14
    if street.rails is not None:
        inside = (x > street.rails[0]) & (x < street.rails[1])
        label[inside] = objects.RAIL_TRACK
        color[inside] = (112, 104, 96)
        sleepers = inside & (np.mod(z, 0.7) < 0.26) & (z < 30)
        color[sleepers] = (86, 76, 68)
        middle = sum(street.rails) / 2
        for rail in (middle - 0.75, middle + 0.75):
            color[np.abs(x - rail) < 0.06 + z * 0.0006] = (156, 150, 146)
    _paint_markings(color, x, z, street, rng)
    patches = smooth_noise(rng, x.shape, 40)
    color *= (1 + 0.05 * street.wear * patches + 0.04 * rng.standard_normal(x.shape).astype(np.float32))[
        ..., None
    ]
    if street.sunny:
        reach = rng.uniform(2, 8)
        shaded = x * street.sun_side > (on_right if street.sun_side > 0 else -on_left) - reach
        color[shaded] *= 0.62
    canvas.image[first:] = np.clip(color, 0, 255).astype(np.uint8)
    canvas.label[first:] = label
    canvas.depth[first:] = np.minimum(z, 400)
    canvas.label[int(camera.horizon) : first] = objects.TERRAIN
    canvas.image[int(camera.horizon) : first] = canvas.image[first]


def _paint_markings(color: np.ndarray, x: np.ndarray, z: np.ndarray, street: Street, rng: Rng) -> None:
    """Lane lines, edge lines and the zebra crossing."""
    inner = street.rails[1] if street.rails and street.rails[0] <= street.left else street.left
    outer = street.rails[0] if street.rails and street.rails[1] >= street.right else street.right
    white = np.asarray(objects.pick(rng, ((222, 222, 216), (226, 214, 150))), float)
    blend = 0.55 + 0.4 * street.wear
    phase, dash = rng.uniform(0, 9), rng.uniform(2.5, 4)
    broad = 0.07 + z * 0.0004  # a line stays visible a little farther than its width would let it
    marked = np.zeros(x.shape, bool)
    line = -LANE / 2
    while line > inner + 1:
        line -= LANE
    while line < outer - 1:
        if line > inner + 1:
            solid = rng.random() < 0.25
            marked |= (np.abs(x - line) < broad) & (solid | (np.mod(z + phase, 9.0) < dash))
        line += LANE
    if rng.random() < 0.6:
        marked |= (np.abs(x - inner - 0.3) < broad) | (np.abs(x - outer + 0.3) < broad)
    if street.crossing is not None:
        band = (z > street.crossing) & (z < street.crossing + 3.2) & (x > inner + 0.3) & (x < outer - 0.3)
        marked = (marked & ~band) | (band & (np.mod(x + phase, 1.0) < 0.5))
        marked |= (np.abs(z - street.crossing + 1.4) < 0.2) & (x > inner) & (x < outer)
    color[marked] = color[marked] * (1 - blend) + white * blend
