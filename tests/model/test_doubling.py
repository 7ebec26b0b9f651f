"""Doubling by a matrix product against PyTorch's transposed convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reincli.model.doubling import Doubling


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_the_transposed_convolutions(layout):
    torch.manual_seed(0)
    ours, plain = Doubling(12), nn.ConvTranspose2d(12, 12, kernel_size=2, stride=2)
    plain.load_state_dict(ours.state_dict())
    maps = torch.randn(2, 12, 3, 5).to(memory_format=layout)
    grad = torch.randn(2, 12, 6, 10)
    results = []
    for module in (ours, plain):
        given = maps.clone().requires_grad_()
        made = module(given)
        made.backward(grad)
        results.append((made, given.grad, module.weight.grad, module.bias.grad))
    for mine, theirs in zip(*results, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_the_result_lies_channels_last():
    made = Doubling(4)(torch.randn(1, 4, 3, 3))
    assert made.is_contiguous(memory_format=torch.channels_last)
