"""Single modules against the reference figures, and the exact algebra against its plain form."""

from __future__ import annotations

import json

import numpy as np
import pytest
import reference
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from reincli.model.mask_decoder import Attention, MaskDecoder, MaskDecoderLayer
from reincli.model.pixel_decoder import DeformableSelfAttention, PixelDecoder, resize, sine_positions
from reincli.model.rein import ReinAdapter
from reincli.model.segmentor import Segmentor
from reincli.model.weights import to_original
from reincli.ops.resample import stretch_grid

BOUND = 1e-5


def filled(module: nn.Module, prefix: str, names: dict[str, str] | None = None) -> nn.Module:
    """Generated weights under the original's names; `names` maps the start of ours to the start of theirs."""
    state = {}
    for name, value in module.state_dict().items():
        renamed = name
        for ours, original in (names or {}).items():
            if name.startswith(ours):
                renamed = original + name[len(ours) :]
        state[name] = reference.weight(f"{prefix}.{renamed}", tuple(value.shape))
    module.load_state_dict(state)
    return module


@pytest.fixture(scope="module")
def figures(oracle):
    return np.load(oracle / "modules.npz")


def test_rein_adapter(figures):
    names = {
        "tokens_a": "learnable_tokens_a", "tokens_b": "learnable_tokens_b", "to_value": "mlp_token2feat",
        "to_delta": "mlp_delta_f", "to_query": "transform",
    }  # fmt: skip
    adapter = ReinAdapter(3, 48, tokens=10, rank=4, patch_size=16, query_width=32)
    filled(adapter, "modtest.reins", names)
    features = torch.from_numpy(reference.normal("modtest.reins.x", (2, 17, 48)))
    folded = adapter.fold()
    with torch.no_grad():
        for refine in (adapter, folded):
            with_class = refine(features, 1, 1)
            assert reference.relative_error(with_class, figures["reins.layer1.cls"]) < BOUND
            assert torch.equal(with_class[:, 0], features[:, 0])
            assert reference.relative_error(refine(features, 2, 0), figures["reins.layer2.nocls"]) < BOUND
            assert reference.relative_error(refine.queries(), figures["reins.querys"]) < BOUND


def test_deformable_attention_module(figures):
    module = filled(DeformableSelfAttention(32, 4, 2, 4), "modtest.msda")
    features, positions = (
        torch.from_numpy(reference.normal(f"modtest.msda.{n}", (2, 75, 32))) for n in ("q", "pos")
    )
    rng = np.random.Generator(np.random.Philox(key=4321))
    references = torch.from_numpy(rng.random((2, 75, 2, 2), dtype=np.float32))
    with torch.no_grad():
        ours = features + module(features, positions, references, [(3, 5), (6, 10)])
    assert reference.relative_error(ours, figures["msda.out"]) < BOUND


def test_decoder_layer(figures):
    names = {
        f"{ours}_attention.{part}": f"{ours}_attn.attn.{original}"
        for ours in ("cross", "self")
        for part, original in (("in_proj.", "in_proj_"), ("out_proj.", "out_proj."))
    }
    names |= {f"norm{n + 1}": f"norms.{n}" for n in range(3)} | {
        "fc1": "ffn.layers.0.0",
        "fc2": "ffn.layers.1",
    }
    layer = filled(MaskDecoderLayer(32, 4, 64), "modtest.transformer_decoder.layer", names)
    queries, query_positions, memory, positions = (
        torch.from_numpy(reference.normal(f"modtest.declayer.{name}", (2, count, 32)))
        for name, count in (("q", 9), ("qp", 9), ("k", 20), ("kp", 20))
    )
    forbidden = np.random.Generator(np.random.Philox(key=4322)).random((8, 9, 20), dtype=np.float32) < 0.5
    allowed = torch.from_numpy(~forbidden).view(2, 4, 9, 20)
    with torch.no_grad():
        ours = layer(queries, query_positions, memory, memory + positions, allowed)
    assert reference.relative_error(ours, figures["declayer.out"]) < BOUND


