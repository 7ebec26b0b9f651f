"""Generated worlds with dense truth, a batch at a time on any device: what a small backbone learns to see from.

A world is a camera before planes (ground in strips, walls, skyline, ceiling) and things (vehicles, figures, trees,
poles, fences, solids), each part with its colour, pattern and grain; a third of them are things scattered without any
ground. `world_light` then lights them and puts weather and a camera before them. They are much broader than streets,
and share no code with the streets of `scenes`, on which models are scored.

Shapes: B worlds, S side in pixels, T surfaces of a world.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("sky", "hard ground", "tiled ground", "soft ground", "facade", "plain wall", "foliage", "stem", "plate",
         "body", "glass", "wheel", "head", "torso", "legs", "round solid", "block", "lattice")  # fmt: skip
"""What a surface can be."""
SKY, HARD, TILED, SOFT, FACADE, WALL, FOLIAGE, STEM, PLATE, BODY, GLASS, WHEEL = range(12)
HEAD, TORSO, LEGS, ROUND, BLOCK, LATTICE = range(12, 18)

FAR = 400.0
"""Depth of the sky in metres."""
NOISE, BANKS = 128, 16
"""Side of a tile of grain in cells, and how many tiles there are."""

PLANES = 12
"""Surfaces 0 to 11: sky, five strips of ground, two of each side's walls, skyline, ceiling."""
STRIPS, SIDES, SKYLINE, CEILING = 5, 6, 10, 11

LOOKS = torch.tensor(
    [  # red, green, blue, spread, contrast of the grain from, to, grain cells a metre, chance of a pattern
        [0.55, 0.68, 0.85, 0.18, 0.00, 0.15, 0.1, 0.0],  # sky
        [0.40, 0.40, 0.41, 0.12, 0.05, 0.30, 6.0, 0.3],
        [0.58, 0.55, 0.52, 0.14, 0.05, 0.25, 5.0, 0.8],
        [0.42, 0.44, 0.24, 0.14, 0.25, 0.70, 6.0, 0.1],
        [0.58, 0.52, 0.46, 0.20, 0.03, 0.20, 3.0, 0.9],
        [0.60, 0.57, 0.53, 0.20, 0.05, 0.35, 4.0, 0.4],
        [0.25, 0.38, 0.16, 0.12, 0.40, 0.90, 5.0, 0.0],
        [0.38, 0.34, 0.30, 0.15, 0.05, 0.30, 8.0, 0.0],
        [0.60, 0.45, 0.35, 0.35, 0.00, 0.08, 8.0, 0.5],
        [0.50, 0.48, 0.50, 0.32, 0.00, 0.08, 2.0, 0.1],
        [0.20, 0.24, 0.28, 0.12, 0.05, 0.40, 3.0, 0.2],
        [0.10, 0.10, 0.11, 0.06, 0.00, 0.15, 9.0, 0.0],
        [0.62, 0.47, 0.38, 0.16, 0.00, 0.15, 12.0, 0.0],
        [0.45, 0.42, 0.45, 0.30, 0.05, 0.30, 10.0, 0.3],
        [0.28, 0.29, 0.38, 0.20, 0.05, 0.30, 10.0, 0.0],
        [0.50, 0.50, 0.50, 0.30, 0.00, 0.40, 6.0, 0.4],
        [0.50, 0.50, 0.50, 0.30, 0.00, 0.40, 6.0, 0.5],
        [0.42, 0.40, 0.38, 0.22, 0.05, 0.25, 6.0, 0.0],
    ]
)
"""How kinds usually look. Four of ten surfaces look otherwise: colour alone does not tell what a thing is."""


@dataclass
class Things:
    """A row of things of one sort in each world: one is drawn after another.

    Attributes:
        sort: how it is shaped. count: how many. size: width and height in metres, (from, to) each.
        kinds: of its parts. upright: stands on the ground.
    """

    sort: str
    count: int
    width: tuple[float, float]
    height: tuple[float, float]
    kinds: tuple[int, ...]


