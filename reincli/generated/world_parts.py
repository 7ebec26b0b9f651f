"""What generated worlds are made of: kinds of surfaces, their tables, a camera, what each pixel sees, and grain.

Shapes: B worlds, S side in pixels, T surfaces of a world.
"""

from __future__ import annotations

import math
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
