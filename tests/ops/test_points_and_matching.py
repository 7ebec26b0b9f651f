"""Sampling at points, and the assignment of queries, against their plain forms."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from reincli.ops.matching import assign, dice_cost, mask_cost
from reincli.ops.points import most_uncertain, neighbours, sample_maps, sample_membership, sample_rows


def plain_sample(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(C, h, w), (n, 2) -> (C, n) by torch's own sampler."""
    return F.grid_sample(maps[None], 2 * points[None, None] - 1, align_corners=False)[0, :, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 10_000))
def test_sampling_features_then_multiplying_is_sampling_masks(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(6, height, width, generator=generator)
    embeddings = torch.randn(4, 6, generator=generator)
    points = torch.rand(50, 2, generator=generator)
    plain = plain_sample(torch.einsum("qc,chw->qhw", embeddings, features), points)
    rows = features.flatten(1).T.contiguous()
    sampled = sample_rows(rows, *neighbours(points, height, width))
    torch.testing.assert_close(embeddings @ sampled.T, plain, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
def test_membership_is_the_sampled_mask(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (height, width), generator=generator, dtype=torch.uint8)
    points = torch.rand(30, 2, generator=generator)
    classes = torch.arange(5)
    masks = (labels == classes[:, None, None]).float()
    ours = sample_membership(labels, classes[:, None], *neighbours(points, height, width))
    torch.testing.assert_close(ours, plain_sample(masks, points), rtol=1e-4, atol=1e-5)


def test_corners_of_the_unit_square_stay_inside():
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1 - 1e-7, 1e-7]])
    index, weight = neighbours(points, 3, 5)
    assert index.min() >= 0
    assert index.max() < 15
    assert (weight >= 0).all()


def test_points_nearest_to_the_boundary_are_chosen():
    maps = torch.linspace(-4, 4, 9).view(1, 1, 9)
    points = torch.stack([(torch.arange(9) + 0.5) / 9, torch.full((9,), 0.5)], dim=-1)[None]
    chosen = most_uncertain(sample_maps(maps, points), points, 3)
    assert sorted(sample_maps(maps, chosen)[0].round().abs().tolist()) == [0, 1, 1]


def test_costs_against_their_definitions():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 200), torch.rand(3, 200)
    for query, target in itertools.product(range(5), range(3)):
        entropy = F.binary_cross_entropy_with_logits(logits[query], targets[target])
        torch.testing.assert_close(mask_cost(logits, targets)[query, target], entropy)
        share = logits[query].sigmoid()
        dice = 1 - (2 * (share * targets[target]).sum() + 1) / (share.sum() + targets[target].sum() + 1)
        torch.testing.assert_close(dice_cost(logits, targets)[query, target], dice)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_assignment_is_the_cheapest(targets, seed):
    costs = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
    queries, chosen = assign(costs[None], [targets])[0]
    ours = costs.numpy()[queries, chosen].sum()
    best = min(
        sum(costs[q, t].item() for t, q in enumerate(order))
        for order in itertools.permutations(range(6), targets)
    )
    assert sorted(chosen) == list(range(targets))
    assert list(queries) == sorted(queries)
    np.testing.assert_allclose(ours, best, rtol=1e-5)


def test_costs_that_are_no_numbers_do_not_stop_a_step():
    costs = torch.tensor([[[float("nan"), 1.0], [2.0, float("inf")], [0.5, 3.0]]])
    queries, targets = assign(costs, [2])[0]
    assert dict(zip(targets.tolist(), queries.tolist(), strict=True)) == {0: 2, 1: 0}


def test_an_image_without_targets_matches_nothing():
    queries, targets = assign(torch.zeros(1, 4, 3), [0])[0]
    assert len(queries) == len(targets) == 0
