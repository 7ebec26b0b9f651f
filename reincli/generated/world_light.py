"""Light, weather and a camera for generated worlds: the same world looks different by day, at night, in fog.

Shapes: B worlds, S side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from reincli.generated.world_parts import BANKS, SKY, Camera, Dice, Raster, Surfaces, grain_bank, look_up
from reincli.generated.worlds import lay_out

LAMPS = 5
"""Lights of a night."""
Parts = TypeVar("Parts", Camera, Raster)


@dataclass
class Worlds:
    """A batch of pictures and what they show.

    Attributes:
        image: (B, 3, S, S) RGB 0-255.
        kind: (B, S, S) index into `KINDS`. surface: (B, S, S) number of the surface within its world.
        depth: (B, S, S) metres, `FAR` in the sky. albedo: (B, 3, S, S) 0-1.
        normal: (B, 3, S, S) of about unit length, 0 in the sky.
    """

    image: Tensor
    kind: Tensor
    surface: Tensor
    depth: Tensor
    normal: Tensor
    albedo: Tensor


def draw_worlds(generator: torch.Generator, batch: int, side: int, lights: int = 1) -> Worlds:
    """Worlds in random light and weather.

    Args:
        generator: decides everything, and on which device they are made.
        batch, side: B, S.
        lights: L, how often each world is lit and photographed, each time anew.

    Returns:
        L * B pictures: all worlds in their first light, then all in their second.
    """
    dice = Dice(generator)
    grain = grain_bank(dice)
    camera, surfaces, raster = lay_out(dice, batch, side, grain)
    albedo, normal, kind = _paint(camera, surfaces, raster, grain)
    if lights > 1:
        camera, raster = _again(camera, lights), _again(raster, lights)
        albedo, normal, kind = (torch.cat([each] * lights) for each in (albedo, normal, kind))
    scene = _Scene(dice, grain, camera, raster, kind == SKY, normal, albedo)
    image = scene.albedo
    image = _snow_cover(scene, image)
    image = _light(scene, image)
    image = _wet_ground(scene, image)
    image = _fog(scene, image)
    image = _in_the_air(scene, image)
    return Worlds(_camera(scene, image), kind, raster.surface.long(), raster.depth, normal, albedo)


def _again(parts: Parts, times: int) -> Parts:
    """The same batch, so many times over."""
    repeated = {field.name: torch.cat([getattr(parts, field.name)] * times) for field in fields(parts)}
    return replace(parts, **repeated)


@dataclass
class _Scene:
    """What light falls on. `night`, `snowy`, `rainy`: (B, 1, 1, 1), drawn once."""

    dice: Dice
    grain: Tensor
    camera: Camera
    raster: Raster
    sky: Tensor
    normal: Tensor
    albedo: Tensor

    def __post_init__(self) -> None:
        one = (len(self.sky), 1, 1, 1)
        self.night = self.dice.chance(0.35, *one)
        weather = self.dice.uniform(0, 1, *one)
        self.rainy, self.snowy = weather < 0.15, (weather > 0.15) & (weather < 0.3)
        self.shape = one

    def grains(self, cells: Tensor, stretch: Tensor | float = 1.0) -> Tensor:
        """Grain in the picture's plane, (B, 1, S, S): cells a side of the picture, lines stretched."""
        batch, side = self.sky.shape[:2]
        steps = torch.arange(side, device=cells.device) / side
        bank, offset = self.dice.pick(BANKS, batch, 1, 1), self.dice.uniform(0, 64, batch, 1, 1)
        cells = 2 * cells.view(batch, 1, 1)
        return look_up(self.grain, bank, steps.view(1, 1, -1) * cells + offset,
                       steps.view(1, -1, 1) * cells * stretch + offset)[:, None]  # fmt: skip


