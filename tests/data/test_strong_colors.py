"""Strong colour changes, each alone against its formula."""

from __future__ import annotations

import colorsys

import numpy as np

from reincli.data.strong_colors import LUMA, StrongChange, draw_strong_change, recolored

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found.astype(float) - np.clip(expected, 0, 255)).max() <= 0.51)


def test_nothing_drawn_changes_nothing():
    np.testing.assert_array_equal(recolored(IMAGE, StrongChange()), IMAGE)


def test_brightness_is_a_factor():
    assert close(recolored(IMAGE, StrongChange((0,), brightness=1.7)), IMAGE * 1.7)


def test_contrast_moves_away_from_the_mean_grey():
    mean = (IMAGE @ np.asarray(LUMA)).mean()
    assert close(recolored(IMAGE, StrongChange((1,), contrast=0.3)), 0.3 * IMAGE + 0.7 * mean)


def test_saturation_moves_away_from_each_pixels_grey():
    grey = (IMAGE @ np.asarray(LUMA))[..., None]
    assert close(recolored(IMAGE, StrongChange((2,), saturation=1.6)), 1.6 * IMAGE - 0.6 * grey)


def test_hue_turns_the_circle():
    found = recolored(IMAGE, StrongChange((3,), hue=-0.3))
    for before, after in zip(IMAGE.reshape(-1, 3) / 255, found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        expected = np.asarray(colorsys.hsv_to_rgb((hue - 0.3) % 1, saturation, value)) * 255
        assert np.abs(after - expected).max() < 1.5


def test_grey_has_no_colour():
    found = recolored(IMAGE, StrongChange(grey=True))
    assert close(found, np.repeat((IMAGE @ np.asarray(LUMA))[..., None], 3, 2))


def test_blur_spreads_a_point():
    point = np.zeros((9, 9, 3), np.uint8)
    point[4, 4] = 255
    found = recolored(point, StrongChange(sigma=1.0)).astype(float)
    assert 0 < found[4, 5, 0] < found[4, 4, 0] < 255
    assert abs(found[..., 0].sum() - 255) < 20
    np.testing.assert_array_equal(found, found[::-1, ::-1])


def test_changes_are_drawn_as_often_as_said():
    drawn = [draw_strong_change(np.random.default_rng(seed)) for seed in range(4000)]
    assert abs(np.mean([bool(change.order) for change in drawn]) - 0.8) < 0.03
    assert abs(np.mean([change.grey for change in drawn]) - 0.1) < 0.03
    assert abs(np.mean([change.sigma is not None for change in drawn]) - 0.5) < 0.03
    for name, low, high in (
        ("brightness", 0.2, 1.8),
        ("contrast", 0.2, 1.8),
        ("saturation", 0.2, 1.8),
        ("hue", -0.4, 0.4),
    ):
        values = [getattr(change, name) for change in drawn]
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
    assert {change.order for change in drawn if change.order} > {(0, 1, 2, 3), (3, 2, 1, 0)}
