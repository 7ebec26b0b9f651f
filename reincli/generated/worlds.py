"""Generated worlds with dense truth, a batch at a time on any device: what a small backbone learns to see from.

A world is a camera before planes (ground in strips, walls, skyline, ceiling) and things (`world_things`), each part
with its colour, pattern and grain; a third of them are things scattered without any ground. `world_light` then lights
them and puts weather and a camera before them. They are much broader than streets, and share no code with the streets
of `streets`, on which models are scored.

Shapes: B worlds, S side in pixels, T surfaces of a world.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reincli.generated.world_parts import (
    BANKS,
    CEILING,
    FACADE,
    FAR,
    FOLIAGE,
    HARD,
    HEAD,
    LATTICE,
    PLANES,
    ROUND,
    ROWS,
    SIDES,
    SKY,
    SKYLINE,
    SOFT,
    STRIPS,
    SURFACES,
    TILED,
    TORSO,
    WALL,
    Camera,
    Dice,
    Raster,
    Surfaces,
)
from reincli.generated.world_things import draw_things

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
    draw_things(dice, camera, surfaces, raster, scattered, grain)
    return camera, surfaces, raster


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
