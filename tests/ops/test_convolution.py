"""The convolution with a fast weight gradient against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from reincli.ops.convolution import convolve


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_values_and_gradients_are_pytorchs(layout, wanted):
    torch.manual_seed(0)
    maps, weight, grad = torch.randn(2, 6, 5, 7), torch.randn(4, 6, 3, 3), torch.randn(2, 4, 5, 7)
    results = []
    for form in (convolve, lambda *given: F.conv2d(*given, padding=1)):
        given = [
            maps.clone().to(memory_format=layout).requires_grad_(wanted[0]),
            weight.clone().requires_grad_(wanted[1]),
        ]
        made = form(*given)
        made.backward(grad)
        results.append((made, *(each.grad for each in given)))
    for mine, theirs in zip(*results, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_maps_that_lie_channels_last_stay_so_and_go_backward_channels_first(monkeypatch):
    seen = []
    plain = torch.ops.aten.convolution_backward

    def backward(grad, maps, *rest):
        seen.append(maps.is_contiguous())
        return plain(grad, maps, *rest)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", backward)
    maps = torch.randn(1, 6, 5, 7).to(memory_format=torch.channels_last)
    made = convolve(maps, torch.randn(4, 6, 3, 3, requires_grad=True))
    assert made.is_contiguous(memory_format=torch.channels_last)
    made.sum().backward()
    assert seen == [True]
