"""Losses of labels that are not certain: each part against a plain computation, and nothing changed where all are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from reincli.model import criterion
from reincli.model.criterion import (
    NO_OBJECT_WEIGHT,
    Targets,
    mask2former_loss,
    match,
    segment_weights,
    targets_of,
    uniform_points,
)
from reincli.model.mask_decoder import Predictions
from reincli.ops.matching import pair_cost
from reincli.ops.points import most_uncertain, nearest_pixels

CPU = torch.device("cpu")
ROUNDS, BATCH, QUERIES, CLASSES, WIDTH, POINTS = 2, 2, 7, 5, 6, 32


def predictions(*, gradients: bool = False) -> Predictions:
    torch.manual_seed(0)
    parts = (
        torch.randn(ROUNDS, BATCH, QUERIES, CLASSES + 1),
        torch.randn(ROUNDS, BATCH, QUERIES, WIDTH),
        torch.randn(BATCH, WIDTH, 16, 24),
    )
    return Predictions(*(part.requires_grad_(gradients) for part in parts))


def targets(weights: torch.Tensor | None = None) -> Targets:
    labels = torch.full((BATCH, 32, 48), 255, dtype=torch.uint8)
    labels[0, :10], labels[0, 10:, :20] = 3, 1
    labels[1, :16], labels[1, 16:] = 0, 4
    return replace(targets_of(labels, CLASSES), weights=weights)


def uneven() -> torch.Tensor:
    weights = torch.rand(BATCH, 32, 48, generator=torch.Generator().manual_seed(3))
    weights[:, -4:] = 0.0
    return weights


def losses_of(wanted: Targets) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    given = predictions(gradients=True)
    losses, _ = mask2former_loss(given, wanted, uniform_points(CPU, 1), count=POINTS)
    torch.stack(list(losses.values())).sum().backward()
    return losses, [part.grad for part in (given.class_logits, given.mask_embeddings, given.mask_features)]


def test_weights_of_one_change_no_bit():
    expected, gradients = losses_of(targets())
    found, gradients_too = losses_of(targets(torch.ones(BATCH, 32, 48)))
    assert len(found) == 3 * ROUNDS
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert all(torch.equal(left, right) for left, right in zip(gradients, gradients_too, strict=True))


def test_weights_of_one_match_alike():
    expected = match(predictions(), targets(), uniform_points(CPU, 1), POINTS)
    found = match(predictions(), targets(torch.ones(BATCH, 32, 48)), uniform_points(CPU, 1), POINTS)
    assert repr(found) == repr(expected)


def test_no_weight_is_no_loss_and_no_gradient():
    losses, gradients = losses_of(targets(torch.zeros(BATCH, 32, 48)))
    assert all(float(value.detach()) == 0 for value in losses.values())
    assert all(float(part.abs().max()) == 0 for part in gradients)


def test_a_segment_weighs_as_much_as_its_pixels_do():
    weights = uneven()
    found = segment_weights(targets(weights), CLASSES)
    expected = torch.zeros(BATCH, CLASSES + 1)
    labels = targets().labels
    for image in range(BATCH):
        for index in range(CLASSES):
            chosen = weights[image][labels[image] == index]
            expected[image, index] = chosen.mean() if len(chosen) else 0.0
        expected[image, CLASSES] = weights[image][labels[image] < CLASSES].mean()
    torch.testing.assert_close(found, expected)


def test_the_class_loss_carries_the_weights_of_the_segments():
    weights = uneven()
    wanted = targets(weights)
    losses, matches = mask2former_loss(predictions(), wanted, uniform_points(CPU, 1), count=POINTS)
    means = segment_weights(wanted, CLASSES)
    logits = predictions().class_logits[-1]
    total = divisor = 0.0
    for image, (chosen, which) in enumerate(matches[-1]):
        classes = dict(zip(chosen.tolist(), wanted.on_host[image][which].tolist(), strict=True))
        for query in range(QUERIES):
            index = classes.get(query, CLASSES)
            share = NO_OBJECT_WEIGHT if index == CLASSES else 1.0
            entropy = -logits[image, query].log_softmax(0)[index]
            total += share * float(means[image, index] * entropy)
            divisor += share
    assert float(losses["loss_cls"]) == pytest.approx(2 * total / divisor, rel=1e-5)


def test_mask_and_dice_carry_the_weights_of_their_points(monkeypatch):
    """By loops over the matched masks, at the points that were chosen."""
    weights = uneven()
    wanted = targets(weights)
    kept: list[torch.Tensor] = []
    choose = criterion._training_points

    def noted(*given):
        kept.append(choose(*given))
        return kept[-1]

    monkeypatch.setattr(criterion, "_training_points", noted)
    given = predictions()
    losses, matches = mask2former_loss(given, wanted, uniform_points(CPU, 1), count=POINTS)
    where = torch.cat(kept)[-4:]  # of the last round: two masks in each image
    means = segment_weights(wanted, CLASSES)
    masks = given.mask_logits(-1)
    entropies, dices, pair = 0.0, 0.0, 0
    for image, (chosen, which) in enumerate(matches[-1]):
        for query, index in zip(chosen, wanted.on_host[image][which], strict=True):
            at = 2 * where[pair][None, None] - 1
            truth = (wanted.labels[image] == int(index)).float()[None, None]
            logit = F.grid_sample(masks[image, query][None, None], at, align_corners=False).flatten()
            true = F.grid_sample(truth, at, align_corners=False).flatten()
            weight = torch.stack([weights[image, int(y * 32), int(x * 48)] for x, y in where[pair].tolist()])
            entropy = F.binary_cross_entropy_with_logits(logit, true, reduction="none")
            entropies += float((weight * entropy).sum() / POINTS)
            share = logit.sigmoid()
            ratio = (2 * (weight * share * true).sum() + 1) / (
                (weight * share).sum() + (weight * true).sum() + 1
            )
            dices += float(means[image, int(index)] * (1 - ratio))
            pair += 1
    assert float(losses["loss_mask"]) == pytest.approx(5 * entropies / 4, rel=1e-4)
    assert float(losses["loss_dice"]) == pytest.approx(5 * dices / 4, rel=1e-4)


def test_uncertain_points_are_chosen_by_what_they_weigh():
    logits = torch.tensor([[0.1, 0.3, 0.0, 2.0]])
    points = torch.arange(8.0).view(1, 4, 2)
    weights = torch.tensor([[0.1, 1.0, 0.0, 1.0]])  # as far as 1, 0.3, never, 2
    found = most_uncertain(logits, points, 2, weights)
    assert sorted(found[0, :, 0].tolist()) == [0.0, 2.0]
    assert sorted(most_uncertain(logits, points, 2)[0, :, 0].tolist()) == [0.0, 4.0]


def test_points_without_weight_do_not_count_in_the_matching():
    torch.manual_seed(1)
    logits, masks = torch.randn(1, 4, CLASSES + 1), torch.randn(1, 4, 10)
    classes, truth = torch.tensor([[1, 2]]), torch.rand(1, 2, 10)
    counted = torch.tensor([[1.0] * 6 + [0.0] * 4])
    found = pair_cost(logits, masks, classes, truth, counted)
    masks[..., 6:], truth[..., 6:] = 99.0, 1.0
    assert torch.equal(pair_cost(logits, masks, classes, truth, counted), found)
    fewer = pair_cost(logits, masks[..., :6], classes, truth[..., :6])
    entropy = 5 * F.binary_cross_entropy_with_logits(masks[0, 0, :6], truth[0, 1, :6])
    assert float(found[0, 0, 1]) == pytest.approx(float(fewer[0, 0, 1] - 0.4 * entropy), rel=1e-5)


def test_pixels_that_points_lie_in():
    points = torch.tensor([[0.0, 0.0], [0.99, 0.49], [1.0, 1.0]])
    assert nearest_pixels(points, 2, 4).tolist() == [0, 3, 7]
