"""Triton's residual addition and norm against the plain form. Run by `test_norm.py`, see `triton_cases.py`."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from triton_cases import DEVICE, relative

from reincli.ops import norm as ops

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def inputs(batch, tokens, width, stream, branch):
    generator = torch.Generator().manual_seed(0)

    def random(*size):
        return torch.randn(*size, generator=generator).to(DEVICE)

    layer = nn.LayerNorm(width, eps=1e-6, device=DEVICE)
    with torch.no_grad():
        layer.weight.copy_(random(width))
        layer.bias.copy_(random(width))
    size = (batch, tokens, width)
    return (3 * random(*size) + 1).to(KINDS[stream]), random(*size).to(KINDS[branch]), layer


def both(form, stream, *rest):
    """(result, stream afterwards) of the kernel and of the plain form."""
    found = []
    for by_triton in (True, False):
        own = stream.clone()
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(ops, "_by_triton", lambda *of, by_triton=by_triton: by_triton)
            found.append((form(own, *rest), own))
    return found


@pytest.mark.parametrize("skip", [0, 1, 3])
@pytest.mark.parametrize(("stream", "branch"), [("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "bf16")])
@pytest.mark.parametrize("width", [8, 384, 1000])
def test_sum_and_norm(width, stream, branch, skip):
    given, added, layer = inputs(2, 5, width, stream, branch)
    bound = 1e-6 if stream == "fp32" else 1e-2
    ours, plain = both(ops.add_norm, given, added, layer, torch.float32, skip)
    assert relative(ours[0], plain[0]) < bound
    assert relative(ours[1], plain[1]) < bound
    assert torch.equal(ours[1][:, :skip], given[:, :skip])
    ours, plain = both(ops.add_cast, given, added, torch.float16, skip)
    assert relative(ours[0], plain[0]) < max(bound, 1e-3)


def test_norm_alone_leaves_the_stream():
    given, _, layer = inputs(1, 4, 48, "fp32", "fp32")
    ours, plain = both(ops.add_norm, given, None, layer, torch.float32)
    assert relative(ours[0], plain[0]) < 1e-6
    assert torch.equal(ours[1], given)


def test_norm_of_a_sum_leaves_both():
    given, added, layer = inputs(1, 4, 48, "fp32", "bf16")
    kept = added.clone()
    ours, plain = both(ops.sum_norm, given, added, layer)
    assert ours[0].dtype == torch.bfloat16
    assert relative(ours[0], plain[0]) < 1e-2
    assert torch.equal(ours[1], given)
    assert torch.equal(added, kept)


def test_no_norm_weights_and_nothing_at_all():
    given, added, _ = inputs(1, 4, 48, "fp32", "bf16")
    bare = nn.LayerNorm(48, bias=False, device=DEVICE)
    ours, plain = both(ops.add_norm, given, added, bare, torch.float32)
    assert relative(ours[0], plain[0]) < 1e-6
    empty = torch.empty(0, 4, 48, device=DEVICE)
    assert both(ops.add_norm, empty, None, bare, torch.float32)[0][0].shape == (0, 4, 48)
