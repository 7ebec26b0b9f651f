"""What several processes share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reincli.engine.processes import share_statistics
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
