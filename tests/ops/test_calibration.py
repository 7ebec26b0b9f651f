"""Calibration: the reference's example, a temperature that is found again, order that stays, and coverage."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reincli.ops.calibration import COLDEST, HOTTEST, STEPS, Certainty, Reliability, bins_of, fit_temperature
from reincli.ops.confidence import outcomes, probabilities, resized_confidence, resized_probabilities
from reincli.ops.confusion import confusion_matrix, scores


def test_the_references_calibration_error(oracle):
    _, notes = reference.load(oracle / "more" / "ext", "rba")
    expected = notes["results"]["ece"]
    shares = torch.from_numpy(2 * reference.normal("ece.logits", (19, 64, 64))).softmax(0)
    confidence, prediction = shares.amax(0).numpy(), shares.argmax(0).numpy()
    label = reference.label(64, 64, 4243).numpy()
    draw = np.random.Generator(np.random.Philox(key=zlib.crc32(b"ece.flip"))).random((64, 64), np.float32)
    label = np.where((draw < 0.4) & (label != 255), prediction, label)
    counted = label != 255
    found = Reliability()
    found.add(confidence[counted], (prediction == label)[counted])
    assert found.error() == pytest.approx(expected["ece"], abs=1e-6)
    assert found.pixels.sum() == expected["pixels"]
    assert found.means() == pytest.approx((expected["accuracy"], expected["mean_confidence"]), abs=1e-6)
    for place, pixels, accuracy, sure in expected["bins"]:
        assert found.pixels[place] == pixels
        assert found.accuracy[place] == pytest.approx(accuracy)
        assert found.confidence[place] == pytest.approx(sure, abs=1e-6)


def test_upper_edges_belong_to_their_bin():
    assert bins_of(np.array([0.0, 1 / 15, np.nextafter(1 / 15, 1), 1.0]), 15).tolist() == [0, 0, 1, 14]


def test_no_pixel_has_no_error():
    found = Reliability()
    assert np.isnan(found.error())
    assert np.isnan(found.means()).all()
    assert np.isnan(found.accuracy).all()


def drawn(temperature, pixels=40_000, classes=5):
    """Outcomes of a model whose labels come from its own probabilities at some temperature; it never doubts."""
    rng = np.random.default_rng(0)
    found = rng.dirichlet(np.full(classes, 0.4), pixels)
    raised = found ** (1 / temperature)
    raised /= raised.sum(1, keepdims=True)
    label = (rng.random((pixels, 1)) > raised.cumsum(1)).sum(1).clip(0, classes - 1)
    return np.hstack([found, np.zeros((pixels, 1))]), label


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_temperature_is_found_again(temperature):
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.03)


def test_the_fit_is_the_least_of_all_losses():
    found, label = drawn(1.7, pixels=2000)

    def loss(temperature):
        raised = np.maximum(found, 1e-12) ** (1 / temperature)
        return -np.log(raised[np.arange(len(label)), label] / raised.sum(1)).mean()

    best = fit_temperature(found, label)
    assert all(loss(best) <= loss(best * factor) + 1e-12 for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


def test_all_right_and_all_wrong_end_at_the_bounds():
    found = np.array([[0.9, 0.08, 0.02]] * 4)
    assert fit_temperature(found, np.zeros(4, int)) == COLDEST
    assert fit_temperature(found, np.ones(4, int)) == HOTTEST
    with pytest.raises(ValueError, match="no pixel"):
        fit_temperature(found[:0], np.zeros(0, int))


@settings(max_examples=50, deadline=None)
@given(st.floats(0.02, 50), st.integers(0, 999))
def test_no_temperature_changes_the_order_of_the_classes(temperature, seed):
    maps = torch.rand(6, 40, generator=torch.Generator().manual_seed(seed)) ** 4 * 2
    plain, warm = probabilities(maps), probabilities(maps, temperature=temperature)
    assert torch.isfinite(warm).all()
    assert (warm >= 0).all()
    assert (warm.sum(0) <= 1 + 1e-5).all()
    torch.testing.assert_close(warm.gather(0, plain.argmax(0)[None])[0], warm.amax(0))


def test_temperature_one_changes_nothing_and_doubt_stays_doubt():
    maps = torch.rand(4, 5, 6)
    assert torch.equal(probabilities(maps, temperature=1.0), probabilities(maps))
    torch.testing.assert_close(probabilities(maps, temperature=1 + 1e-9), probabilities(maps))
    doubtful = torch.full((2, 3), 0.1)
    assert (probabilities(doubtful, temperature=0.1) < 1e-3).all()  # surer, and it was sure of nothing
    rows = outcomes(doubtful)
    assert rows.shape == (3, 3)
    torch.testing.assert_close(rows.sum(1), torch.ones(3))
    torch.testing.assert_close(rows[:, -1], torch.full((3,), 0.8))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_bands_change_nothing(temperature):
    maps = torch.rand(5, 13, 17) * 2
    whole = resized_probabilities(maps, (40, 50), temperature=temperature)
    close = {"rtol": 1e-3, "atol": 1e-3}  # where classes claim just one whole pixel, roots raise rounding
    torch.testing.assert_close(resized_probabilities(maps, (40, 50), 7, temperature), whole, **close)
    torch.testing.assert_close(resized_confidence(maps, (40, 50), 7, temperature), whole.amax(0), **close)


def test_coverage_is_what_thresholds_keep():
    rng = np.random.default_rng(0)
    confidence, label = rng.random(3000), rng.integers(0, 4, 3000)
    prediction = np.where(rng.random(3000) < confidence, label, (label + 1) % 4)
    found = Certainty.empty(4)
    for part in np.array_split(np.arange(3000), 3):
        found.add(confidence[part], prediction[part], label[part])
    curve = found.coverage()
    assert (curve.threshold[0], curve.coverage[0]) == (0, 1)
    assert (np.diff(curve.coverage) <= 0).all()
    for place in (0, 30, 77):
        kept = confidence > curve.threshold[place]
        assert curve.coverage[place] == pytest.approx(kept.mean())
        matrix = confusion_matrix(
            torch.from_numpy(prediction[kept]), torch.from_numpy(label[kept]), 4
        ).numpy()
        assert curve.miou[place] == pytest.approx(scores(matrix).miou)
    assert curve.miou[STEPS // 2] > curve.miou[0] + 5  # here confidence means something


def test_parts_add_up():
    rng = np.random.default_rng(1)
    confidence, label = rng.random(100), rng.integers(0, 3, 100)
    whole, first, second = (Certainty.empty(3) for _ in range(3))
    whole.add(confidence, label, label)
    first.add(confidence[:40], label[:40], label[:40])
    second.add(confidence[40:], label[40:], label[40:])
    both = first + second
    np.testing.assert_array_equal(both.matrices, whole.matrices)
    assert both.reliability.error() == pytest.approx(whole.reliability.error())


def test_rounding_makes_no_doubt():
    """Ten classes of a tenth each, and more: a share of 1e-7 would be 0.04 at a temperature of 5."""
    maps = torch.rand(10, 1000, generator=torch.Generator().manual_seed(0)) + 0.1
    torch.testing.assert_close(probabilities(maps, temperature=5.0).sum(0), torch.ones(1000))
    assert (outcomes(maps)[:, -1] == 0).all()


def test_nothing_counted_has_no_curve():
    assert not len(Certainty.empty(3).coverage().miou)
