"""Pools of pixels: the reference's figures, the exact ones within the uncertainty that is told, bounded memory."""

from __future__ import annotations

import pickle
import zlib

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from reincli.ops.pooled import BINS, Pool, bins_of, image_figures, lowest_of


def exact(score, label):
    """AP, AUROC, FPR95 from all pixels, sorted: the definitions, plainly."""
    score, label = score[label <= 1].astype(np.float64), label[label <= 1]
    order = np.argsort(-score, kind="stable")
    score, label = score[order], label[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    true = np.cumsum(label == 1)[last].astype(np.float64)
    false = np.cumsum(label == 0)[last].astype(np.float64)
    recall, fpr = true / true[-1], false / max(1, false[-1])
    ap = float((np.diff(recall, prepend=0) * true / (true + false)).sum())
    height = np.append(0, recall)
    auroc = float((np.diff(fpr, prepend=0) * (height[1:] + height[:-1]) / 2).sum())
    return ap, auroc, float(fpr[np.flatnonzero(recall > 0.95)[0]])


def pooled(score, label, parts=1):
    pool = Pool()
    for a, b in zip(np.array_split(score, parts), np.array_split(label, parts), strict=True):
        pool.add(a, b)
    return pool.figures()


def three(found):
    return found.ap, found.auroc, found.fpr95


@pytest.mark.parametrize(
    ("anomaly", "case"),
    [
        ("anomaly", "plain"),
        ("separable_anomaly", "separable (scores of unknown pixels x 0.7)"),
        ("ties_anomaly", "ties (the last, rounded to integers)"),
    ],
)
def test_the_references_figures(oracle, anomaly, case):
    stored, notes = reference.load(oracle / "more" / "ext", "rba")
    expected = notes["results"][case]
    for found in (
        pooled(stored[anomaly], stored["labels"]),
        image_figures(stored[anomaly], stored["labels"]),
    ):
        assert (found.known + found.unknown, found.unknown) == (expected["pixels"], expected["unknown"])
        assert three(found) == pytest.approx([expected[k] for k in ("AP", "AUROC", "FPR95")], abs=1e-12)


def test_images_without_an_unknown_pixel_stay_in_the_references_pool(oracle):
    _, notes = reference.load(oracle / "more" / "ext", "rba")
    parts = []
    for image in (1, 2):
        key = zlib.crc32(f"rba.labels.{image}".encode())
        draw = np.random.Generator(np.random.Philox(key=key)).random((40, 40), np.float32)
        label = np.where(draw > 0.9, 255, (draw < 0.1) & (image == 1)).astype(np.uint8)
        scores = np.abs(reference.normal(f"rba.scores.{image}", (19, 40, 40)))
        scores = np.where(label == 1, np.float32(0.75) * scores, scores)
        parts.append(Pool())
        parts[-1].add(-np.tanh(scores).sum(0), label)
    both = pickle.loads(pickle.dumps(parts[0]))
    both += parts[1]
    for pool, case in ((parts[0], "pooled: first image alone"), (both, "pooled over two images")):
        expected, found = notes["results"][case], pool.figures()
        assert (found.known + found.unknown, found.unknown) == (expected["pixels"], expected["unknown"])
        assert three(found) == pytest.approx([expected[k] for k in ("AP", "AUROC", "FPR95")], abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4000), st.floats(0.001, 0.9), st.integers(0, 10**6),
    st.sampled_from(("spread", "crowded", "ties", "tiny")),
)  # fmt: skip
def test_figures_agree_with_the_exact_ones_within_what_is_told(count, share, seed, form):
    rng = np.random.default_rng(seed)
    label = (rng.random(count) < share).astype(np.uint8)
    label[rng.random(count) < 0.1] = 255
    label[0] = 1
    score = {
        "spread": lambda: rng.random(count) * 19 - 0.3 * label,
        "crowded": lambda: 0.76 + 1e-6 * rng.random(count),  # all in a bin or two
        "ties": lambda: np.round(rng.random(count) * 6) / 3,
        "tiny": lambda: 2.0 ** (-60 * rng.random(count)),
    }[form]()
    score = -np.abs(score).astype(np.float32)
    found, right = pooled(score, label, parts=1 + seed % 3), exact(score, label)
    for value, expected, loose in zip(three(found), right, found.uncertainty, strict=True):
        if found.known or value == found.ap:
            assert abs(value - expected) <= loose + 1e-9
    if form == "ties":
        assert found.ap == pytest.approx(right[0], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_usual_pool_agrees_to_a_ten_thousandth(seed):
    """A million pixels as models score them: most claimed by one class, scores crowded around -0.76."""
    rng = np.random.default_rng(seed)
    label = (rng.random(1_000_000) < 0.01).astype(np.uint8)
    score = -np.tanh(1 + 0.02 * rng.standard_normal(len(label)) - 0.03 * label).astype(np.float32)
    found = pooled(score, label)
    assert max(found.uncertainty) < 1e-3
    assert three(found) == pytest.approx(exact(score, label), abs=1e-4)


def test_memory_does_not_grow_with_images():
    pool = Pool()
    before = pool.counts.nbytes
    for seed in range(5):
        score = -np.random.default_rng(seed).random((100, 100)).astype(np.float32)
        pool.add(score, (score > -0.1).astype(np.uint8))
    assert pool.counts.nbytes == before < 90e6
    assert pool.counts.sum() == 5 * 100 * 100


def test_a_pool_goes_to_another_process_by_what_is_in_it():
    pool = Pool()
    score = -np.random.default_rng(0).random(500).astype(np.float32)
    pool.add(score, (score > -0.1).astype(np.uint8))
    sent = pickle.dumps(pool)
    assert len(sent) < 30_000
    again = pickle.loads(sent)
    assert again.figures() == pool.figures()
    again += pool
    assert again.counts.sum() == 1000
    assert again.figures().ap == pool.figures().ap


def test_the_threshold_holds_all_that_it_counts():
    score = -np.linspace(0.01, 2, 1000, dtype=np.float32)
    label = (np.arange(1000) < 300).astype(np.uint8)
    found = pooled(score, label)
    kept = score >= np.float32(found.threshold)
    assert (kept & (label == 1)).sum() / 300 > 0.95
    assert (kept & (label == 0)).sum() == found.fpr95 * 700


def test_bins_keep_the_order_of_scores():
    score = -np.sort(np.abs(np.random.default_rng(0).standard_cauchy(10_000)).astype(np.float32).clip(0, 511))
    places = bins_of(score)
    assert (np.diff(places) >= 0).all()
    assert places.min() >= 0
    assert places.max() < BINS
    assert all(lowest_of(int(place)) <= value for place, value in zip(places[::97], score[::97], strict=True))


def test_nothing_unknown_or_nothing_known_gives_no_figure():
    nothing = pooled(-np.ones(9, np.float32), np.zeros(9, np.uint8))
    assert (nothing.known, nothing.unknown) == (9, 0)
    assert np.isnan(three(nothing)).all()
    assert not len(Pool().curve().recall)
    assert np.isnan(image_figures(-np.ones(9, np.float32), np.full(9, 255, np.uint8)).ap)
    everything = pooled(-np.ones(9, np.float32), np.ones(9, np.uint8))
    assert everything.ap == 1
    assert np.isnan(three(everything)[1:]).all()


def test_the_curve_goes_from_strict_to_lenient():
    rng = np.random.default_rng(0)
    label = (rng.random(5000) < 0.2).astype(np.uint8)
    pool = Pool()
    pool.add(-rng.random(5000).astype(np.float32) * (2 - label), label)
    curve = pool.curve(50)
    assert 10 < len(curve.recall) <= 50
    assert (np.diff(curve.recall) >= 0).all()
    assert (np.diff(curve.fpr) >= 0).all()
    assert (curve.recall[-1], curve.fpr[-1]) == (1, 1)
    assert curve.precision[-1] == pytest.approx(label.mean())


@pytest.mark.parametrize("bad", [0.5, np.nan, -600.0, -np.inf])
def test_what_is_no_anomaly_is_refused(bad):
    with pytest.raises(ValueError, match="from -512 to 0"):
        Pool().add(np.array([bad, -1], np.float32), np.zeros(2, np.uint8))
    Pool().add(
        np.array([bad, -1], np.float32), np.array([255, 0], np.uint8)
    )  # what is left out may be anything
