"""What a frozen backbone keeps for the backward pass: each activation once, in the compute type, and no gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from reincli.data.labels import CITYSCAPES
from reincli.engine.device import autocast
from reincli.training.run import Run, new_run

CPU = torch.device("cpu")
SIZE, PATCH = 64, 16
TOKENS = 1 + (SIZE // PATCH) ** 2


def run_of(precision: str) -> Run:
    chosen = tiny.settings()
    run = new_run(chosen, Path(), tiny.model(chosen), CITYSCAPES, device=CPU, precision=precision)
    run.model.train()
    return run


def kept_by_blocks(run: Run) -> list[list[torch.Tensor]]:
    """Activations that each block of the backbone keeps: one tensor for each piece of memory, weights left out."""
    weights = {each.untyped_storage().data_ptr() for each in run.model.backbone.parameters()}
    found: list[dict[int, torch.Tensor]] = []
    current: list[dict[int, torch.Tensor]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if current and place not in weights:
            current[-1][place] = tensor
        return tensor

    def before(module: torch.nn.Module, given: Any) -> None:
        current.append({})

    def after(module: torch.nn.Module, given: Any, output: Any) -> None:
        found.append(current.pop())

    for block in run.model.backbone.body.blocks:
        block.register_forward_pre_hook(before)
        block.register_forward_hook(after)
    images = torch.randint(0, 256, (1, 3, SIZE, SIZE), dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(run.precision, CPU):
        predictions = run.network(run.model.normalise(images))
    assert predictions.class_logits.requires_grad
    return [list(block.values()) for block in found]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_frozen_block_keeps_each_activation_once(precision):
    run = run_of(precision)
    width = run.model.backbone.width
    first, *later = kept_by_blocks(run)
    assert not first  # nothing before it trains: no gradient goes through it
    for block in later:
        # inputs of two norms; queries, keys, values and result of the attention; input of the GELU: 2 + 4 + 4 widths
        numbers = sum(each.untyped_storage().nbytes() // each.element_size() for each in block)
        small = TOKENS * (2 * 2 + 2)  # means and deviations of the norms, sums of the attention
        assert numbers <= 10 * width * TOKENS + 2 * small
        for index, one in enumerate(block):
            for other in block[index + 1 :]:
                same = one.numel() == other.numel() and torch.equal(
                    one.float().flatten(), other.float().flatten()
                )
                assert not same, f"{tuple(one.shape)} {one.dtype} is kept again as {other.dtype}"


def test_in_bf16_a_frozen_block_keeps_its_wide_activations_in_bf16():
    run = run_of("bf16")
    width = run.model.backbone.width
    for block in kept_by_blocks(run)[1:]:
        in_full = [each for each in block if each.dtype == torch.float32 and each.numel() >= width * TOKENS]
        assert len(in_full) <= 2  # the sums that the norms read: the residual stream stays in fp32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_weights_have_no_gradients_and_matrices_the_compute_type(precision):
    run = run_of(precision)
    images = torch.randint(0, 256, (1, 3, SIZE, SIZE), dtype=torch.uint8)
    with autocast(precision, CPU):
        predictions = run.network(run.model.normalise(images))
    predictions.class_logits.float().sum().backward()
    for name, parameter in run.model.backbone.named_parameters():
        assert not parameter.requires_grad, name
        assert parameter.grad is None, name
    expected = torch.bfloat16 if precision == "bf16" else torch.float32
    assert run.model.backbone.body.blocks[1].attn.qkv.weight.dtype == expected
    trained = {id(parameter) for parameter in run.trained}
    assert not trained & {id(parameter) for parameter in run.model.backbone.parameters()}
    assert {parameter.dtype for parameter in run.trained} == {torch.float32}


def test_checkpoints_hold_no_constants():
    model = tiny.model(tiny.settings())
    assert model.mean.shape == model.std.shape == (3, 1, 1)
    assert not [name for name in model.state_dict() if name.split(".")[-1] in ("mean", "std")]
    assert model.to(torch.float64).normalise(torch.zeros(1, 3, 2, 2)).shape == (1, 3, 2, 2)
