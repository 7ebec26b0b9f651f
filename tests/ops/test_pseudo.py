"""Pseudo-labels against plain computations, each part alone."""

from __future__ import annotations

import torch

from reincli.ops.pseudo import class_pixels, hide, paste, pseudo_labels


def test_a_crop_weighs_as_much_as_is_certain_of_it():
    probabilities = torch.tensor([[[[0.97, 0.5, 0.2, 0.99]], [[0.01, 0.4, 0.96, 0.0]]]])  # (1, 2, 1, 4)
    counted = torch.tensor([[[True, True, True, False]]])
    found = pseudo_labels(probabilities, counted, 0.968)
    assert found.labels.tolist() == [[[0, 0, 1, 255]]]
    assert found.labels.dtype == torch.uint8
    third = torch.tensor(1.0) / 3
    torch.testing.assert_close(found.weights, torch.tensor([[[1.0, 1.0, 1.0, 0.0]]]) * third)
    torch.testing.assert_close(found.shares, third[None])
    torch.testing.assert_close(found.confidence, torch.tensor((0.97 + 0.5 + 0.96) / 3))


def test_without_a_threshold_everything_weighs_one():
    found = pseudo_labels(torch.rand(2, 3, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool), 0.0)
    assert torch.equal(found.weights, torch.ones(2, 4, 4))


def test_a_crop_of_which_nothing_counts():
    found = pseudo_labels(torch.rand(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool), 0.5)
    assert (found.labels == 255).all()
    assert (float(found.weights.sum()), float(found.shares), float(found.confidence)) == (0.0, 0.0, 0.0)


def test_pixels_of_each_class():
    labels = torch.tensor([[[0, 2], [2, 255]], [[1, 1], [1, 1]]], dtype=torch.uint8)
    assert class_pixels(labels, 3).tolist() == [[1, 0, 2], [0, 4, 0]]
    weights = torch.tensor([[[0.5, 0.25], [1.0, 9.0]], [[0.0, 1.0], [1.0, 0.0]]])
    assert class_pixels(labels, 3, weights).tolist() == [[0.5, 0, 1.25], [0, 2, 0]]


def test_what_is_pasted_comes_from_the_source():
    where = torch.tensor([[[True, False], [False, True]]])
    source, target = torch.full((1, 3, 2, 2), 7), torch.arange(12).view(1, 3, 2, 2)
    mixed = paste(source, target, where)
    assert mixed[0, :, 0, 0].tolist() == mixed[0, :, 1, 1].tolist() == [7, 7, 7]
    assert torch.equal(mixed[0, :, 0, 1], target[0, :, 0, 1])
    assert paste(torch.ones(1, 2, 2), torch.zeros(1, 2, 2), where).tolist() == [[[1, 0], [0, 1]]]


def test_hidden_blocks_are_of_the_mean_colour():
    images = torch.rand(1, 3, 5, 6) + 1
    found = hide(images, torch.tensor([[[True, False], [False, True]]]), 3)
    assert float(found[:, :, :3, :3].abs().max()) == 0
    assert float(found[:, :, 3:, 3:].abs().max()) == 0
    assert torch.equal(found[:, :, :3, 3:], images[:, :, :3, 3:])
    assert torch.equal(found[:, :, 3:, :3], images[:, :, 3:, :3])
