"""Rein on other people's models: timm's, and a backbone of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import reincli
from reincli import attach_rein
from reincli.errors import ReinError
from reincli.model.rein import FoldedStages, ReinAdapter, StagedRein
from reincli.model.timm_import import import_timm

timm = import_timm()


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("test_"):
        return timm.create_model(name, num_classes=0)
    return timm.create_model(
        name, img_size=64, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=0,
        dynamic_img_size=True,
    )  # fmt: skip


PLAIN = ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224"]
STAGED = ["test_resnet", "test_convnext"]


@pytest.mark.parametrize("name", PLAIN + STAGED)
def test_the_model_is_refined_frozen_and_keeps_its_names(name):
    model = small(name)
    names, images = list(model.state_dict()), torch.randn(2, 3, 64, 96)
    plain = model.eval().forward_intermediates(images, intermediates_only=True)
    rein = attach_rein(model, tokens=8, rank=2)
    assert isinstance(rein, ReinAdapter if name in PLAIN else StagedRein)
    assert list(model.state_dict()) == names
    assert not any(parameter.requires_grad for parameter in model.parameters())
    maps = model.forward_intermediates(images, intermediates_only=True)
    assert not torch.equal(maps[-1], plain[-1])
    maps[-1].sum().backward()
    unread = ("stages.3",) if name in STAGED else ()
    assert all(value.grad is not None for key, value in rein.named_parameters() if not key.startswith(unread))
    rein.detach()
    again = model.forward_intermediates(images, intermediates_only=True)
    assert all(torch.equal(each, expected) for each, expected in zip(again, plain, strict=True))


@pytest.mark.parametrize("name", PLAIN)
def test_prefix_tokens_pass_unchanged(name):
    model = small(name)
    rein = attach_rein(model, tokens=8, rank=2)
    before = torch.randn(1, model.num_prefix_tokens + 16, 32)
    after = rein(before, 1, model.num_prefix_tokens)
    assert torch.equal(after[:, : model.num_prefix_tokens], before[:, : model.num_prefix_tokens])
    assert not torch.equal(after[:, -1], before[:, -1])


def test_training_moves_the_adapters_alone():
    model = small("test_resnet")
    rein = attach_rein(model, tokens=8, rank=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(rein.parameters(), lr=1e-3)
    images, losses = torch.randn(2, 3, 64, 64), []
    for _ in range(6):
        loss = model.forward_features(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["levit_128s", "twins_svt_small"])
def test_a_model_without_blocks_is_refused(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(ReinError, match="no blocks that Rein can be attached to"):
        attach_rein(model)
    with pytest.raises(ReinError, match="Linear has no blocks"):
        attach_rein(nn.Linear(2, 2))


def test_folded_stages_are_the_stages():
    torch.manual_seed(0)
    rein = StagedRein((2, 1), (16, 32), tokens=6, rank=2, query_width=8)
    nn.init.constant_(rein.stages[0].scale, 0.5)
    folded = rein.fold()
    assert isinstance(folded, FoldedStages)
    with torch.no_grad():
        for block, width in enumerate((16, 16, 32)):
            features = torch.randn(2, 5, width)
            torch.testing.assert_close(folded(features, block, 1), rein(features, block, 1))
        torch.testing.assert_close(folded.queries(), rein.queries())
        summed = rein.stages[0].queries() + rein.stages[1].queries()
        torch.testing.assert_close(rein.queries(), summed)


def test_without_a_link_there_are_no_queries():
    with pytest.raises(ValueError, match="without a link"):
        reincli.Rein(2, 8).queries()
    with pytest.raises(ValueError, match="without a link"):
        StagedRein((1, 1), (8, 16)).fold().queries()


def own_backbone() -> str:
    """The example of the page on backbones."""
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text("utf-8")
    return next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "class Refined" in block)


def test_the_example_of_an_own_backbone_learns_in_under_thirty_lines():
    example = own_backbone()
    assert len(example.strip().splitlines()) < 30
    namespace: dict = {}
    exec(example, namespace)
    torch.manual_seed(0)
    model = namespace["Refined"]()
    trained = {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {"rein", "head"}
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    images, labels, losses = torch.randn(2, 3, 64, 48), torch.randint(0, 19, (2, 12)), []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(images).transpose(1, 2), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