ROWS = (
    Things("solid", 3, (0.4, 4.0), (0.4, 4.0), (ROUND,)),
    Things("solid", 2, (0.4, 5.0), (0.4, 4.0), (BLOCK,)),
    Things("vehicle", 3, (1.5, 5.5), (1.3, 2.8), (BODY, GLASS, WHEEL)),
    Things("figure", 3, (0.45, 0.8), (1.4, 1.9), (TORSO, HEAD, LEGS)),
    Things("tree", 3, (1.5, 6.0), (2.0, 9.0), (FOLIAGE, STEM)),
    Things("pole", 2, (0.4, 1.2), (2.0, 7.0), (STEM, PLATE)),
    Things("fence", 1, (4.0, 14.0), (0.9, 2.0), (LATTICE,)),
)
SURFACES = PLANES + sum(row.count * len(row.kinds) for row in ROWS)
"""T."""


@dataclass
class Surfaces:
    """What each of the T surfaces is and looks like. Tables (B, T) or (B, T, n).

    Attributes:
        kind: index into `KINDS`. colour, other: of the surface and of its pattern, linear 0-1.
        pattern: 0 none, 1 stripes, 2 windows, 3 checks, 4 joints. period: along both sides in metres. duty: share.
        contrast, cells, bank: of the grain. scale: metres of a unit of the surface's coordinates.
        normal: x right, y up, z to the camera. bulge: whether it is round.
    """

    kind: Tensor
    colour: Tensor
    other: Tensor
    pattern: Tensor
    period: Tensor
    duty: Tensor
    contrast: Tensor
    cells: Tensor
    bank: Tensor
    scale: Tensor
    normal: Tensor
    bulge: Tensor


@dataclass
class Camera:
    """Of each world, (B, 1, 1): focal length, centre and horizon in pixels, height in metres.

    `x`, `y`: slope of each pixel's ray to the right (B, 1, S) and downwards (B, S, 1).
    """

    focal: Tensor
    centre: Tensor
    horizon: Tensor
    height: Tensor
    x: Tensor
    y: Tensor


@dataclass
class Raster:
    """What each pixel sees, (B, S, S): depth in metres, number of the surface, coordinates on it, shade 0-1."""

    depth: Tensor
    surface: Tensor
    across: Tensor
    along: Tensor
    shade: Tensor

    def put(self, mask: Tensor, depth: Tensor, surface: Tensor | int, across: Tensor, along: Tensor) -> None:
        """Draw where the mask is set and nothing nearer stands."""
        near = mask & (depth <= self.depth)
        self.depth = torch.where(near, depth, self.depth)
        self.surface = torch.where(near, surface, self.surface)
        self.across = torch.where(near, across, self.across)
        self.along = torch.where(near, along, self.along)


class Dice:
    """Random numbers on a device, from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high)."""
        drawn = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return drawn * (high - low) + low

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in the logarithm."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def chance(self, share: float, *shape: int) -> Tensor:
        """True in this share of cases."""
        return self.uniform(0, 1, *shape) < share

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def pick(self, count: int, *shape: int) -> Tensor:
        """Uniform integers below `count`."""
        return torch.randint(count, shape, generator=self.generator, device=self.generator.device)


def lay_out(dice: Dice, batch: int, side: int, grain: Tensor) -> tuple[Camera, Surfaces, Raster]:
    """Draw worlds: what each pixel sees, without light.

    Args:
        dice: decides everything.
        batch, side: B, S.
        grain: tiles from `grain_bank`.
    """
    device = grain.device
    scattered = dice.chance(0.3, batch, 1, 1)  # things alone, anyhow, before one plane
    camera = _camera(dice, batch, side)
    surfaces = _surfaces(dice, batch, device)
    blank = torch.zeros(batch, side, side, device=device)
    raster = Raster(blank + FAR, blank.int(), blank, blank, blank + 1)
    _planes(dice, camera, surfaces, raster, scattered)
    _things(dice, camera, surfaces, raster, scattered, grain)
    return camera, surfaces, raster