@pytest.mark.parametrize("size", [(96, 160), (64, 64), (256, 256)])
def test_position_interpolation(figures, size):
    positions = torch.from_numpy(reference.normal("modtest.pos", (1, 65, 32)))
    grid = (size[0] // 16, size[1] // 16)
    stretched = stretch_grid(positions[0, 1:].reshape(8, 8, 32), grid)
    ours = torch.cat([positions[:, :1], stretched.reshape(1, -1, 32)], dim=1)
    assert reference.relative_error(ours, figures[f"dino.interp_pos_{size[0]}x{size[1]}"]) < BOUND


def test_sine_positions(figures):
    ours = sine_positions(5, 7, 256, torch.device("cpu"))
    assert reference.relative_error(ours.T.reshape(1, 256, 5, 7), figures["sine.128feats.5x7"]) < BOUND


def test_projecting_before_resizing_is_the_same():
    torch.manual_seed(0)
    maps = torch.randn(2, 48, 5, 7)
    conv = nn.Conv2d(48, 16, 1)
    for zoom in (4.0, 2.0, 0.5):
        size = (int(5 * zoom), int(7 * zoom))
        plain = conv(F.interpolate(maps, size=size, mode="bilinear", align_corners=False))
        torch.testing.assert_close(resize(conv(maps), size), plain, rtol=1e-5, atol=1e-5)


def test_attention_masks_from_shrunk_features_are_the_same():
    torch.manual_seed(0)
    features, embedding = torch.randn(2, 16, 32, 48), torch.randn(2, 9, 16)
    full = torch.einsum("bqd,bdhw->bqhw", embedding, features)
    for size in ((8, 12), (16, 24), (4, 6)):
        plain = F.interpolate(full, size=size, mode="bilinear", align_corners=False).flatten(2)
        likely = plain.sigmoid() >= 0.5
        plain_allowed = likely | ~likely.any(-1, keepdim=True)
        allowed = MaskDecoder._where_to_look(embedding, resize(features, size).flatten(2))[:, 0]
        certain = plain.abs() > 1e-5
        assert torch.equal(allowed[certain], plain_allowed[certain])


def test_a_query_with_no_likely_pixel_may_look_everywhere():
    allowed = MaskDecoder._where_to_look(torch.tensor([[[1.0], [-1.0]]]), torch.ones(1, 1, 6))
    assert allowed.shape == (1, 1, 2, 6)
    assert allowed.all()


def test_decoder_layer_is_attention_with_residuals():
    """The layer against the same written with torch's own attention."""
    torch.manual_seed(0)
    layer = MaskDecoderLayer(32, 4, 64)
    queries, positions, memory, keys = torch.randn(2, 9, 32), torch.randn(9, 32), *torch.randn(2, 2, 20, 32)
    blocked = torch.rand(2, 9, 20) < 0.5
    ours = layer(queries, positions, memory, keys, ~blocked[:, None])

    def torch_attention(module, q, k, v, mask=None):
        theirs = nn.MultiheadAttention(32, 4, batch_first=True)
        theirs.load_state_dict(
            {
                "in_proj_weight": module.in_proj.weight, "in_proj_bias": module.in_proj.bias,
                "out_proj.weight": module.out_proj.weight, "out_proj.bias": module.out_proj.bias,
            }
        )  # fmt: skip
        return theirs(q, k, v, attn_mask=mask, need_weights=False)[0]

    mask = blocked.repeat_interleave(4, 0)
    x = layer.norm1(queries + torch_attention(layer.cross_attention, queries + positions, keys, memory, mask))
    x = layer.norm2(x + torch_attention(layer.self_attention, x + positions, x + positions, x))
    x = layer.norm3(x + layer.fc2(F.relu(layer.fc1(x))))
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


def test_initialisation_statistics(oracle):
    """Mean, spread and range of every trainable tensor after initialisation, against the original's."""
    recorded = json.loads((oracle / "init_stats_rein_dinov2_s.json").read_text())["params"]
    star = recorded.pop("_sampling_offsets_bias_layer0")
    settings, crop = reference.settings_of("rein_dinov2_s_512")
    torch.manual_seed(0)
    model = Segmentor(settings, 19, crop // 16)
    ours = to_original(model.trained_state(), model.backbone.layout)
    assert ours.keys() == recorded.keys()
    offsets = ours["decode_head.pixel_decoder.encoder.layers.0.self_attn.sampling_offsets.bias"]
    assert offsets.numpy() == pytest.approx(np.ravel(star), abs=1e-6)
    for name, facts in recorded.items():
        values = ours[name]
        spread = facts["std"]
        error = 6 * spread / values.numel() ** 0.5 + 1e-7  # six standard errors: a false alarm in 10^8
        assert abs(values.mean().item() - facts["mean"]) < 2 * error, name
        if values.numel() > 1:
            assert values.std().item() == pytest.approx(
                spread, rel=6 / values.numel() ** 0.5 + 1e-3, abs=1e-7
            ), name
        if facts["max"] <= 2 * spread:  # uniform: the range is sharp
            assert values.max().item() == pytest.approx(facts["max"], rel=0.1, abs=1e-7), name
            assert values.min().item() == pytest.approx(facts["min"], rel=0.1, abs=1e-7), name


def test_pixel_decoder_takes_maps_of_one_size_or_of_their_own():
    """The ViT's four equal maps, and the same maps resized beforehand as a hierarchical backbone gives them."""
    torch.manual_seed(0)
    decoder = PixelDecoder([24] * 4, 32, heads=4, points=2, layers=1, ffn=48)
    maps = [torch.randn(1, 24, 4, 6) for _ in range(4)]
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    enlarged = [
        F.interpolate(m, size=s, mode="bilinear", align_corners=False)
        for m, s in zip(maps, sizes, strict=True)
    ]
    with torch.no_grad():
        small, large = decoder(maps, sizes), decoder(enlarged, sizes)
    torch.testing.assert_close(small.mask_features, large.mask_features, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(small.memories, large.memories, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_level_of_one_position_is_the_same_for_one_image_as_for_two():
    torch.manual_seed(0)
    decoder = PixelDecoder([24] * 4, 32, heads=4, points=2, layers=1, ffn=48)  # 32 groups of one channel
    maps = [torch.randn(2, 24, 2, 2) for _ in range(4)]
    sizes = [(8, 8), (4, 4), (2, 2), (1, 1)]
    with torch.no_grad():
        two, one = decoder(maps, sizes), decoder([each[:1] for each in maps], sizes)
    torch.testing.assert_close(one.mask_features, two.mask_features[:1], rtol=1e-4, atol=1e-5)


def test_only_what_is_declared_trains_and_the_rest_stays_in_evaluation_mode():
    model = Segmentor(tiny.settings().model, 5, 4).train()
    assert not any(module.training for module in model.backbone.modules())
    assert all(module.training for module in model.rein.modules())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(model.trained_state())
    assert trained == {name for name, _, _ in model.decays()}
    assert not model.eval().training


@pytest.mark.parametrize("backbone", ["vit", "test_resnet"])
def test_the_factor_of_refinements_starts_where_it_is_told(backbone):
    for told, wanted in ((), 1e-3), (("model.adapter.scale=0.25",), 0.25):
        sizes = () if backbone == "vit" else ("model.backbone={name='test_resnet'}",)
        model = Segmentor(tiny.settings(*sizes, *told).model, 3, 4)
        scales = [value for name, value in model.named_parameters() if name.endswith("scale")]
        assert scales
        assert all(value.item() == pytest.approx(wanted) for value in scales)


@pytest.mark.parametrize("pixels", [16, 37])
def test_masked_attention_is_the_plain_form(pixels):
    """The mask stays one for all heads, true and false: so fused kernels read it unexpanded, at any size."""
    torch.manual_seed(0)
    attention = Attention(32, 4)
    queries, keys, values = torch.randn(2, 9, 32), torch.randn(2, pixels, 32), torch.randn(2, pixels, 32)
    allowed = torch.rand(2, 1, 9, pixels) > 0.6
    allowed[..., 0] = True
    weights, biases = attention.in_proj.weight.chunk(3), attention.in_proj.bias.chunk(3)
    query, key, value = (
        F.linear(source, weight, bias).view(2, -1, 4, 8).transpose(1, 2)
        for source, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
    )
    scores = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(~allowed, float("-inf"))
    plain = attention.out_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(queries, keys, values, allowed), plain, rtol=1e-5, atol=1e-6)


def test_the_mask_of_the_attention_is_one_for_all_heads():
    seen = []
    attend = F.scaled_dot_product_attention

    def watched(query, key, value, attn_mask=None):
        seen.append(attn_mask)
        return attend(query, key, value, attn_mask=attn_mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reincli.model.mask_decoder.F.scaled_dot_product_attention", watched)
        patch.setattr("timm.layers.config._USE_FUSED_ATTN", 0)
        tiny.model(tiny.settings())(torch.zeros(2, 3, 64, 64))
    masks = [mask for mask in seen if mask is not None]
    assert len(masks) == 3
    for mask in masks:
        assert mask.dtype == torch.bool
        assert mask.shape[:3] == (2, 1, 12)
        assert mask.is_contiguous()
        assert mask.any(-1).all()
