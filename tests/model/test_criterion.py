"""Matching all rounds and images together is matching them one by one."""

from __future__ import annotations

import numpy as np
import torch

from reincli.model import criterion
from reincli.model.criterion import Targets, match, targets_of, uniform_points
from reincli.model.mask_decoder import Predictions

ROUNDS, BATCH, QUERIES, CLASSES, WIDTH = 3, 3, 9, 6, 8


def predictions() -> Predictions:
    torch.manual_seed(0)
    return Predictions(
        torch.randn(ROUNDS, BATCH, QUERIES, CLASSES + 1),
        torch.randn(ROUNDS, BATCH, QUERIES, WIDTH),
        torch.randn(BATCH, WIDTH, 16, 24),
    )


def targets() -> Targets:
    """Two classes, none, and five: of another size than the features."""
    labels = torch.full((BATCH, 32, 48), 255, dtype=torch.uint8)
    labels[0, :10], labels[0, 10:, :20] = 3, 1
    for index in range(5):
        labels[2, 6 * index : 6 * index + 6] = index
    return targets_of(labels, CLASSES)


def test_targets_are_padded_to_the_most():
    found = targets()
    assert found.padded.tolist() == [[1, 3, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4]]
    assert [present.tolist() for present in found.on_host] == [[1, 3], [], [0, 1, 2, 3, 4]]
    assert (found.pairs, found.divisor) == (7, 8.0)


def test_rounds_and_images_together_are_each_alone(monkeypatch):
    given, wanted = predictions(), targets()
    alone = match(given, wanted, uniform_points(torch.device("cpu"), 1), 64)
    monkeypatch.setitem(criterion.MATCHED_AT_ONCE, "cpu", 2**20)
    together = match(given, wanted, uniform_points(torch.device("cpu"), 1), 64)
    for one, other in zip(alone, together, strict=True):
        for (queries, classes), (queries_too, classes_too) in zip(one, other, strict=True):
            np.testing.assert_array_equal(queries, queries_too)
            np.testing.assert_array_equal(classes, classes_too)
    assert [len(queries) for queries, _ in alone[0]] == [2, 0, 5]


def test_an_image_is_matched_as_if_it_were_alone():
    """Padding and the neighbours in the batch change nothing."""
    given, wanted = predictions(), targets()
    points = torch.rand(ROUNDS, BATCH, 64, 2, generator=torch.Generator().manual_seed(2))
    whole = match(given, wanted, lambda use, index, shape: points[index], 64)
    for image in range(BATCH):
        one = slice(image, image + 1)
        single = Predictions(
            given.class_logits[:, one], given.mask_embeddings[:, one], given.mask_features[one]
        )
        alone = Targets(
            wanted.labels[one], torch.from_numpy(wanted.on_host[image])[None], [wanted.on_host[image]]
        )
        found = match(single, alone, lambda use, index, shape, one=one: points[index, one], 64)
        for index in range(ROUNDS):
            np.testing.assert_array_equal(found[index][0][0], whole[index][image][0])
            np.testing.assert_array_equal(found[index][0][1], whole[index][image][1])


def test_a_batch_without_targets_is_matched_with_nobody():
    empty = targets_of(torch.full((BATCH, 8, 8), 255, dtype=torch.uint8), CLASSES)
    found = match(predictions(), empty, uniform_points(torch.device("cpu"), 0), 16)
    assert [[len(queries) for queries, _ in round_] for round_ in found] == [[0] * BATCH] * ROUNDS
