"""Residual sums and norms: what PyTorch computes one by one, in place; the kernel as the plain form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from triton_cases import compile_for_hopper, run_cases

from reincli.ops import norm
from reincli.ops.norm import add_cast, add_norm, sum_norm, triton_reason


def given(width=16):
    torch.manual_seed(0)
    layer = nn.LayerNorm(width)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return torch.randn(2, 5, width), torch.randn(2, 5, width), layer


def test_the_stream_becomes_the_sum():
    stream, branch, layer = given()
    total = stream.clone()
    total[:, 2:] += branch[:, 2:]
    with torch.no_grad():
        normed = add_norm(stream, branch, layer, torch.bfloat16, 2)
        assert torch.equal(normed, layer(total).bfloat16())
        assert torch.equal(stream, total)
        assert torch.equal(add_cast(stream, branch, torch.float16), (total + branch).half())
        assert torch.equal(stream, total + branch)


def test_gradients_pass_through_the_norm_of_a_sum():
    stream, branch, layer = given()
    branch.requires_grad_()
    sum_norm(stream, branch, layer).square().sum().backward()
    assert branch.grad is not None
    assert layer.weight.grad is not None
    assert branch.grad.any()


def test_norms_without_weights_are_not_for_the_kernel(monkeypatch):
    monkeypatch.setattr(norm, "_by_triton", lambda stream, dtype: True)
    stream, branch, _ = given()
    layer = nn.LayerNorm(16, elementwise_affine=False)
    assert torch.equal(sum_norm(stream, branch, layer), layer(stream + branch))
    total = stream + branch
    assert torch.equal(add_norm(stream, branch, layer, torch.float32), layer(total))


def test_too_many_channels_say_so():
    assert "8192" in str(triton_reason(torch.device("cuda"), 8193, torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("interpreted", [True, False], ids=["interpreter", "device"])
def test_kernel_against_the_plain_form(interpreted):
    run_cases("kernels_of_norm.py", interpreted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_kernel_compiles_for_a_device_that_is_not_there(kind, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from reincli.ops import norm_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = {
        "stream": "*fp32",
        "branch": f"*{kind}",
        "weight": "*fp32",
        "bias": "*fp32",
        "out": f"*{kind}",
        "eps": "fp32",
    }
    constants = {"WIDTH": 1024, "SLOTS": 1024, "ADD": True, "STORE": True, "NORM": True}
    built = compile_for_hopper(norm_triton.add_and_normalise, types, constants)
    assert "ld.global.v4.b32" in built  # 16 bytes at once
    assert ".local" not in built
