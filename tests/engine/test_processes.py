"""What several processes share."""

from __future__ import annotations

import functools

import pytest
import tiny
import torch
from torch import nn

from reincli.engine.fusing import fused
from reincli.engine.processes import share_gradients, share_statistics
from reincli.engine.ranks import Rank
from reincli.model.necks import ScaleBranches
from reincli.model.segmentor import NORMS


@pytest.mark.parametrize(
    ("world", "device", "shared"), [(2, "cuda", True), (1, "cuda", False), (2, "cpu", False)]
)
def test_batch_norms_count_over_all_gpus(world, device, shared):
    torch.manual_seed(0)
    neck = ScaleBranches(8)
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    parameters = {id(parameter) for parameter in neck.parameters()}
    changed = share_statistics(neck, Rank(0, world), torch.device(device))
    kinds = [type(module) for module in changed.modules() if "BatchNorm" in type(module).__name__]
    assert kinds == [nn.SyncBatchNorm if shared else nn.BatchNorm2d]
    assert issubclass(kinds[0], NORMS)  # so that its weight does not decay
    after = changed.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {id(parameter) for parameter in changed.parameters()} == parameters


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("sets", "unread"),
    [
        (("model.tune=full",), True),  # the norm behind DINOv2's blocks
        (("model.tune=soma",), False),
        (("model.tune=soma", "model.backbone.taps=[0,0,1,1]"), True),  # the last blocks
        (("model.tune=full", "model.head.kind=plain"), False),  # which reads the norm
        (("model.backbone.taps=[0,0,1,1]",), False),  # adapters are one bank for all blocks
    ],
)
def test_what_no_pass_reads_is_not_waited_for(group, sets, unread):
    model = tiny.model(tiny.settings(*sets)).train()
    assert model.some_unread is unread
    shared = share_gradients(model, Rank(0, 2), torch.device("cpu"), model.some_unread)
    for _ in range(2):  # PyTorch complains in the second
        found = shared(torch.randn(2, 3, 64, 64))
        (found.class_logits.sum() + found.mask_logits().sum() + found.mask_embeddings.sum()).backward()
    assert unread == any(p.grad is None for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
def test_what_is_compiled_and_works_activations_out_again_is_not_cut(group, monkeypatch):
    import torch._dynamo.config

    with torch._dynamo.config.patch(optimize_ddp=True):  # and back, whatever is set within
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        monkeypatch.setattr(torch.distributed, "_DEFAULT_FIRST_BUCKET_BYTES", 1)
        model = tiny.model(tiny.settings()).train()
        model.recompute = True
        # gradients of few bytes at a time, as a whole model has many
        shared = nn.parallel.DistributedDataParallel(fused(model, uncut=True), bucket_cap_mb=0.02)
        found = shared(torch.randn(1, 3, 64, 64))
        (found.class_logits.sum() + found.mask_logits().sum() + found.mask_embeddings.sum()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