def grain_bank(dice: Dice) -> Tensor:
    """Tiles of smooth noise that repeat without a seam, (BANKS, NOISE, NOISE), mean 0, deviation 1."""
    waves = torch.fft.fftfreq(NOISE, device=dice.generator.device)
    radius = (waves[:, None] ** 2 + waves[None, :] ** 2).sqrt().clamp(min=1 / NOISE)
    fall = torch.linspace(0.7, 2.0, BANKS, device=radius.device).view(-1, 1, 1)  # white to cloudy
    spectrum = torch.fft.fft2(dice.normal(BANKS, NOISE, NOISE)) * radius**-fall
    tiles = torch.fft.ifft2(spectrum).real
    return (tiles - tiles.mean((1, 2), keepdim=True)) / tiles.std((1, 2), keepdim=True)


def look_up(grain: Tensor, bank: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """The cell of a tile at coordinates in cells."""
    column = across.floor().long() & (NOISE - 1)
    line = along.floor().long() & (NOISE - 1)
    return grain.flatten()[(bank * NOISE + line) * NOISE + column]


# --- camera, surfaces, planes ------------------------------------------------------------------------------


def _camera(dice: Dice, batch: int, side: int) -> Camera:
    shape = (batch, 1, 1)
    focal = side * dice.log_uniform(0.5, 1.8, *shape)
    centre = side * dice.uniform(0.25, 0.75, *shape)
    level = torch.where(
        dice.chance(0.2, *shape), dice.uniform(-0.3, 1.1, *shape), dice.uniform(0.25, 0.65, *shape)
    )
    height = torch.where(
        dice.chance(0.15, *shape), dice.uniform(2.5, 12, *shape), dice.uniform(0.8, 2.2, *shape)
    )
    pixels = torch.arange(side, device=focal.device) + 0.5
    x = (pixels.view(1, 1, -1) - centre) / focal
    y = (pixels.view(1, -1, 1) - side * level) / focal
    return Camera(focal, centre, side * level, height, x, y)


def _surfaces(dice: Dice, batch: int, device: torch.device) -> Surfaces:
    shape = (batch, SURFACES)
    fixed = [SKY] + [HARD] * STRIPS + [FACADE] * 4 + [FACADE, WALL]
    fixed += [kind for row in ROWS for _ in range(row.count) for kind in row.kinds]
    kind = torch.tensor(fixed, device=device).repeat(batch, 1)
    ground = torch.tensor([HARD, TILED, SOFT, HARD], device=device)
    kind[:, 1 : 1 + STRIPS] = ground[dice.pick(4, batch, STRIPS)]
    walls = torch.tensor([FACADE, FACADE, WALL, FOLIAGE, LATTICE], device=device)
    kind[:, SIDES : SKYLINE + 1] = walls[dice.pick(5, batch, 5)]
    looks = LOOKS.to(device)[kind]
    usual = (looks[..., :3] * dice.uniform(0.6, 1.4, *shape, 1)) + dice.normal(*shape, 3) * looks[
        ..., 3:4
    ] * 0.7
    anyhow = dice.uniform(0, 1, *shape, 3)
    colour = torch.where(dice.chance(0.4, *shape, 1), anyhow, usual).clamp(0.02, 0.98)
    other = torch.where(dice.chance(0.5, *shape, 1), colour * dice.uniform(0.2, 1.8, *shape, 1), anyhow)
    contrast = looks[..., 4] + (looks[..., 5] - looks[..., 4]) * dice.uniform(0, 1, *shape)
    patterned = dice.uniform(0, 1, *shape) < looks[..., 7]
    wild = dice.chance(0.25, *shape)  # grain and pattern of another kind
    contrast = torch.where(wild, dice.uniform(0, 0.8, *shape), contrast)
    patterned = torch.where(wild, dice.chance(0.4, *shape), patterned)
    period = dice.log_uniform(0.4, 4.0, *shape, 2)
    yaw = dice.uniform(-0.9, 0.9, *shape)
    normal = torch.stack([yaw.sin(), 0 * yaw, yaw.cos()], -1)
    for first, last, axis in ((1, SIDES, (0, 1, 0)), (SIDES, SIDES + 2, (1, 0, 0)), (SIDES + 2, SKYLINE, (-1, 0, 0)),
                              (SKYLINE, CEILING, (0, 0, 1)), (CEILING, PLANES, (0, -1, 0))):  # fmt: skip
        normal[:, first:last] = torch.tensor(axis, device=device, dtype=normal.dtype)
    bulge = (
        (kind == ROUND) | (kind == HEAD) | (kind == FOLIAGE) | ((kind == TORSO) & dice.chance(0.5, *shape))
    )
    bulge[:, :PLANES] = False
    return Surfaces(
        kind, colour, other.clamp(0.02, 0.98), dice.pick(4, *shape).add(1) * patterned, period,
        dice.uniform(0.3, 0.8, *shape, 2), contrast, looks[..., 6] * dice.log_uniform(0.4, 2.5, *shape),
        dice.pick(BANKS, *shape), torch.ones(*shape, 2, device=device), normal, bulge,
    )  # fmt: skip


def _planes(dice: Dice, camera: Camera, surfaces: Surfaces, raster: Raster, scattered: Tensor) -> None:
    batch, side = raster.depth.shape[:2]
    shape = (batch, 1, 1)
    down = camera.y.clamp(min=1e-3)
    # the ground, in strips that may bend
    depth = (camera.height / down).expand(batch, side, side)
    lateral = camera.x * depth
    bent = lateral - dice.uniform(-0.01, 0.01, *shape) * depth**2
    cuts = dice.uniform(-5, -1, *shape)
    strip = torch.ones_like(raster.surface)
    for _ in range(STRIPS - 1):
        strip = strip + (bent > cuts)
        cuts = cuts + dice.uniform(0.8, 6.0, *shape)
    raster.put((camera.y > 0) & ~scattered & (depth < FAR), depth, strip, bent, depth)
    # walls left and right, in segments of their own height, some of them gaps
    for number, sign in ((SIDES, -1.0), (SIDES + 2, 1.0)):
        place = sign * dice.log_uniform(2.5, 16, *shape)
        slope = camera.x * sign
        depth = (place * sign / slope.clamp(min=1e-3)).expand(batch, side, side)
        above = camera.height - camera.y * depth
        segment = (depth / dice.uniform(5, 25, *shape)).floor().long()
        low = dice.chance(0.4, batch, 16)
        heights = torch.where(low, dice.uniform(0.3, 3, batch, 16), dice.uniform(3, 25, batch, 16))
        heights = heights * dice.chance(0.75, batch, 16)
        top = heights.gather(1, (segment & 15).flatten(1)).view_as(depth)
        present = dice.chance(0.75, *shape) & ~scattered & (slope > 0) & (depth < 150)
        raster.put(present & (above > 0) & (above < top), depth, number + (segment & 1).int(), depth, above)
    # what closes the view: a skyline or one wall
    depth = dice.log_uniform(8, 150, *shape).expand(batch, side, side)
    lateral, above = camera.x * depth, camera.height - camera.y * depth
    column = (lateral / dice.uniform(1, 20, *shape)).floor().long() & 15
    top = dice.uniform(1, 30, batch, 16).gather(1, column.expand_as(depth).flatten(1)).view_as(depth)
    present = (dice.chance(0.8, *shape) & (above > 0) & (above < top)) | (
        scattered & dice.chance(0.8, *shape)
    )
    raster.put(present, depth, SKYLINE, lateral.expand_as(depth), above.expand_as(depth))
    roof = dice.uniform(2.3, 6, *shape)
    depth = ((camera.height - roof) / camera.y.clamp(max=-1e-3)).expand(batch, side, side)
    present = dice.chance(0.12, *shape) & ~scattered & (roof > camera.height) & (camera.y < 0) & (depth < 100)
    raster.put(present, depth, CEILING, camera.x * depth, depth)


# --- things ------------------------------------------------------------------------------------------------


@dataclass
class Placed:
    """Things of one row in all worlds, N = B * count of them, each value (N,).

    Attributes:
        world, first: which world, and the surface of its first part. there: whether it is drawn.
        depth: metres. column, middle, foot: its centre and lower end in pixels. turn: radians, clockwise.
        half_width, half_height: pixels.
    """

    world: Tensor
    first: Tensor
    there: Tensor
    depth: Tensor
    column: Tensor
    middle: Tensor
    foot: Tensor
    turn: Tensor
    half_width: Tensor
    half_height: Tensor


@dataclass
class Drawn:
    """Pixels that things cover, one entry a pixel and thing: place in the flattened raster, depth, surface, (p, q)."""

    place: Tensor
    depth: Tensor
    surface: Tensor
    p: Tensor
    q: Tensor


def _things(
    dice: Dice, camera: Camera, surfaces: Surfaces, raster: Raster, scattered: Tensor, grain: Tensor
) -> None:
    """Draw all things: only the pixels in their boxes are looked at, and the nearest wins."""
    side, first, drawn = raster.depth.shape[1], PLANES, []
    ground = (raster.surface > 0) & (raster.surface < SIDES)
    darkness = torch.zeros_like(raster.depth).flatten()
    for row in ROWS:
        placed = _place(dice, row, first, camera, surfaces, scattered, side)
        drawn.append(_draw(dice, row, placed, side, grain))
        _contact_shadow(placed, scattered, side, darkness)
        first += row.count * len(row.kinds)
    raster.shade = torch.where(ground, darkness.clamp(min=-3).exp().view_as(raster.shade), raster.shade)
    all_drawn = Drawn(
        *(torch.cat([getattr(part, name) for part in drawn]) for name in Drawn.__dataclass_fields__)
    )
    millimetres = (all_drawn.depth * 1000).long()
    entry = torch.arange(len(millimetres), device=millimetres.device)
    nearest = torch.full((raster.depth.numel(),), 1 << 62, device=millimetres.device)
    nearest.scatter_reduce_(0, all_drawn.place, (millimetres << 32) | entry, "amin")
    place = (nearest < 1 << 62).nonzero()[:, 0]
    winner = nearest[place] & ((1 << 32) - 1)
    before = all_drawn.depth[winner] < raster.depth.flatten()[place]
    place, winner = place[before], winner[before]
    for canvas, values in ((raster.depth, all_drawn.depth), (raster.surface, all_drawn.surface),
                           (raster.across, all_drawn.p), (raster.along, all_drawn.q)):  # fmt: skip
        canvas.view(-1)[place] = values[winner].to(canvas.dtype)


def _place(
    dice: Dice, row: Things, first: int, camera: Camera, surfaces: Surfaces, scattered: Tensor, side: int
) -> Placed:
    """Where the things of a row stand; two of five are left out."""
    batch, parts = len(camera.focal), len(row.kinds)
    shape = (batch, row.count)
    focal, horizon, above, loose = (
        camera.focal[:, 0],
        camera.horizon[:, 0],
        camera.height[:, 0],
        scattered[:, 0],
    )
    depth = dice.log_uniform(2.5, 45, *shape)
    width, height = dice.log_uniform(*row.width, *shape), dice.log_uniform(*row.height, *shape)
    lift = dice.uniform(0, 3, *shape) * dice.chance(0.1, *shape)
    half_width, half_height = 0.5 * focal * width / depth, 0.5 * focal * height / depth
    foot = horizon + focal * (above - lift) / depth
    # scattered ones: any place, any angle, a size that shows
    grow = side * dice.log_uniform(0.06, 0.4, *shape) / half_width.maximum(half_height)
    half_width, half_height = (torch.where(loose, half * grow, half) for half in (half_width, half_height))
    middle = torch.where(loose, side * dice.uniform(0, 1, *shape), foot - half_height)
    turn = torch.where(loose, dice.uniform(-3.2, 3.2, *shape), dice.normal(*shape) * 0.04)
    number = first + parts * torch.arange(row.count, device=depth.device)
    metres = torch.stack([half_width, half_height], -1) * (depth / focal)[..., None]
    surfaces.scale[:, first : first + row.count * parts] = metres.repeat_interleave(parts, 1)
    world = torch.arange(batch, device=depth.device)[:, None].expand(shape)
    values = (world, number.expand(shape), dice.chance(0.6, *shape), depth, side * dice.uniform(-0.05, 1.05, *shape),
              middle, foot, turn, half_width, half_height)  # fmt: skip
    return Placed(*(value.flatten() for value in values))


def _box_pixels(
    x: Tensor, y: Tensor, half_x: Tensor, half_y: Tensor, side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """All pixels of N boxes: which box, column, line, each (P,). Centres and half sizes (N,) in pixels."""
    left, right = (x - half_x).floor().clamp(0, side).int(), (x + half_x).ceil().clamp(0, side).int()
    top, bottom = (y - half_y).floor().clamp(0, side).int(), (y + half_y).ceil().clamp(0, side).int()
    wide = right - left
    area = wide * (bottom - top)
    box = torch.repeat_interleave(area)
    start = area.cumsum(0) - area
    within = torch.arange(len(box), device=x.device, dtype=torch.int32) - start.int()[box]
    down = torch.div(within, wide[box], rounding_mode="floor")
    return box, left[box] + within - down * wide[box], top[box] + down


def _draw(dice: Dice, row: Things, placed: Placed, side: int, grain: Tensor) -> Drawn:
    """The pixels that the things of a row cover."""
    cosine, sine = placed.turn.cos(), placed.turn.sin()
    reach_x = cosine.abs() * placed.half_width + sine.abs() * placed.half_height
    reach_y = sine.abs() * placed.half_width + cosine.abs() * placed.half_height
    margin = 1.2 * placed.there  # crowns are ragged
    box, column, line = _box_pixels(placed.column, placed.middle, margin * reach_x, margin * reach_y, side)
    right, low = column + 0.5 - placed.column[box], line + 0.5 - placed.middle[box]
    p = right * (cosine / placed.half_width)[box] + low * (sine / placed.half_width)[box]
    q = low * (cosine / placed.half_height)[box] - right * (sine / placed.half_height)[box]
    part = SHAPES[row.sort](
        Sketch(dice, len(cosine), box, p, q, placed.half_width / placed.half_height, grain)
    )
    covered = (part >= 0).nonzero()[:, 0]
    box, part = box[covered], part[covered]
    place = (placed.world[box] * side + line[covered]) * side + column[covered]
    return Drawn(place, placed.depth[box], placed.first[box] + part, p[covered], q[covered])


def _contact_shadow(placed: Placed, scattered: Tensor, side: int, darkness: Tensor) -> None:
    """A thing darkens the ground around its foot: adds to the logarithm of the shade, (B*S*S,)."""
    there = placed.there & ~scattered.flatten()[placed.world]
    half_x, half_y = 1.3 * placed.half_width, 0.4 * placed.half_width + 1
    box, column, line = _box_pixels(placed.column, placed.foot, 2 * half_x * there, 2 * half_y * there, side)
    far = ((column + 0.5 - placed.column[box]) / half_x[box]) ** 2
    far = far + ((line + 0.5 - placed.foot[box]) / half_y[box]) ** 2
    dark = torch.log1p(-0.6 * (-2 * far).exp())
    darkness.index_add_(0, (placed.world[box] * side + line) * side + column, dark)


@dataclass
class Sketch:
    """Pixels in the coordinates of their things: p to the right and q downwards, -1 to 1 over width and height.

    Attributes:
        things: N. thing: (P,) which of them. p, q: (P,). aspects: (N,) width to height.
    """

    dice: Dice
    things: int
    thing: Tensor
    p: Tensor
    q: Tensor
    aspects: Tensor
    grain: Tensor

    def each(self, low: float, high: float) -> Tensor:
        """A number for every thing, at its pixels."""
        return self.dice.uniform(low, high, self.things)[self.thing]

    def some(self, share: float) -> Tensor:
        """Chosen things' pixels."""
        return self.dice.chance(share, self.things)[self.thing]

    def either(self, share: float, one: tuple[float, float], other: tuple[float, float]) -> Tensor:
        """A number for every thing from one of two ranges."""
        drawn = torch.where(self.dice.chance(share, self.things), self.dice.uniform(*one, self.things),
                            self.dice.uniform(*other, self.things))  # fmt: skip
        return drawn[self.thing]

    @property
    def aspect(self) -> Tensor:
        """Width to height, at the pixels."""
        return self.aspects[self.thing]

    def parts(self, *masks: Tensor) -> Tensor:
        """Number of the part that each pixel shows, -1 none: a later one covers an earlier one."""
        shown = torch.full_like(self.thing, -1)
        for number, mask in enumerate(masks):
            shown = torch.where(mask, number, shown)
        return shown


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """base ** exponent, where only being below 1 or not matters."""
    return (base.clamp(1e-4, 2).log() * exponent).clamp(min=-16).exp()


def _solid(s: Sketch) -> Tensor:
    power = s.either(0.5, (1.6, 2.6), (3, 12))
    lean = s.each(-0.3, 0.3) * s.some(0.5)
    return s.parts(_power((s.p / (1 + lean * s.q)).abs(), power) + _power(s.q.abs(), power) < 1)


def _vehicle(s: Sketch) -> Tensor:
    """Body, glass, wheels: cabin narrower than the body, or a box."""
    waist, pane = s.each(-0.35, 0.15), s.each(0.06, 0.15)
    cabin = s.either(0.4, (1, 1), (0.5, 0.9))
    aside = (s.p - s.each(-1, 1) * (1 - cabin)).abs()
    taper = cabin * (1 - 0.35 * (waist - s.q) * (cabin < 1))
    upper = (s.q <= waist) & (s.q > -1) & (aside < taper)
    body = upper | ((s.p.abs() < 1) & (s.q > waist) & (s.q < s.each(0.55, 0.8)))
    glass = (s.q < waist - pane) & (s.q > pane - 1) & (aside < taper - pane) & s.some(0.85)
    radius = s.each(0.28, 0.4)
    reach = (s.p.abs() - s.each(0.45, 0.75)) * s.aspect
    return s.parts(body, glass, reach**2 + (s.q - 1 + radius) ** 2 < radius**2)


def _figure(s: Sketch) -> Tensor:
    """Torso, head, legs."""
    torso = (s.p / s.each(0.5, 0.95)).abs() ** 3 + ((s.q + 0.3) / 0.42).abs() ** 3 < 1
    head = (s.p * s.aspect) ** 2 + (s.q + 0.84) ** 2 < 0.15**2
    gap = s.each(-0.1, 0.25) * (s.q - 0.1)
    legs = (s.q > 0.05) & (s.q < 1) & (s.p.abs() > gap) & (s.p.abs() < 0.35 + 0.3 * gap)
    return s.parts(torso, head, legs & ~torso)


def _tree(s: Sketch) -> Tensor:
    """Crown and trunk; a third are bushes."""
    crown = s.either(0.35, (1, 1), (0.4, 0.8))
    ragged = 0.3 * look_up(s.grain, s.dice.pick(BANKS, s.things)[s.thing], s.p * 14 + 40, s.q * 14 + 40)
    power = s.each(1.5, 3)
    crowned = _power(s.p.abs(), power) + _power(((s.q - crown + 1) / crown).abs(), power) < 1 + ragged
    trunk = (s.p.abs() < s.each(0.04, 0.14)) & (s.q > crown - 1) & (s.q < 1)
    return s.parts(crowned, trunk & ~crowned)


def _pole(s: Sketch) -> Tensor:
    """Stem, and mostly a plate at its upper end."""
    size, power = s.each(0.6, 1.0), s.either(0.5, (2, 2), (5, 12))
    tall = size * s.aspect
    plate = _power((s.p / size).abs(), power) + _power(((s.q + 1 - tall) / tall).abs(), power) < 1
    return s.parts((s.p.abs() < s.each(0.06, 0.2)) & (s.q.abs() < 1), plate & s.some(0.75))


def _fence(s: Sketch) -> Tensor:
    """Bars and rails."""
    bars = (s.p * s.each(6, 25)).frac().abs() < s.each(0.25, 0.6)
    rails = (s.q.abs() - s.each(0.5, 0.8)).abs() < 0.12
    return s.parts((s.p.abs() < 1) & (s.q.abs() < 1) & (bars | rails))


SHAPES: dict[str, Callable[[Sketch], Tensor]] = {
    "solid": _solid, "vehicle": _vehicle, "figure": _figure, "tree": _tree, "pole": _pole, "fence": _fence,
}  # fmt: skip
"""Part shown at each pixel of a sketch, -1 none."""
