"""Pictures of label maps: colours where they belong, legends that fit, at any size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reincli.media import paint
from reincli.media.legend import Entry, strip
from reincli.media.paint import Look
from reincli.media.sheet import contact
from reincli.media.text import measure, write

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


@pytest.mark.parametrize("style", paint.STYLES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7), (60, 80)])
def test_every_style_at_any_shape(style, shape):
    label = np.resize(np.array([0, 1, 255, 2], np.uint8), shape)
    options = {"truth": np.roll(label, 1), "confidence": np.full(shape, 0.5, np.float32)}
    options["anomaly"] = -options["confidence"]
    plain = paint.render(noise(shape), label, PALETTE, NAMES, Look(style, legend=False), **options)
    named = paint.render(noise(shape), label, PALETTE, NAMES, Look(style), **options)
    assert named.dtype == np.uint8
    assert named.shape[1] == plain.shape[1]
    assert named.shape[0] > plain.shape[0]
    assert (named[: plain.shape[0]] == plain).all()  # the legend covers nothing


def test_an_unknown_style_and_sizes_that_differ_are_bugs():
    with pytest.raises(ValueError, match="none of"):
        paint.render(noise((4, 4)), np.zeros((4, 4), np.uint8), PALETTE, look=Look("sketch"))
    with pytest.raises(ValueError, match="right labels"):
        paint.render(noise((4, 4)), np.zeros((4, 4), np.uint8), PALETTE, look=Look("error"))
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
    write(paper, "Hxg", 20, 30, 24, (0, 0, 0))
    rows, columns = np.nonzero(paper.min(axis=2) < 128)
    assert 18 <= columns.min() <= 24
    assert abs(columns.max() - (20 + measure("Hxg", 24))) <= 4
    assert abs((rows.min() + rows.max()) / 2 - 30) <= 5
    assert 14 <= np.ptp(rows) + 1 <= 28


def test_old_opencv_writes_with_strokes(monkeypatch):
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    strip = paint.legend([0, 1], NAMES, PALETTE, 300, 14)
    assert (strip.min(axis=2) < 100).sum() > 50
    assert measure("road and tree", 14) > measure("road", 14) > 10


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


# --- errors, comparisons, confidence -----------------------------------------------------------------------


def test_error_marks_what_is_wrong_and_nothing_else():
    truth = halves()
    label = truth.copy()
    label[truth == 255] = 3  # no label, no mistake
    label[40:, 60:] = 2
    image = np.full((60, 80, 3), 90, np.uint8)
    picture = paint.error(image, label, truth).astype(int)
    vermilion = picture[..., 0] - picture[..., 2] > 60
    assert (vermilion == ((label != truth) & (truth != 255))).all()
    assert picture[truth == 255].max() < picture[30, 15].min()
    assert paint.error_rate(label, truth) == pytest.approx(20 * 20 / (60 * 80 - 100))
    assert paint.error_rate(label, np.full_like(truth, 255)) == 0


def test_the_legend_of_error_names_the_commonest_mistake():
    truth = np.zeros((60, 300), np.uint8)
    label = truth.copy()
    label[:, 200:] = 1
    plain = paint.render(noise(truth.shape), truth, PALETTE, NAMES, Look("error"), truth=truth)
    named = paint.render(noise(truth.shape), label, PALETTE, NAMES, Look("error"), truth=truth)
    colours = {tuple(int(v) for v in pixel) for pixel in named[60:].reshape(-1, 3)}
    assert {tuple(PALETTE[0]), tuple(PALETTE[1])} <= colours  # road as tree: half and half
    assert tuple(PALETTE[1]) not in {tuple(int(v) for v in p) for p in plain[60:].reshape(-1, 3)}


@pytest.mark.parametrize("truth", [None, halves()])
def test_compare_has_a_titled_panel_for_each(truth):
    image, label = noise((60, 80)), halves()
    picture = paint.compare(image, [label, label], PALETTE, ["rein", "frozen"], NAMES, truth=truth)
    text = paint.text_height((60, 80))
    panel = paint.overlay(image, label, PALETTE) if truth is None else paint.error(image, label, truth)
    top = round(text * 2.2)
    assert (picture[top : top + 60, :80] == panel).all()
    assert (picture[top : top + 60, -80:] == panel).all()
    assert (picture[:top] < 128).any()
    assert picture.shape[0] > top + 60


def test_confidence_fades_colours():
    label, image = halves(), np.full((60, 80, 3), 100, np.uint8)
    sure, unsure = np.ones((60, 80), np.float32), np.zeros((60, 80), np.float32)
    assert np.abs(paint.mask(label, PALETTE, sure).astype(int) - paint.colourise(label, PALETTE)).max() <= 1
    assert (paint.mask(label, PALETTE, unsure) == 255).all()
    assert (paint.overlay(image, label, PALETTE, 0.5, unsure)[30, 15] == 100).all()
    inside = paint.overlay(image, label, PALETTE, 0.5, sure)[30, 15]
    assert np.abs(inside.astype(int) - [150, 50, 50]).max() <= 1


def test_a_legend_of_every_class_keeps_its_size():
    one, other = np.zeros((60, 80), np.uint8), np.full((60, 80), 2, np.uint8)
    look = Look("mask", every_class=True)
    pictures = [paint.render(noise((60, 80)), label, PALETTE, NAMES, look) for label in (one, other)]
    assert pictures[0].shape == pictures[1].shape
    below = [{tuple(int(v) for v in p) for p in picture[60:].reshape(-1, 3)} for picture in pictures]
    assert (200, 0, 0) in below[0]
    assert (200, 0, 0) not in below[1]  # printed faintly


def test_a_swatch_of_two_colours():
    picture = strip([Entry("road as tree", (200, 0, 0), other=(0, 200, 0))], 300, 20)
    rows, columns = np.nonzero((picture == (200, 0, 0)).all(axis=2))
    _, others = np.nonzero((picture == (0, 200, 0)).all(axis=2))
    assert rows.size
    assert columns.max() < others.min()


def test_contact_sheet_names_its_pictures():
    red, blue = np.full((30, 60, 3), (255, 0, 0), np.uint8), np.full((60, 30, 3), (0, 0, 255), np.uint8)
    picture = contact([red, blue, red], ["a.png", "deep/" * 40 + "b.png", "c.png"], columns=2, cell_width=120)
    assert (picture == (255, 0, 0)).all(axis=2).sum() == 2 * 60 * 120
    assert (picture == (0, 0, 255)).all(axis=2).sum() == 240 * 120
    dark = picture.max(axis=2) < 100
    assert dark[:, :123].any()
    assert not dark[:, -3:].any()  # the long name is cut
