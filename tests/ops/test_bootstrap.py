"""Intervals of differences, and the packing of matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reincli.ops.bootstrap import Difference, difference, interval, iou, mean_iou, resampled
from reincli.ops.confusion import scores
from reincli.ops.image_counts import areas, pack, sparse, unpack

matrices = st.integers(2, 6).flatmap(
    lambda k: arrays(
        np.int64, st.tuples(st.integers(1, 5), st.just(k), st.just(k)), elements=st.integers(0, 2**32 - 1)
    )
)


@settings(max_examples=60)
@given(matrices)
def test_packed_matrices_come_back(stack):
    table = unpack(pack([sparse(matrix) for matrix in stack]))
    count, classes = stack.shape[:2]
    whole = np.zeros((count, classes * classes), np.int64)
    whole[table[0], table[1]] = table[2]
    np.testing.assert_array_equal(whole.reshape(stack.shape), stack)
    found = areas(table, count, classes)
    np.testing.assert_array_equal(found[:, 0], stack.diagonal(axis1=1, axis2=2))
    np.testing.assert_array_equal(found[:, 1], stack.sum(2))
    np.testing.assert_array_equal(found[:, 2], stack.sum(1))


@settings(max_examples=60)
@given(matrices)
def test_scores_from_areas_are_those_of_the_matrix(stack):
    classes = stack.shape[1]
    found = iou(areas(unpack(pack([sparse(matrix) for matrix in stack])), len(stack), classes).sum(0))
    expected = scores(stack.sum(0))
    np.testing.assert_allclose(found, expected.iou, rtol=1e-12)
    np.testing.assert_allclose(mean_iou(found), expected.miou, rtol=1e-12)


@pytest.mark.parametrize("text", ["", "!", "AAAA", "eJwDAAAAAAE=A"])
def test_damaged_matrices_are_refused(text):
    with pytest.raises(ValueError, match="packed matrices"):
        unpack(text)


def test_matrices_of_other_images_or_classes_are_refused():
    table = unpack(pack([sparse(np.ones((3, 3), np.int64))] * 2))
    assert areas(table, 2, 3).sum() == 2 * (3 + 9 + 9)
    for images, classes in ((1, 3), (2, 2)):
        with pytest.raises(ValueError, match="do not fit"):
            areas(table, images, classes)


def model(rng, quality, images=60, classes=4):
    """Areas of a model that finds a share `quality` of each class, on images of uneven content."""
    labelled = rng.integers(0, 1000, (images, classes))
    right = rng.binomial(labelled, quality)
    wrong = labelled - right
    return np.stack([right, labelled, right + np.roll(wrong, 1, axis=1)], 1)


def test_a_model_against_itself_differs_by_nothing():
    areas_a = model(np.random.default_rng(0), 0.7)
    a, b = resampled(areas_a, areas_a, 200, 0)
    assert (a == b).all()
    found = difference(1.0, 1.0, mean_iou(b) - mean_iou(a))
    assert (found.value, found.low, found.high, found.beyond_chance) == (0, 0, 0, False)


def test_a_clear_difference_is_beyond_chance_and_a_small_one_is_not():
    rng = np.random.default_rng(1)
    poor, good, alike = model(rng, 0.6), model(rng, 0.8), model(rng, 0.6)
    for other, beyond in ((good, True), (alike, False)):
        a, b = resampled(poor, other, 1000, 0)
        values = [float(mean_iou(iou(each.sum(0)))) for each in (poor, other)]
        found = difference(*values, mean_iou(b) - mean_iou(a))
        assert found.low <= found.value <= found.high
        assert found.beyond_chance is beyond


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Models of equal quality: the interval should hold 0 in 90% of the experiments."""
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(120):
        a, b = model(rng, 0.7, images=40), model(rng, 0.7, images=40)
        first, second = resampled(a, b, 200, seed)
        low, high = interval(mean_iou(second) - mean_iou(first), 0.9)
        held += low <= 0 <= high
    assert 0.82 <= held / 120 <= 0.97


def test_draws_depend_on_the_seed_alone_and_pair_the_images():
    rng = np.random.default_rng(3)
    a, b = model(rng, 0.7), model(rng, 0.7)
    first, again, other = (resampled(a, b, 50, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(resampled(a, b, 50, 1)[1], resampled(b, b, 50, 1)[0])


def test_what_is_not_defined_stays_so():
    empty = np.zeros((5, 3, 2), np.int64)
    a, b = resampled(empty, empty, 10, 0)
    assert np.isnan(a).all()
    assert np.isnan(mean_iou(b)).all()
    found = difference(float("nan"), 1.0, np.zeros(10))
    assert np.isnan([found.value, found.low, found.high]).all()
    assert not found.beyond_chance
    assert np.isnan(interval(np.full(3, np.nan))).all()
    assert Difference(1.0, 3.0, 0.5, 4.0).beyond_chance
