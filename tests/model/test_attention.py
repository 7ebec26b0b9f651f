"""`model.backbone.attention`: what a plain transformer attends with. xformers is played by a stand-in."""

from __future__ import annotations

import copy
import inspect
import sys
import types

import pytest
import tiny
import torch
import torch.nn.functional as F
from terminal import told

from reincli.config import BackboneSettings
from reincli.engine.checkpoint import read_checkpoint
from reincli.errors import ReinError
from reincli.model.attention import choose_attention, head_width, require_attention
from reincli.model.backbones import build_backbone
from reincli.model.timm_import import import_timm
from reincli.ops.attention import ByXformers, attend, reason

CPU = torch.device("cpu")


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """A stand-in for xformers that attends in its layout, (B, N, H, D); what it was given."""
    seen: list[tuple] = []

    def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
        seen.append((tuple(query.shape), query.dtype, p))
        assert query.dtype == key.dtype == value.dtype
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)

    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    return seen


def backbone(attention: str, name: str = "vit", **more):
    size = {"width": 32, "depth": 4, "heads": 2} if name == "vit" else {}
    torch.manual_seed(0)
    settings = BackboneSettings(name=name, attention=attention, weights="random", **{**size, **more})
    return build_backbone(settings, 4).eval()


KINDS = {
    "vit": {},
    "eva02_tiny_patch14_224": {"patch_size": 14},
    "vit_small_patch16_dinov3": {},
    "vit_tiny_patch16_224": {},
}
"""A plain one, rotary positions of two kinds, and one of timm's by name."""


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("grad", [False, True])
def test_every_block_attends_by_xformers_with_the_same_numbers(calls, name, grad):
    """Without gradients the blocks run as a stream, part by part; with them as timm has them."""
    usual, other = backbone("auto", name, **KINDS[name]), backbone("xformers", name, **KINDS[name])
    other.load_state_dict(usual.state_dict())
    images = torch.randn(2, 3, 4 * usual.patch_size, 4 * usual.patch_size)
    with torch.set_grad_enabled(grad):
        expected = usual(images)
        assert not calls
        found = other(images)
    last = max(other.taps)
    assert len(calls) >= last + 1
    assert calls[0][0][1:] == (other.prefix + 16, head_count(other), head_width(other.body))
    for left, right in zip(expected, found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def head_count(chosen) -> int:
    return chosen.body.blocks[0].attn.num_heads


def test_gradients_come_through(calls):
    gradients = []
    for attention in ("auto", "xformers"):
        chosen = backbone(attention)
        sum(each.square().sum() for each in chosen(torch.ones(1, 3, 64, 64))).backward()
        gradients.append(chosen.body.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert calls


def test_under_autocast_it_gets_one_low_type(calls):
    query = torch.randn(1, 2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16), ByXformers():
        mixed = F.scaled_dot_product_attention(query, query.bfloat16(), query)
    assert calls == [((1, 5, 2, 8), torch.bfloat16, 0.0)]
    assert mixed.shape == query.shape


def test_what_has_a_mask_is_pytorchs_own(calls):
    query = torch.randn(1, 2, 5, 8)
    mask = torch.zeros(5, 5)
    expected = F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    torch.testing.assert_close(attend(query, query, query, attn_mask=mask), expected)
    attend(query, query, query, is_causal=True)
    attend(query, query, query, scale=0.1)
    assert not calls


def test_a_copy_attends_with_its_own_weights(calls):
    chosen = backbone("xformers")
    other = copy.deepcopy(chosen)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        maps = other(torch.ones(1, 3, 64, 64))
    assert calls
    assert all(float(each.abs().max()) == 0 for each in maps)


def test_names_of_weights_stay(calls):
    assert backbone("xformers").state_dict().keys() == backbone("auto").state_dict().keys()


def test_a_compiler_can_follow(calls):
    chosen = backbone("xformers")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = chosen(images)
        before = len(calls)
        found = torch.compile(chosen, backend="eager")(images)
    assert len(calls) > before
    torch.testing.assert_close(list(found), list(expected))
    torch.compiler.reset()


def test_sdpa_is_fused_whatever_timm_was_told(monkeypatch):
    timm = import_timm()
    body = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1)
    for module in body.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # as TIMM_FUSED_ATTN=0 makes it
    choose_attention(body, BackboneSettings(name="vit"))
    assert not body.blocks[0].attn.fused_attn
    choose_attention(body, BackboneSettings(name="vit", attention="sdpa"))
    assert body.blocks[0].attn.fused_attn


@pytest.mark.parametrize("name", ["resnet50", "convnext_l", "samvit_base_patch16"])
def test_backbones_that_attend_otherwise_are_refused(name):
    body = import_timm().create_model(
        {"resnet50": "resnet18", "convnext_l": "convnext_atto"}.get(name, name), pretrained=False
    )
    with pytest.raises(ReinError, match=f"'{name}' attends in a way of its own, or not at all") as caught:
        choose_attention(body, BackboneSettings(name=name, attention="xformers"))
    assert caught.value.usage
    choose_attention(body, BackboneSettings(name=name, attention="sdpa"))  # nothing to refuse


# --- where it cannot run -----------------------------------------------------------------------------------


def test_not_installed_is_one_sentence_with_the_next_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    printed = told("train", "--preset", "demo", "--set", "model.backbone.attention=xformers", "--device", "cpu",
                   code=1)  # fmt: skip
    assert (
        "error: model.backbone.attention is 'xformers', but xformers is not installed. Install it: "
        "pip install 'reincli[xformers]', or go on with PyTorch's own: --set model.backbone.attention=auto"
    ) in printed


def test_another_device_is_one_sentence(calls):
    printed = told("bench", "--preset", "demo", "--attention", "sdpa,xformers", "--device", "cpu", code=1)
    assert "but the device is 'cpu', and it is for CUDA. Go on with PyTorch's own:" in printed
    assert "ms" not in printed.split()  # said before anything is measured
    assert not calls


def test_kernels_that_do_not_run_are_one_sentence(monkeypatch, calls):
    def fails(*given, **options):
        raise NotImplementedError(
            "No operator found for `memory_efficient_attention_forward` with inputs:\n  more"
        )

    sys.modules["xformers.ops"].memory_efficient_attention = fails
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device, **options: zeros(*size, **options))
    why = reason(torch.device("cuda"), 64, torch.float16)
    assert why == (
        "it does not run here (No operator found for `memory_efficient_attention_forward` with inputs)"
    )