def _paint(
    camera: Camera, surfaces: Surfaces, raster: Raster, grain: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Albedo and normal (B, 3, S, S) and kind (B, S, S) from what each pixel sees."""
    batch, side = raster.depth.shape[:2]
    which = raster.surface.long().flatten(1)

    def table(values: Tensor) -> Tensor:  # (B, T) -> (B, S, S); (B, T, n) -> (B, n, S, S)
        if values.ndim == 2:
            return values.gather(1, which).view(batch, side, side)
        turned = values.transpose(1, 2)
        return turned.gather(2, which[:, None].expand(-1, turned.shape[1], -1)).view(batch, -1, side, side)

    scale = table(surfaces.scale)
    across, along = raster.across * scale[:, 0], raster.along * scale[:, 1]  # metres
    period, duty = table(surfaces.period), table(surfaces.duty)
    one = (across / period[:, 0]) % 1 < duty[:, 0]
    two = (along / period[:, 1]) % 1 < duty[:, 1]
    joint = ((across / period[:, 0]) % 1 < 0.12) | ((along / period[:, 1]) % 1 < 0.12)
    pattern = table(surfaces.pattern)
    marked = ((pattern == 1) & one) | ((pattern == 2) & one & two) | ((pattern == 3) & (one ^ two)) | (
        (pattern == 4) & joint)  # fmt: skip
    colour = torch.where(marked[:, None], table(surfaces.other), table(surfaces.colour))
    cells, bank = table(surfaces.cells), table(surfaces.bank)
    footprint = raster.depth / camera.focal  # metres a pixel
    fade = 1 / (1 + (cells * footprint) ** 2)
    coarse = look_up(grain, bank, 2 * across * cells, 2 * along * cells) * fade
    fine = look_up(grain, (bank + 5) % BANKS, 7.4 * across * cells, 7.4 * along * cells) / (
        1 + (3.7 * cells * footprint) ** 2
    )
    contrast = table(surfaces.contrast)
    rough = 1 + contrast * (0.35 * coarse + 0.25 * fine)
    albedo = (colour * rough[:, None]).clamp(0.01, 1)
    normal = table(surfaces.normal)
    p, q = raster.across.clamp(-1, 1), raster.along.clamp(-1, 1)
    rounded = torch.stack([p, -q, (1 - (p**2 + q**2).clamp(max=0.96)).sqrt()], 1)
    kind = table(surfaces.kind)
    normal = torch.where(table(surfaces.bulge)[:, None], rounded, normal)
    normal = torch.where((kind == SKY)[:, None], torch.zeros_like(normal), normal)
    return albedo, normal, kind


def _snow_cover(scene: _Scene, image: Tensor) -> Tensor:
    """Snow lies on what looks up."""
    amount = scene.dice.uniform(0.3, 1.0, *scene.shape) * scene.snowy
    lies = (scene.normal[:, 1:2] > 0.5) * (0.8 + 0.3 * scene.grains(scene.dice.uniform(4, 40, *scene.shape)))
    cover = (lies * amount).clamp(0, 1)
    return image * (1 - cover) + 0.93 * cover


def _light(scene: _Scene, image: Tensor) -> Tensor:
    """Sun, shadow and sky by day; at night what little is left, headlights and lamps with their glow."""
    dice, one, raster = scene.dice, scene.shape, scene.raster
    batch, side = scene.sky.shape[:2]
    depth = raster.depth[:, None]
    sun = F.normalize(
        torch.cat([dice.normal(*one), dice.uniform(0.1, 1.5, *one), dice.normal(*one)], 1), dim=1
    )
    strength = dice.uniform(0, 1.0, *one) * dice.chance(0.7, *one)
    lambert = (scene.normal * sun).sum(1, keepdim=True).clamp(min=0)
    ambient = dice.uniform(0.35, 0.9, *one) * (0.8 + 0.2 * scene.normal[:, 1:2])
    shadowed = scene.grains(dice.uniform(2, 12, *one)) > dice.uniform(0.3, 2.5, *one)
    lit = strength * lambert * (1 - 0.75 * shadowed.float()) + ambient
    lit = lit * raster.shade[:, None] * dice.uniform(0.55, 1.3, *one)
    tint = 1 + 0.08 * dice.normal(batch, 3, 1, 1)
    day = image * lit * tint
    rows = torch.linspace(1, 0, side, device=image.device).view(1, 1, -1, 1)
    clouds = 0.12 * scene.grains(dice.uniform(3, 25, *one), 2.0) * dice.uniform(0, 1, *one)
    above = image * dice.uniform(0.8, 1.6, *one) * (1 - 0.35 * rows * dice.uniform(0, 1, *one)) + clouds
    day = torch.where(scene.sky[:, None], above.clamp(0.02, 1.1), day)
    # night
    left = dice.log_uniform(0.1, 0.5, *one)
    cold = torch.tensor([0.85, 0.95, 1.2], device=image.device).view(1, 3, 1, 1)
    centre = (
        torch.linspace(-1, 1, side, device=image.device).view(1, 1, 1, -1) - dice.uniform(-0.4, 0.4, *one)
    ) ** 2
    beam = (-(depth / dice.uniform(8, 25, *one)).clamp(max=16)).exp() * (
        -centre * dice.uniform(1, 4, *one)
    ).exp()
    warm = torch.tensor([1.0, 0.88, 0.68], device=image.device).view(1, 3, 1, 1)
    night = day * left * cold + image * beam * warm * dice.uniform(0.2, 1.2, *one) * dice.chance(0.7, *one)
    lamps, colour = _lamps(scene)
    night = torch.where(scene.sky[:, None], day * left * dice.uniform(0.1, 0.8, *one), night)
    night = night + image * lamps * colour * 1.5 + lamps**3 * colour * 1.2
    return torch.where(scene.night, night, day)


def _lamps(scene: _Scene) -> tuple[Tensor, Tensor]:
    """Light of lamps in the picture (B, 1, S, S) and its colour (B, 3, 1, 1)."""
    dice, (batch, side) = scene.dice, scene.sky.shape[:2]
    steps = torch.linspace(0, 1, side, device=scene.sky.device)
    light = torch.zeros(batch, 1, side, side, device=scene.sky.device)
    for _ in range(LAMPS):
        x, y = dice.uniform(0, 1, *scene.shape), dice.uniform(0, 0.9, *scene.shape)
        size = dice.log_uniform(0.01, 0.2, *scene.shape)
        near = ((steps.view(1, 1, 1, -1) - x) / size) ** 2 + ((steps.view(1, 1, -1, 1) - y) / size) ** 2
        light = light + dice.chance(0.6, *scene.shape) / (1 + near)
    return light, dice.uniform(0.5, 1.0, batch, 3, 1, 1)


def _wet_ground(scene: _Scene, image: Tensor) -> Tensor:
    """Rain: the ground mirrors what stands beyond it."""
    side = image.shape[2]
    rows = torch.arange(side, device=image.device).view(1, -1, 1)
    source = (2 * scene.camera.horizon - rows).round().clamp(0, side - 1).long()
    mirrored = image.gather(2, source[:, None].expand(-1, 3, -1, side))
    share = scene.dice.uniform(0.2, 0.7, *scene.shape) * (scene.rainy & (scene.normal[:, 1:2] > 0.9))
    return image * (1 - share) + mirrored * share


def _fog(scene: _Scene, image: Tensor) -> Tensor:
    """Airlight grows with depth: exp(-depth / sight) of a surface's light comes through."""
    dice, one = scene.dice, scene.shape
    sight = torch.where(
        dice.chance(0.4, *one), dice.log_uniform(8, 80, *one), dice.log_uniform(100, 2000, *one)
    )
    through = (-(scene.raster.depth[:, None] / sight).clamp(max=16)).exp()
    keep = scene.sky[:, None] & dice.chance(0.5, *one) & (sight > 60)
    through = torch.where(keep, torch.ones_like(through), through)
    air = dice.uniform(0.45, 0.95, *one) * (1 + 0.06 * dice.normal(len(image), 3, 1, 1))
    air = torch.where(scene.night, air * dice.uniform(0.05, 0.3, *one), air)
    return image * through + air * (1 - through)


def _in_the_air(scene: _Scene, image: Tensor) -> Tensor:
    """Streaks of rain and flakes of snow before the lens."""
    dice, one = scene.dice, scene.shape
    streaks = scene.grains(dice.uniform(60, 200, *one), dice.uniform(0.03, 0.12, len(image), 1, 1))
    streaks = (streaks > dice.uniform(1.3, 2.2, *one)) & scene.rainy
    image = image + (0.75 - image) * streaks * dice.uniform(0.1, 0.5, *one)
    flakes = scene.grains(dice.uniform(20, 200, *one)) > dice.uniform(1.5, 2.6, *one)
    return image + (0.95 - image) * (flakes & scene.snowy) * dice.uniform(0.3, 0.9, *one)


def _camera(scene: _Scene, image: Tensor) -> Tensor:
    """Blur, exposure, colour, noise: (B, 3, S, S), 0-255."""
    dice, one, (batch, side) = scene.dice, scene.shape, scene.sky.shape[:2]
    image = image.clamp(0, 4)
    for _ in range(2):
        padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
        lines = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
        soft = (lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:]) / 9
        share = dice.uniform(0, 1, *one) * dice.chance(0.5, *one)
        image = image + (soft - image) * share
    image = image ** dice.uniform(0.6, 1.4, *one)
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * dice.uniform(0.2, 1.5, *one)
    middle = image.mean((1, 2, 3), keepdim=True)
    image = middle + (image - middle) * dice.uniform(0.6, 1.3, *one)
    image = image * dice.uniform(0.75, 1.25, *one) * (1 + 0.08 * dice.normal(batch, 3, 1, 1))
    amount = dice.uniform(0, 0.05, *one) * torch.where(scene.night, 2.0, 1.0)
    return ((image + amount * dice.normal(batch, 3, side, side)) * 255).clamp(0, 255)
