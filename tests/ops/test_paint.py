"""Pictures of label maps: colours where they belong, legends that fit, at any size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reincli.ops import paint

PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[:4] = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)]
NAMES = ("road", "tree", "sky", "wall")

labels = arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([0, 1, 2, 3, 255])
)


def halves(height=60, width=80):
    """Class 0 at the left, 1 at the right, a block of ignored pixels in the upper left corner."""
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] = 1
    label[:10, :10] = 255
    return label


def noise(shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


@given(labels)
def test_colourise_is_the_palette(label):
    picture = paint.colourise(label, PALETTE)
    assert picture.shape == (*label.shape, 3)
    for index in np.unique(label):
        assert (picture[label == index] == (PALETTE[index] if index != 255 else 0)).all()


def test_ignored_is_black_whatever_the_palette_says():
    palette = np.full((256, 3), 77, np.uint8)
    assert (paint.colourise(np.full((2, 2), 255, np.uint8), palette) == 0).all()
    assert (palette == 77).all()


@given(labels, st.floats(0, 1))
def test_overlay_leaves_ignored_pixels_and_its_inputs_alone(label, alpha):
    image = noise(label.shape)
    before, kept = image.copy(), label.copy()
    picture = paint.overlay(image, label, PALETTE, alpha)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    assert (picture[label == 255] == image[label == 255]).all()
    assert (image == before).all()
    assert (label == kept).all()


def test_overlay_mixes_by_alpha():
    label = halves()
    image = np.full((*label.shape, 3), 100, np.uint8)
    assert (paint.overlay(image, label, PALETTE, 0.0) == image).all()
    inside = paint.overlay(image, label, PALETTE, 0.5)[30, 15]
    assert np.abs(inside.astype(int) - [150, 50, 50]).max() <= 1
    assert (paint.overlay(image, label, PALETTE, 1.0)[30, 15] == PALETTE[0]).all()


def test_boundary_draws_where_classes_meet_and_nowhere_else():
    label = halves()
    image = np.full((*label.shape, 3), 100, np.uint8)
    picture = paint.boundary(image, label, PALETTE)
    changed = (picture != image).any(axis=2)
    assert changed[30, 39:41].all()
    assert not changed[:, :34].any()  # the ignored corner is no class: no outline around it
    assert not changed[:, 46:].any()


def test_boundary_of_one_class_is_the_image():
    image = noise((30, 40))
    assert (paint.boundary(image, np.full((30, 40), 2, np.uint8), PALETTE) == image).all()


@pytest.mark.parametrize(
    ("shape", "least", "most"), [((240, 320), 1, 1), ((1080, 1920), 2, 3), ((2160, 3840), 4, 6)]
)
def test_lines_and_text_grow_with_the_image(shape, least, most):
    assert least <= paint.line_width(shape) <= most
    assert 11 <= paint.text_height(shape) <= 60


def test_side_is_image_and_mask():
    label, image = halves(), noise((60, 80))
    picture = paint.side(image, label, PALETTE)
    assert picture.shape[0] == 60
    assert (picture[:, :80] == image).all()
    assert (picture[:, -80:] == paint.colourise(label, PALETTE)).all()
    panorama = paint.side(noise((20, 200)), np.zeros((20, 200), np.uint8), PALETTE)
    assert panorama.shape[1] == 200  # very wide: one below the other
    assert panorama.shape[0] > 40


@pytest.mark.parametrize("style", ["overlay", "side", "mask", "boundary"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7), (60, 80)])
def test_every_style_at_any_shape(style, shape):
    label = np.resize(np.array([0, 1, 255, 2], np.uint8), shape)
    plain = paint.render(noise(shape), label, PALETTE, style=style)
    named = paint.render(noise(shape), label, PALETTE, NAMES, style=style)
    assert named.dtype == np.uint8
    assert named.shape[1] == plain.shape[1]
    assert named.shape[0] > plain.shape[0]
    assert (named[: plain.shape[0]] == plain).all()  # the legend covers nothing


def test_an_unknown_style_and_sizes_that_differ_are_bugs():
    with pytest.raises(ValueError, match="none of"):
        paint.render(noise((4, 4)), np.zeros((4, 4), np.uint8), PALETTE, style="sketch")
    with pytest.raises(ValueError, match="differ in size"):
        paint.overlay(noise((4, 4)), np.zeros((4, 5), np.uint8), PALETTE)


def test_present():
    assert paint.present(halves()) == [0, 1]
    assert paint.present(np.full((3, 3), 255, np.uint8)) == []


def test_legend_shows_the_colours_of_the_classes_that_are_there():
    strip = paint.legend([0, 2], NAMES, PALETTE, 300, 14)
    colours = {tuple(int(v) for v in pixel) for pixel in strip.reshape(-1, 3)}
    assert {(200, 0, 0), (0, 0, 200)} <= colours
    assert (0, 200, 0) not in colours


def test_legend_breaks_into_rows_and_has_none_for_nothing():
    wide = paint.legend([0, 1, 2, 3], NAMES, PALETTE, 600, 14)
    narrow = paint.legend([0, 1, 2, 3], NAMES, PALETTE, 70, 14)
    assert narrow.shape[0] > 2.5 * wide.shape[0]
    assert paint.legend([], NAMES, PALETTE, 600, 14).shape == (0, 600, 3)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40), max_size=6),
    st.integers(1, 900),
)
def test_legend_of_any_names_in_any_width(names, width):
    strip = paint.legend(range(len(names)), names, PALETTE, width, 12)
    assert strip.shape[1:] == (width, 3)
    assert (strip[:, -1] >= 250).all() or width < 60  # no text runs over the edge


def test_text_is_where_it_was_asked_for():
    paper = np.full((60, 200, 3), 255, np.uint8)
    paint.write(paper, "Hxg", 20, 30, 24, (0, 0, 0))
    rows, columns = np.nonzero(paper.min(axis=2) < 128)
    assert 18 <= columns.min() <= 24
    assert abs(columns.max() - (20 + paint.measure("Hxg", 24))) <= 4
    assert abs((rows.min() + rows.max()) / 2 - 30) <= 5
    assert 14 <= np.ptp(rows) + 1 <= 28


def test_old_opencv_writes_with_strokes(monkeypatch):
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    strip = paint.legend([0, 1], NAMES, PALETTE, 300, 14)
    assert (strip.min(axis=2) < 100).sum() > 50
    assert paint.measure("road and tree", 14) > paint.measure("road", 14) > 10


def test_sheet_holds_every_picture_in_its_cell():
    reds = np.full((30, 60, 3), (255, 0, 0), np.uint8)
    blues = np.full((60, 60, 3), (0, 0, 255), np.uint8)
    picture = paint.sheet([[reds, blues], [blues]], ["one", "two"], ["row"], cell_width=120)
    reddish = (picture == (255, 0, 0)).all(axis=2).sum()
    blueish = (picture == (0, 0, 255)).all(axis=2).sum()
    assert reddish == 60 * 120
    assert blueish == 2 * 120 * 120
    assert (paint.sheet([[reds]], cell_width=60) == (255, 0, 0)).all(axis=2).sum() == 30 * 60


@pytest.mark.parametrize("width", [50, 5000])
def test_sheet_takes_a_footer_of_any_width(width):
    footer = np.full((9, width, 3), 7, np.uint8)
    without = paint.sheet([[noise((30, 40))]], cell_width=100)
    picture = paint.sheet([[noise((30, 40))]], cell_width=100, footer=footer)
    assert picture.shape == (without.shape[0] + 9, without.shape[1], 3)
    assert (picture[-9:] == 7).any()
