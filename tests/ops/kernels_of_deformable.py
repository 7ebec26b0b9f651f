"""Triton's deformable attention against the plain form. Run by `test_deformable_triton.py`, see `triton_cases.py`."""

from __future__ import annotations

import pytest
import torch
from triton_cases import DEVICE, relative

from reincli.ops import deformable, deformable_triton
from reincli.ops.deformable import deformable_attention, sample_plain


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Take the kernels where they would not be chosen: on the CPU, under the interpreter.

    It takes its time for each program, however many queries that handles: so few large ones.
    """
    monkeypatch.setattr(deformable, "_by_triton", lambda *of: True)
    if DEVICE == "cpu":
        monkeypatch.setattr(deformable_triton, "ELEMENTS", 2048)


def inputs(batch, shapes, queries, heads, width, points, *, spread=1.4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size):
        return torch.rand(*size, generator=generator).to(DEVICE)

    total = sum(h * w for h, w in shapes)
    value = uniform(batch, total, heads, width) - 0.5
    locations = uniform(batch, queries, heads, len(shapes), points, 2) * spread - (spread - 1) / 2
    weights = uniform(batch, queries, heads, len(shapes) * points).softmax(-1)
    weights = weights.view(batch, queries, heads, len(shapes), points)
    return [each.requires_grad_() for each in (value, locations, weights)]


def with_gradients(form, shapes, tensors):
    value, locations, weights = tensors
    result = form(value, shapes, locations, weights)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result)
    return [result, *torch.autograd.grad(result, tensors, grad)]


def compare(shapes, tensors, value_bound=1e-5, gradient_bound=1e-4):
    ours = with_gradients(deformable_attention, shapes, tensors)
    plain = with_gradients(sample_plain, shapes, [each.detach().float().requires_grad_() for each in tensors])
    for bound, mine, theirs in zip([value_bound] + [gradient_bound] * 3, ours, plain, strict=True):
        assert relative(mine, theirs) < bound
    assert ours[0].dtype == tensors[0].dtype
    assert [each.dtype for each in ours[1:]] == [each.dtype for each in tensors]


@pytest.mark.parametrize(
    ("batch", "shapes", "queries", "heads", "width", "points"),
    [
        (1, [(2, 2), (4, 4), (8, 8)], 21, 4, 32, 4),  # the head's own, smaller
        (2, [(3, 5), (7, 4), (9, 13)], 70, 1, 32, 4),  # odd sizes, two programs a head
        (3, [(1, 1), (1, 6)], 5, 2, 8, 3),  # a single pixel, a single row; points that are no power of two
        (1, [(4, 3)], 1, 1, 128, 5),
        (2, [(2, 3), (3, 2), (4, 4), (5, 1), (2, 2)], 6, 1, 16, 2),  # more levels than a launch takes
    ],
)
def test_values_and_gradients(batch, shapes, queries, heads, width, points):
    compare(shapes, inputs(batch, shapes, queries, heads, width, points))


def test_far_outside_and_on_the_borders():
    shapes = [(3, 4), (6, 5)]
    value, locations, weights = inputs(1, shapes, 8, 2, 8, 2, spread=6.0)
    compare(shapes, [value, locations, weights])
    places = torch.tensor([0.0, 1.0, 1e30, -1e30, float("inf"), -float("inf"), 0.5, 3e9], device=DEVICE)
    with torch.no_grad():
        locations.copy_(places.view(1, 8, 1, 1, 1, 1).expand_as(locations))
    ours = deformable_attention(value, shapes, locations, weights)
    plain = sample_plain(value, shapes, locations.clamp(-9, 9), weights)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    assert not ours[0, [2, 3, 4, 5, 7]].any()


def test_nothing_sampled_on_the_map_gives_zero_and_no_gradient():
    shapes = [(2, 2)]
    value, _, weights = inputs(1, shapes, 3, 1, 8, 2)
    locations = torch.full((1, 3, 1, 1, 2, 2), -2.0, device=DEVICE, requires_grad=True)
    result, *gradients = with_gradients(deformable_attention, shapes, [value, locations, weights])
    for each in (result, *gradients):
        assert not each.any()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_low_types_are_summed_in_fp32(kind):
    shapes = [(3, 4), (6, 5), (8, 8)]
    value, locations, weights = inputs(2, shapes, 7, 1, 32, 4)
    low = value.detach().to(kind).requires_grad_()
    rounding = torch.finfo(kind).eps  # of the result, and of the gradient that is given
    compare(shapes, [low, locations, weights], rounding, 2 * rounding)


def test_low_types_everywhere():
    shapes = [(3, 4), (6, 5)]
    tensors = [each.detach().bfloat16().requires_grad_() for each in inputs(1, shapes, 7, 1, 16, 4)]
    compare(shapes, tensors, 1e-2, 2e-2)


def test_inputs_that_are_not_contiguous():
    shapes = [(3, 4), (5, 2)]
    value, locations, weights = inputs(1, shapes, 6, 2, 16, 3)
    turned = [
        value.detach().transpose(1, 2).contiguous().transpose(1, 2),
        locations.detach().flip(-1).flip(-1).transpose(3, 4).contiguous().transpose(3, 4),
        weights.detach().repeat(1, 1, 1, 1, 2)[..., ::2],
    ]
    assert not any(each.is_contiguous() for each in turned)
    compare(shapes, [each.requires_grad_() for each in turned])


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, True)])
def test_gradients_reach_what_needs_them(wanted):
    tensors = [
        each.detach().requires_grad_(need)
        for each, need in zip(inputs(1, [(3, 4)], 5, 1, 8, 2), wanted, strict=True)
    ]
    deformable_attention(tensors[0], [(3, 4)], *tensors[1:]).sum().backward()
    assert [each.grad is not None for each in tensors] == list(wanted)


def test_without_queries():
    value, locations, weights = inputs(1, [(3, 4)], 0, 2, 8, 2)
    result, *gradients = with_gradients(deformable_attention, [(3, 4)], [value, locations, weights])
    assert result.shape == (1, 0, 16)
    assert not gradients[0].any()


def test_the_operator_keeps_torchs_rules():
    """Schema, fake tensors and autograd registration, as torch checks them."""
    value, locations, weights = inputs(1, [(3, 4)], 3, 1, 8, 1)
    rules = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(deformable_triton.attend, (value, [3, 4], locations, weights), test_utils=rules)


def test_compiled_without_a_break():
    shapes = [(3, 4)]
    tensors = inputs(1, shapes, 3, 1, 8, 2)

    def whole(value, locations, weights):
        return deformable_attention(value * 2, shapes, locations, weights).square()

    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    for ours, plain in zip(
        with_gradients(lambda v, _, p, w: compiled(v, p, w), shapes, tensors),
        with_gradients(lambda v, _, p, w: whole(v, p, w), shapes, tensors),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)
