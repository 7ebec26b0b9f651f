"""Generated streets with exact labels: a source domain in daylight and the same kind of street at night, in fog,
rain and snow.

They exist so that the whole program can be tried without any download. They are written in the folders of
Cityscapes and ACDC, with labelIds, and are prepared by the code that prepares the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from reincli.generated import street_objects as objects
from reincli.generated import weather
from reincli.generated.canvas import Camera, Canvas
from reincli.generated.street_ground import (
    LANE,
    Street,
    draw_street,
    paint_ground,
    paint_sky,
    paint_skyline,
    smooth_noise,
)
from reincli.generated.street_objects import Rng
from reincli.generated.street_vehicles import vehicle
from reincli.media.images import write_png
from reincli.media.workers import in_order, processes

DOMAINS = ("clear", "night", "fog", "rain", "snow")
"""The source domain and the targets."""
SIZE = (512, 256)
"""Width and height in pixels."""
FARTHEST = 130.0
"""Nothing but skyline stands farther away than this many metres."""


def generate(seed: int, domain: str, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """One street.

    Args:
        seed: decides everything; the same street is drawn for every domain.
        domain: one of `DOMAINS`.
        size: (width, height).

    Returns:
        image: (height, width, 3) uint8 RGB.
        label: (height, width) uint8 Cityscapes labelIds; rails (10) have no class.
    """
    canvas = compose(seed, domain, size)
    return weather.apply(canvas, domain, np.random.default_rng([seed, 1])), canvas.label


def compose(
    seed: int,
    domain: str,
    size: tuple[int, int] = SIZE,
    add: Callable[[Canvas, Street], None] | None = None,
) -> Canvas:
    """The street as it is before weather and camera; `add` may draw more into it, which takes its light and haze."""
    if domain not in DOMAINS:
        raise ValueError(f"domain '{domain}' is none of {', '.join(DOMAINS)}")
    rng = np.random.default_rng([seed, 0])
    width, height = size
    camera = Camera(
        focal=width * rng.uniform(0.62, 0.95),
        center=width * rng.uniform(0.36, 0.64),
        horizon=height * rng.uniform(0.38, 0.52),
        height=rng.uniform(1.25, 1.9),
        bend=rng.uniform(-0.0014, 0.0014) * (rng.random() < 0.7),
    )
    canvas = Canvas(width, height, camera)
    street = draw_street(rng)
    paint_sky(canvas, rng, overcast=domain in ("rain", "snow", "fog"))
    paint_skyline(canvas, rng)
    paint_ground(canvas, street, rng)
    for side in (-1, 1):
        _paint_side(canvas, street, side, rng)
    _paint_street_life(canvas, street, rng)
    if add is not None:
        add(canvas, street)
    _roughen(canvas, rng)
    return canvas


# --- what stands beside it ---------------------------------------------------------------------------------


def _paint_side(canvas: Canvas, street: Street, side: int, rng: Rng) -> None:
    """The row of houses, walls, fences and trees on one side, from far to near."""
    index = 0 if side < 0 else 1
    kerb = street.left if side < 0 else street.right
    edge = kerb + side * (street.pavement[index] + street.verge[index])
    light = 1.0 if not street.sunny else (0.62 if side == street.sun_side else 1.12)
    # chances of house, wall, fence, hedge, park: what kind of neighbourhood this is
    moods = ((0.8, 0.06, 0.05, 0.05, 0.04), (0.45, 0.15, 0.15, 0.15, 0.1), (0.12, 0.18, 0.25, 0.2, 0.25))
    mood = moods[int(rng.integers(len(moods)))]
    near = rng.uniform(-3, 4)
    parts: list[tuple[float, float, int]] = []
    while near < FARTHEST:
        length = rng.uniform(7, 24)
        parts.append((near, near + length, int(rng.choice(5, p=mood))))
        near += length + (rng.uniform(3, 10) if rng.random() < 0.2 else 0.0)
    for start, stop, kind in reversed(parts):
        start = max(start, 1.2)
        if stop - start < 1.5:
            continue
        if kind == 0:
            objects.building(canvas, rng, edge, start, stop, side * rng.uniform(8, 16), light)
            continue
        if rng.random() < 0.55:
            objects.building(canvas, rng, edge + side * rng.uniform(6, 14), start, stop, side * 10.0, light)
        for _ in range(int(rng.integers(1, 5))):
            place = edge + side * rng.uniform(1.5, 7)
            objects.tree(canvas, rng, place, rng.uniform(start, stop), light)
        if kind == 1:
            objects.low_wall(canvas, rng, edge, start, stop, light)
        elif kind == 2:
            objects.fence(canvas, rng, edge, start, stop, light)
        elif kind == 3:
            step = np.linspace(stop, start, max(int((stop - start) / 1.4), 2))
            for z in step:
                objects.tree(canvas, rng, edge + side * 0.6, float(z), light, height=rng.uniform(1.2, 2.2))


def _paint_street_life(canvas: Canvas, street: Street, rng: Rng) -> None:
    """Traffic, people, lamps, signs and street trees, sorted by distance."""
    things: list[tuple[float, Callable[[], None]]] = []

    def add(z: float, draw: Callable[..., None], *args: object, **options: object) -> None:
        things.append((z, lambda: draw(canvas, rng, *args, **options)))

    light = 0.95 if street.sunny else 0.85
    for side in (-1, 1):
        kerb = street.left if side < 0 else street.right
        pavement = street.pavement[0 if side < 0 else 1]
        _add_furniture(add, side, kerb, pavement, rng, street.crossing, light)
        for _ in range(int(rng.integers(1, 9))):
            z = rng.uniform(4, 45)
            for i in range(int(rng.choice((1, 1, 2, 3)))):
                add(
                    z + 0.3 * i,
                    objects.person,
                    kerb + side * rng.uniform(0.3, pavement) + 0.6 * i,
                    z + 0.3 * i,
                )
        for _ in range(int(rng.integers(0, 4))):
            z = rng.uniform(4, 26)
            motor, ridden = rng.random() < 0.4, rng.random() < 0.3
            place = kerb + side * rng.uniform(0.4, max(pavement - 0.3, 0.5))
            add(z, objects.two_wheeler, place, z, motor=motor, ridden=ridden, across=rng.random() < 0.7)
    if street.crossing is not None:
        for _ in range(int(rng.integers(0, 5))):
            z = street.crossing + rng.uniform(0.3, 2.8)
            add(z, objects.person, rng.uniform(street.left, street.right), z)
    _add_traffic(add, street, rng, light)
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()


def _add_furniture(
    add: Callable[..., None],
    side: int,
    kerb: float,
    pavement: float,
    rng: Rng,
    crossing: float | None,
    light: float,
) -> None:
    """Lamps, trees, signs and signals along a kerb."""
    z, step = rng.uniform(6, 25), rng.uniform(15, 32)
    while z < FARTHEST and rng.random() < 0.97:
        add(z, objects.street_lamp, kerb + side * 0.5, z)
        z += step
    z, step = rng.uniform(7, 30), rng.uniform(7, 22)
    if rng.random() < 0.45:
        while z < FARTHEST:
            add(z, objects.tree, kerb + side * min(1.0, pavement * 0.5), z, light, rng.uniform(3.5, 8))
            z += step * rng.uniform(0.7, 1.3)
    for _ in range(int(rng.integers(0, 4))):
        z = rng.uniform(5, 40)
        add(z, objects.traffic_sign, kerb + side * rng.uniform(0.3, 0.9), z)
    if crossing is not None or rng.random() < 0.35:
        z = (crossing or rng.uniform(8, 30)) + 0.5
        add(z, objects.traffic_light, kerb + side * 0.4, z)


def _add_traffic(add: Callable[..., None], street: Street, rng: Rng, light: float) -> None:
    """Vehicles in every lane, parked ones at the kerbs, and trains on the rails."""
    inner = street.rails[1] if street.rails and street.rails[0] <= street.left else street.left
    outer = street.rails[0] if street.rails and street.rails[1] >= street.right else street.right
    kinds = (objects.CAR, objects.TRUCK, objects.BUS, objects.MOTORCYCLE, objects.BICYCLE)
    density = rng.uniform(0.5, 1.6)
    lane = -LANE * int(-inner / LANE)
    while lane + 1.2 < outer:
        oncoming = lane < -LANE / 2
        z = rng.uniform(7, 26) if abs(lane) < 1 else rng.uniform(3, 26)
        while z < 90 and lane - 1.2 > inner:
            kind = int(rng.choice(kinds, p=(0.64, 0.1, 0.09, 0.09, 0.08)))
            x = lane + rng.uniform(-0.35, 0.35)
            if kind in (objects.MOTORCYCLE, objects.BICYCLE):
                motor = kind == objects.MOTORCYCLE
                add(z, objects.two_wheeler, x, z, motor=motor, ridden=True, across=rng.random() < 0.2)
                z += rng.uniform(4, 18) / density
                continue
            add(z, vehicle, x, z, kind, oncoming=oncoming, light=light)
            z += (6 if kind == objects.CAR else 14) + rng.uniform(2, 26) / density
        lane += LANE
    for kerb, side in ((inner, 1), (outer, -1)):
        if rng.random() < 0.4:
            z = rng.uniform(3, 14)
            for _ in range(int(rng.integers(2, 8))):
                add(z, vehicle, kerb + side * 1.0, z, objects.CAR, oncoming=side > 0, light=light)
                z += rng.uniform(5.3, 8)
    if street.rails is not None and rng.random() < 0.8:
        z = rng.uniform(6, 40)
        add(
            z,
            vehicle,
            sum(street.rails) / 2,
            z,
            objects.TRAIN,
            oncoming=rng.random() < 0.5,
            light=light,
        )


ROUGHNESS: Mapping[int, float] = {objects.VEGETATION: 0.2, objects.TERRAIN: 0.16, objects.BUILDING: 0.05}
"""Strength of the grain of a surface; 0.03 elsewhere, none in the sky."""


def _roughen(canvas: Canvas, rng: Rng) -> None:
    """Give surfaces grain, and the air its haze."""
    amount = np.full(256, 0.03, np.float32)
    amount[objects.SKY] = 0.0
    for label, strength in ROUGHNESS.items():
        amount[label] = strength
    grain = rng.standard_normal(canvas.label.shape).astype(np.float32) * 0.6
    grain += smooth_noise(rng, canvas.label.shape, 4) * 0.5
    image = canvas.image * (1 + grain * amount[canvas.label])[..., None]
    haze = 1 - np.exp(-canvas.depth / rng.uniform(250, 900))
    haze[canvas.label == objects.SKY] = 0
    image += (np.array([186, 196, 208]) - image) * haze[..., None]
    tint = rng.uniform(0.82, 1.12) * (1 + rng.uniform(-0.06, 0.06) * np.array([1, 0, -1]))
    canvas.image[:] = np.clip(image * tint, 0, 255).astype(np.uint8)


# --- files -------------------------------------------------------------------------------------------------


def scene_files(
    root: Path, train: int, val: int, targets: int, seed: int
) -> list[tuple[Path, Path, int, str]]:
    """(image, label, seed, domain) of every street of a set; targets: validation images a condition."""
    files = []
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        for i in range(count):
            name = f"streets/streets_{seed:06d}_{i:06d}"
            image = root / f"cityscapes/leftImg8bit/{split}/{name}_leftImg8bit.png"
            label = root / f"cityscapes/gtFine/{split}/{name}_gtFine_labelIds.png"
            files.append((image, label, _scene_seed(seed, number, i), "clear"))
    for number, condition in enumerate(DOMAINS[1:], start=2):
        for i in range(targets):
            name = f"streets/streets_{condition}_{seed:06d}_{i:06d}"
            image = root / f"acdc/rgb_anon/{condition}/val/{name}_rgb_anon.png"
            label = root / f"acdc/gt/{condition}/val/{name}_gt_labelIds.png"
            files.append((image, label, _scene_seed(seed, number, i), condition))
    return files


def _scene_seed(seed: int, part: int, number: int) -> int:
    return (seed * 10 + part) * 1_000_000 + number


def write_scenes(
    root: Path,
    *,
    train: int = 60,
    val: int = 20,
    targets: int = 10,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    workers: int = 2,
    force: bool = False,
    on_file: Callable[[], None] | None = None,
) -> int:
    """Write streets under `root/cityscapes` (train, val) and `root/acdc` (val of the four conditions).

    Args:
        root: the data root.
        train, val: images of the source domain.
        targets: images of each of night, fog, rain, snow.
        seed: of the set; the same seed writes the same files.
        size: (width, height).
        workers: processes; 0: this one.
        force: draw again what is there.
        on_file: called after each street, also after one that was there.

    Returns:
        How many streets were drawn.

    Raises:
        ReinError: a file cannot be written.
    """
    jobs = [(*files, size, force) for files in scene_files(root, train, val, targets, seed)]
    drawn = 0
    if workers == 0:
        for job in jobs:
            drawn += _write_scene(job)
            if on_file is not None:
                on_file()
        return drawn
    with processes(workers) as pool:
        for wrote in in_order(pool, _write_scene, jobs, group=4):
            drawn += wrote
            if on_file is not None:
                on_file()
    return drawn


def _write_scene(job: tuple[Path, Path, int, str, tuple[int, int], bool]) -> int:
    image_path, label_path, seed, domain, size, force = job
    if not force and image_path.exists() and label_path.exists():
        return 0
    cv2.setNumThreads(0)
    image, label = generate(seed, domain, size)
    write_png(image_path, image)
    write_png(label_path, label)
    return 1
