"""The anomaly of a pixel: the reference's figures, the order of its steps, bands, and what 16 bits keep."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from reincli.ops.anomaly import anomaly, from_16_bit, resized_anomaly, to_16_bit
from reincli.ops.output import class_scores


def test_the_references_map(oracle):
    stored, _ = reference.load(oracle / "more" / "ext", "rba")
    scores = torch.from_numpy(np.abs(reference.normal("rba.scores", (19, 8, 8))))
    np.testing.assert_array_equal(scores.numpy(), stored["scores"])
    assert reference.relative_error(anomaly(scores).numpy(), stored["anomaly"]) < 1e-6


def test_tanh_comes_after_resizing_and_the_sum_over_queries(oracle):
    stored, notes = reference.load(oracle / "more" / "ext", "rba")
    shares = torch.from_numpy(3 * reference.normal("rba.cls_logits", (20, 20))).softmax(-1)[None, :, :-1]
    logits = torch.from_numpy(3 * reference.normal("rba.mask_logits", (20, 6, 8)))[None]
    scores = class_scores(logits, shares, (24, 32))[0]
    assert reference.relative_error(scores.numpy(), stored["order_class_maps"]) < 1e-6
    found = anomaly(scores).numpy()
    assert reference.relative_error(found, stored["order_anomaly"]) < 1e-6
    wrong = F.interpolate(
        anomaly(class_scores(logits, shares, (6, 8))[0])[None, None], (24, 32), mode="bilinear"
    )
    expected = notes["results"]["order"]["rel_l2_of_the_wrong_order"]
    assert reference.relative_error(wrong[0, 0].numpy(), found) == pytest.approx(expected, rel=1e-3)


def test_bands_equal_all_at_once():
    maps = torch.rand(5, 13, 17) * 2
    whole = F.interpolate(maps[None], size=(40, 50), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resized_anomaly(maps, (40, 50), rows=7), -whole.tanh().sum(0))
    torch.testing.assert_close(resized_anomaly(maps, (13, 17), rows=5), anomaly(maps))


def test_what_nobody_claims_is_strangest():
    found = anomaly(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]))
    assert found[0] == 0
    torch.testing.assert_close(found[1:], -torch.tensor([1.0, 2.0]) * float(np.tanh(1)))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 255), st.integers(0, 99))
def test_16_bits_keep_order_and_half_a_step(classes, seed):
    values = -np.sort(np.random.default_rng(seed).random(100).astype(np.float32) * classes)
    stored = to_16_bit(values, classes)
    assert stored.dtype == np.uint16
    assert (np.diff(stored.astype(int)) <= 0).all()
    assert np.abs(from_16_bit(stored, classes) - values).max() <= classes / 65535 / 2 * 1.01 + classes * 1e-7
    assert to_16_bit(np.array([0.0, -classes], np.float32), classes).tolist() == [65535, 0]
