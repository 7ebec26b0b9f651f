"""Deformable attention: bags of rows against sampling map by map."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reincli.ops.deformable import deformable_attention, sample_bags, sample_plain


def random_inputs(batch, shapes, queries, heads, width, points, seed=0, spread=1.4):
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size):
        return torch.rand(*size, generator=generator)

    total = sum(h * w for h, w in shapes)
    value = (uniform(batch, total, heads, width) - 0.5).requires_grad_()
    locations = (
        uniform(batch, queries, heads, len(shapes), points, 2) * spread - (spread - 1) / 2
    ).requires_grad_()
    weights = uniform(batch, queries, heads, len(shapes), points).requires_grad_()
    return value, locations, weights


def close(ours: torch.Tensor, reference: torch.Tensor, bound: float) -> None:
    assert ((ours - reference).norm() / reference.norm()).item() < bound


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000),
)  # fmt: skip
def test_values_and_gradients_equal_the_plain_form(batch, shapes, queries, heads, points, seed):
    value, locations, weights = random_inputs(batch, shapes, queries, heads, 8, points, seed, spread=1.05)
    plain = sample_plain(value, shapes, locations, weights)
    bags = deformable_attention(value, shapes, locations, weights)
    torch.testing.assert_close(bags, plain, rtol=1e-4, atol=1e-5)
    grad = torch.randn(plain.shape, generator=torch.Generator().manual_seed(seed))
    expected = torch.autograd.grad(plain, (value, locations, weights), grad)
    ours = torch.autograd.grad(bags, (value, locations, weights), grad)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_the_heads_own_sizes():
    shapes = [(8, 8), (16, 16), (32, 32)]
    value, locations, weights = random_inputs(2, shapes, 1344, 8, 32, 4)
    plain = sample_plain(value, shapes, locations, weights)
    bags = sample_bags(value, shapes, locations, weights)
    close(bags, plain, 1e-6)
    grad = torch.randn(plain.shape)
    for mine, theirs in zip(
        torch.autograd.grad(bags, (value, locations, weights), grad),
        torch.autograd.grad(plain, (value, locations, weights), grad),
        strict=True,
    ):
        close(mine, theirs, 1e-5)


def test_what_lies_outside_reads_zero():
    value = torch.ones(1, 4, 1, 2)
    locations = torch.tensor([-3.0, 5.0]).view(1, 1, 1, 1, 1, 2)
    assert torch.equal(
        sample_bags(value, [(2, 2)], locations, torch.ones(1, 1, 1, 1, 1)), torch.zeros(1, 1, 2)
    )


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_are_computed_for_what_needs_them(wanted):
    tensors = [
        t.detach().requires_grad_(need)
        for t, need in zip(random_inputs(1, [(3, 4)], 5, 2, 4, 2), wanted, strict=True)
    ]
    sample_bags(tensors[0], [(3, 4)], tensors[1], tensors[2]).sum().backward()
    assert [t.grad is not None for t in tensors] == list(wanted)


def test_without_gradients_it_is_the_same_and_needs_no_sparse_matrices(monkeypatch):
    shapes = [(1, 1), (3, 5)]  # fewer rows than points: torch has no such sparse matrix
    given = random_inputs(2, shapes, 4, 2, 8, 3)
    monkeypatch.setattr("torch.backends.mkl.is_available", lambda: False)
    monkeypatch.setattr("torch.sparse_csr_tensor", None)
    with torch.no_grad():
        torch.testing.assert_close(
            deformable_attention(given[0], shapes, *given[1:]), sample_plain(given[0], shapes, *given[1:])
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30])
def test_a_location_that_is_no_number_reads_no_memory_that_is_not_the_maps(bad):
    value, locations, weights = (each.detach() for each in random_inputs(1, [(3, 4)], 5, 2, 4, 2))
    locations[0, 1, 1, 0, 1, 0] = bad
    rows = sample_bags(value, [(3, 4)], locations, weights)
    assert rows[0, 1, 4:].isfinite().all() == (bad == -1e30)
    rows[0, 1, 4:] = 0
    assert rows.isfinite().all()


def test_compiled_for_inference_it_is_the_same():
    shapes = [(4, 4), (8, 8)]
    given = random_inputs(1, shapes, 80, 2, 8, 4)
    compiled = torch.compile(
        lambda *each: deformable_attention(each[0], shapes, *each[1:]), backend="aot_eager"
    )
    with torch.no_grad():
        torch.testing.assert_close(compiled(*given), sample_plain(given[0], shapes, *given[1:]))
