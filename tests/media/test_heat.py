"""Heat over pictures: colours that mean the same everywhere, an outline where it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from reincli.media.heat import heat, scale, strength
from reincli.media.paint import Look, render

GREY = np.full((60, 80, 3), 90, np.uint8)
PALETTE = np.zeros((256, 3), np.uint8)


def field():
    """Known on the left, unknown on the right."""
    found = np.full((60, 80), -0.9, np.float32)
    found[:, 40:] = -0.05
    return found


def test_colours_do_not_hang_on_what_else_is_in_the_picture():
    np.testing.assert_array_equal(heat(GREY, field())[:, :40], heat(GREY[:, :40], field()[:, :40]))
    assert strength(np.array([-19, -1, -0.5, 0, np.nan], np.float32)).tolist() == [0, 0, 0.5, 1, 1]


def test_strange_pixels_are_bright():
    drawn = heat(GREY, field()).astype(int).sum(-1)
    assert drawn[:, 40:].mean() > 2 * drawn[:, :40].mean()
    assert (heat(GREY, field(), alpha=0) == GREY).all()


def test_the_outline_lies_where_the_threshold_is_crossed():
    changed = (heat(GREY, field(), threshold=-0.5) != heat(GREY, field())).any(-1)
    assert changed[:, 39:42].any(1).all()
    assert not changed[3:-3, 45:75].any()
    assert not changed[:, :36].any()


@pytest.mark.parametrize("width", [40, 150, 2000])
def test_the_scale_fits_its_picture(width):
    for threshold, told in ((None, ""), (-0.5, "outlined: from -0.5, 12.0% of the pixels")):
        assert scale(width, 11, threshold, told).shape[1] == width


def test_render_needs_the_anomaly():
    look, label = Look("anomaly", threshold=-0.5), np.zeros((60, 80), np.uint8)
    with pytest.raises(ValueError, match="needs the anomaly"):
        render(GREY, label, PALETTE, look=look)
    assert render(GREY, label, PALETTE, look=look, anomaly=field()).shape[0] > 60
