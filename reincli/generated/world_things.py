"""Things that stand in generated worlds: vehicles, figures, trees, poles, fences, solids.

Only the pixels in their boxes are looked at, those of all things of a sort in one list.

Shapes: B worlds, S side in pixels, N things of a row in all worlds, P pixels of their boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reincli.generated.world_parts import (
    BANKS,
    PLANES,
    ROWS,
    SIDES,
    Camera,
    Dice,
    Raster,
    Surfaces,
    Things,
    look_up,
)


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


def draw_things(
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
