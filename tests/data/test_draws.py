"""Distributions of what is drawn for a training item.

Seeds are fixed, so nothing here fails by chance. Each test asks for a p-value above 1e-5; with about 25 of them a
reseeded, right implementation would fail somewhere less than once in 4,000 times.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare, kstest

from reincli.config import AugmentSettings
from reincli.data import transforms as t

LEVEL = 1e-5
DRAWS = 8000


@pytest.fixture(scope="module")
def distortions() -> list[t.Distortion]:
    rng = np.random.default_rng(11)
    return [t.draw_distortion(rng) for _ in range(DRAWS)]


@pytest.mark.parametrize("short_side", [512, 1024])
def test_scales_are_uniform_over_sixteen_steps(short_side: int) -> None:
    rng = np.random.default_rng(1)
    augment = AugmentSettings(short_side=short_side, long_side_max=4 * short_side)
    drawn = Counter(min(t.draw_size(1024, 2048, augment, rng)) for _ in range(DRAWS))
    assert set(drawn) == {int(short_side * 0.1 * k) for k in range(5, 21)}
    assert chisquare(list(drawn.values())).pvalue > LEVEL


def test_ratios_are_uniform() -> None:
    rng = np.random.default_rng(2)
    augment = AugmentSettings(resize="range", size=(20480, 10240))
    drawn = [t.draw_size(1024, 2048, augment, rng)[0] / 10240 for _ in range(DRAWS)]
    assert kstest(drawn, "uniform", args=(0.5, 1.5)).pvalue > LEVEL


def test_offsets_are_uniform_and_independent() -> None:
    rng = np.random.default_rng(3)
    boxes = [t.draw_box((20, 30), (13, 19), rng) for _ in range(DRAWS)]
    drawn = Counter((box.top, box.left) for box in boxes)
    assert len(drawn) == 8 * 12
    assert chisquare(list(drawn.values())).pvalue > LEVEL


def test_crops_with_a_limit_are_those_of_drawing_again() -> None:
    """The chance of each window by arithmetic: uniform, passed over while one class fills it, ten times at most."""
    label = np.zeros((6, 12), np.uint8)
    label[:, 9:] = 1
    size, crop, rng = (6, 12), (6, 4), np.random.default_rng(4)
    drawn = np.zeros(9)
    for _ in range(DRAWS):
        box, _ = t.draw_crop(label, size, crop, 0.75, rng)
        drawn[box.left] += 1
    good = np.array([t.is_varied(label[:, left : left + 4], 0.75) for left in range(9)])
    assert 0 < good.sum() < 9
    vain = (1 - good.mean()) ** t.CROP_TRIES
    expected = (1 - vain) * good / good.sum() + vain / 9
    assert chisquare(drawn, DRAWS * expected).pvalue > LEVEL


def test_half_of_the_items_are_mirrored() -> None:
    rng = np.random.default_rng(5)
    label = np.random.default_rng(0).integers(0, 5, (20, 20), dtype=np.uint8)
    augment = AugmentSettings(short_side=20, crop=8)
    flips = sum(t.draw_view((20, 20), label, augment, rng).flip for _ in range(2000))
    assert binomtest(flips, 2000).pvalue > LEVEL


@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation", "hue"])
def test_each_change_is_made_half_of_the_time(distortions: list[t.Distortion], change: str) -> None:
    made = sum(getattr(each, change) is not None for each in distortions)
    assert binomtest(made, DRAWS).pvalue > LEVEL


def test_contrast_comes_last_half_of_the_time(distortions: list[t.Distortion]) -> None:
    assert binomtest(sum(each.contrast_last for each in distortions), DRAWS).pvalue > LEVEL


def test_changes_are_independent(distortions: list[t.Distortion]) -> None:
    names = ("brightness", "contrast", "saturation", "hue")
    together = Counter(
        (each.contrast_last, *(getattr(each, n) is not None for n in names)) for each in distortions
    )
    assert len(together) == 32
    assert chisquare(list(together.values())).pvalue > LEVEL


@pytest.mark.parametrize(
    ("change", "low", "high"), [("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5)]
)
def test_amounts_are_uniform(distortions: list[t.Distortion], change: str, low: float, high: float) -> None:
    amounts = [getattr(each, change) for each in distortions if getattr(each, change) is not None]
    assert kstest(amounts, "uniform", args=(low, high - low)).pvalue > LEVEL


def test_hue_is_uniform_over_its_steps(distortions: list[t.Distortion]) -> None:
    drawn = Counter(each.hue for each in distortions if each.hue is not None)
    assert set(drawn) == set(range(-18, 18))
    assert chisquare(list(drawn.values())).pvalue > LEVEL
