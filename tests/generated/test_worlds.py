"""Generated worlds: repeatable, varied, and with a truth that light and weather leave alone."""

from __future__ import annotations

import pytest
import torch

from reincli.generated.world_light import draw_worlds
from reincli.generated.world_parts import FAR, KINDS, SKY, SURFACES, Dice, grain_bank, look_up
from reincli.generated.worlds import lay_out


@pytest.fixture(scope="module")
def worlds():
    return draw_worlds(torch.Generator().manual_seed(3), 64, 64)


def test_shapes_ranges_and_every_kind(worlds):
    assert worlds.image.shape == (64, 3, 64, 64)
    assert worlds.kind.shape == worlds.surface.shape == worlds.depth.shape == (64, 64, 64)
    assert float(worlds.image.min()) >= 0
    assert float(worlds.image.max()) <= 255
    assert float(worlds.albedo.min()) > 0
    assert float(worlds.albedo.max()) <= 1
    assert float(worlds.depth.min()) > 0
    assert float(worlds.depth.max()) == FAR
    assert int(worlds.surface.min()) == 0
    assert int(worlds.surface.max()) < SURFACES
    assert set(worlds.kind.unique().tolist()) == set(range(len(KINDS)))
    assert bool(worlds.image.isfinite().all())


def test_normals_have_about_unit_length_but_in_the_sky(worlds):
    sky = worlds.kind == SKY
    length = worlds.normal.square().sum(1).sqrt()
    assert float(length[sky].max()) == 0
    there = length[~sky]  # in the corners of round things it is longer
    assert float(there.min()) > 0.99
    assert float(there.max()) < 1.5
    assert float((there > 1.01).float().mean()) < 0.02
    assert bool((worlds.depth[sky] == FAR).all())


def test_one_seed_draws_the_same_worlds_and_another_others():
    first, again, other = (draw_worlds(torch.Generator().manual_seed(seed), 2, 32) for seed in (5, 5, 6))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.kind, again.kind)
    assert not torch.equal(first.image, other.image)


def test_a_world_in_two_lights_is_one_world():
    twice = draw_worlds(torch.Generator().manual_seed(5), 3, 32, lights=2)
    for truth in (twice.kind, twice.surface, twice.depth, twice.normal, twice.albedo):
        assert torch.equal(truth[:3], truth[3:])
    assert twice.image.shape == (6, 3, 32, 32)
    for one, two in zip(twice.image[:3], twice.image[3:], strict=True):
        assert float((one - two).abs().mean()) > 5
    once = draw_worlds(torch.Generator().manual_seed(5), 3, 32)
    assert torch.equal(once.surface, twice.surface[:3])


def test_worlds_differ_in_light(worlds):
    brightness = worlds.image.mean((1, 2, 3))
    assert float(brightness.min()) < 40
    assert float(brightness.max()) > 140


def test_a_surface_has_one_kind_within_its_world(worlds):
    for kind, surface in zip(worlds.kind[:8], worlds.surface[:8], strict=True):
        for number in surface.unique():
            assert len(kind[surface == number].unique()) == 1


def test_the_ground_recedes_upwards():
    dice = Dice(torch.Generator().manual_seed(1))
    camera, _, raster = lay_out(dice, 16, 64, grain_bank(dice))
    ground = (raster.surface >= 1) & (raster.surface <= 5)
    both = ground[:, 1:] & ground[:, :-1]
    assert bool((raster.depth[:, :-1][both] > raster.depth[:, 1:][both]).all())
    rows = torch.arange(64).view(1, -1, 1) + 0.5
    assert not bool((ground & (rows < camera.horizon)).any())


def test_nearer_things_hide_farther_ones():
    """Drawn together, each pixel shows the nearest of what the layers hold: no depth is farther than the plane's."""
    dice = Dice(torch.Generator().manual_seed(2))
    _, _, raster = lay_out(dice, 16, 48, grain_bank(dice))
    things = raster.surface >= 12
    assert 0.05 < float(things.float().mean()) < 0.8
    assert float(raster.depth[things].max()) <= 45.01


def test_grain_repeats_without_a_seam():
    grain = grain_bank(Dice(torch.Generator().manual_seed(0)))
    assert float(grain.mean((1, 2)).abs().max()) < 1e-4
    place = torch.tensor([0.2, 17.9]), torch.tensor([3.0, 127.5])
    bank = torch.tensor([1, 4])
    moved = look_up(grain, bank, place[0] - 128, place[1] + 256)
    assert torch.equal(look_up(grain, bank, *place), moved)