def test_a_tiny_call_decides(monkeypatch, calls):
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device, **options: zeros(*size, **options))
    require_attention("xformers", torch.device("cuda"), torch.bfloat16, 48)
    assert calls == [((1, 16, 1, 48), torch.bfloat16, 0.0)]
    for other in ("auto", "sdpa"):
        require_attention(other, CPU, torch.float32)
    assert len(calls) == 1


def test_a_checkpoint_opens_where_xformers_is_not(tmp_path, calls):
    """How the machine that trained attended is no part of the model."""
    settings = tiny.settings("model.backbone.attention=xformers")
    tiny.write_checkpoint(tmp_path / "a.pth", settings)
    assert read_checkpoint(tmp_path / "a.pth").settings == tiny.settings()


def test_the_package_has_the_call_as_it_is_used():
    ops = pytest.importorskip("xformers.ops")
    parameters = list(inspect.signature(ops.memory_efficient_attention).parameters)
    assert parameters[:3] == ["query", "key", "value"]
    assert "p" in parameters
    assert reason(CPU, 64, torch.float32) == "the device is 'cpu', and it is for CUDA"


def test_bench_puts_them_side_by_side(tmp_path):
    import json

    printed = told("bench", "--preset", "demo", "--what", "inference", "--attention", "auto,sdpa", "--runs", "1",
                   "--device", "cpu", "--json", tmp_path / "b.json")  # fmt: skip
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["attention"] for row in rows] == ["auto", "sdpa"]
    assert all(row["median_s"] > 0 for row in rows)
    assert "attention" in printed


def test_one_that_is_none_is_said_before_anything_is_measured():
    printed = told("bench", "--preset", "demo", "--attention", "flash", "--device", "cpu", code=2)
    assert (
        "'model.backbone.attention' cannot be 'flash': it is one of 'auto', 'sdpa' or 'xformers'" in printed
    )
