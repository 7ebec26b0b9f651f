"""The plain decoder and what reads tokens: its algebra, its masks in training, the backbones that it takes."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from reincli.config import ModelSettings
from reincli.engine.backbone_files import load_backbone
from reincli.engine.weight_files import write_file
from reincli.errors import ReinError
from reincli.model import weights
from reincli.model.criterion import mask2former_loss, targets_of, uniform_points
from reincli.model.families import quarters
from reincli.model.layouts import LAYOUTS
from reincli.model.mask_decoder import Predictions
from reincli.model.plain_decoder import (
    MaskDraws,
    PlainDecoder,
    SelfAttention,
    draw_masks,
    mask_probabilities,
    rotary_tables,
    rotated,
)
from reincli.model.segmentor import Segmentor
from reincli.model.weights import to_original

PLAIN = "model.head.kind=plain"


def decoder(**options) -> PlainDecoder:
    torch.manual_seed(0)
    sizes = {"taps": 4, "patch_size": 16, "queries": 5, "layers": 3, "heads": 2}
    return PlainDecoder(3, 32, **{**sizes, **options})


def model(*sets: str) -> Segmentor:
    return tiny.model(tiny.settings(PLAIN, *sets))


def tokens(length: int = 1 + 24, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, length, 32, generator=generator) for _ in range(4)]


# --- masks in training -------------------------------------------------------------------------------------


def test_masks_go_layer_by_layer_as_published():
    begins = [0, 0.267, 0.367, 0.467, 0.567, 0.667]
    ends = [0.148, 0.433, 0.533, 0.633, 0.733, 0.833]  # ADE20K: 3,000 of 20,208
    total = 20_208
    for layer, (begin, end) in enumerate(zip(begins, ends, strict=True)):

        def at(share: float, layer: int = layer) -> float:
            return mask_probabilities(6, round(share * total), total)[layer]

        assert at(begin) == pytest.approx(1, abs=0.01)
        assert at(end) == pytest.approx(0, abs=0.01)
        assert at((begin + end) / 2) == pytest.approx(0.5**0.9, abs=0.01)
        assert 0 < at(end - 0.002) < 0.05
    assert mask_probabilities(6, 1_500, 90_000)[0] == pytest.approx(0.5**0.9)  # in steps, however long
    assert mask_probabilities(6, 3_000, 90_000)[0] == 0
    assert mask_probabilities(6, 0, total) == [1] * 6
    assert mask_probabilities(6, total, total) == [0] * 6


@pytest.mark.parametrize("layers", [1, 2, 4, 9])
def test_masks_of_other_depths_and_short_trainings_go_in_order(layers):
    for iterations in (10, 220, 40_000):
        history = [
            mask_probabilities(layers, step, iterations)
            for step in range(0, iterations + 1, max(1, iterations // 100))
        ]
        for earlier, later in itertools.pairwise(history):
            assert all(a >= b for a, b in zip(earlier, later, strict=True))
        for probabilities in history:
            assert probabilities == sorted(probabilities)  # the first layers are freed first
        assert history[0] == [1] * layers
        assert history[-1] == [0] * layers


def test_rows_are_held_with_their_probability_and_anew_in_each_step():
    probabilities = [1.0, 0.7, 0.0]
    opened, stretch = draw_masks(probabilities, 40, 100, (1, 2))
    assert opened.shape == (3, 40, 100)
    assert not opened[0].any()
    assert opened[1].mean() == pytest.approx(0.3, abs=0.02)
    assert opened[2].all()
    again, same = draw_masks(probabilities, 40, 100, (1, 2))
    np.testing.assert_array_equal(opened, again)
    assert stretch == same
    assert (draw_masks(probabilities, 40, 100, (1, 3))[0] != opened).any()
    factors = np.log2([draw_masks([], 1, 1, (0, step))[1] for step in range(2_000)])
    assert np.abs(factors).max() <= 1
    assert factors.mean() == pytest.approx(0, abs=0.05)
    assert factors.std() == pytest.approx(3**-0.5, abs=0.03)


def test_a_row_that_is_held_sees_its_mask_and_all_that_is_no_patch():
    made, grid = decoder(), (4, 6)
    opened = torch.zeros(3, 2, 5, dtype=torch.bool)
    opened[:, 0, 1] = True
    seen = []
    plain = PlainDecoder._where_to_look
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PlainDecoder,
            "_where_to_look",
            staticmethod(lambda *given: seen.append(plain(*given)) or seen[-1]),
        )
        found = made(tokens(), grid, None, True, draws=MaskDraws(opened, torch.tensor(1.0)))
    for index, allowed in enumerate(seen):
        assert allowed.shape == (2, 1, 5, 5 + 1 + 24)
        assert allowed[..., :6].all()
        masks = F.interpolate(found.mask_logits(index), grid, mode="bilinear", align_corners=False)
        inside = masks.flatten(2) > 0
        inside[0, 1] = True
        assert torch.equal(allowed[:, 0, :, 6:], inside)
        assert 0 < inside[1].float().mean() < 1


def test_masks_that_are_all_open_are_none():
    made = decoder()
    everything = MaskDraws(torch.ones(3, 2, 5, dtype=torch.bool), torch.tensor(1.0))
    with torch.no_grad():
        free = made(tokens(), (4, 6), None, True, draws=None)
        opened = made(tokens(), (4, 6), None, True, draws=everything)
        held = made(tokens(), (4, 6), None, True, draws=MaskDraws(~everything.opened, torch.tensor(1.0)))
    torch.testing.assert_close(opened.class_logits, free.class_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(opened.mask_logits(), free.mask_logits(), rtol=1e-5, atol=1e-4)
    assert (held.class_logits[0] == free.class_logits[0]).all()
    assert (held.class_logits[-1] - free.class_logits[-1]).abs().max() > 1e-3


def test_the_last_round_alone_is_the_last_of_all():
    made = decoder().eval()
    with torch.no_grad():
        every, last = made(tokens(), (4, 6), None, True), made(tokens(), (4, 6), None, False)
    assert (len(every.class_logits), len(last.class_logits)) == (4, 1)
    assert every.by_round
    assert not last.by_round
    torch.testing.assert_close(every.class_logits[-1], last.class_logits[0])
    torch.testing.assert_close(every.mask_logits(-1), last.mask_logits(-1))


def test_rows_with_and_without_masks_are_one_attention():
    torch.manual_seed(0)
    attention, features = SelfAttention(16, 2), torch.randn(2, 9, 16)
    allowed = torch.rand(2, 1, 3, 9) > 0.5
    allowed[..., 0] = True
    tables = torch.randn(9, 16)
    whole = torch.cat([allowed, torch.ones(2, 1, 6, 9, dtype=torch.bool)], dim=2)
    query, key, value = (
        layer(features).view(2, 9, 2, 8).transpose(1, 2)
        for layer in (attention.query, attention.key, attention.value)
    )
    scores = rotated(query, tables) @ rotated(key, tables).transpose(-1, -2) / 8**0.5
    mixed = scores.masked_fill(~whole, float("-inf")).softmax(-1) @ value
    expected = attention.out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(features, tables, allowed), expected, rtol=1e-5, atol=1e-6)


# --- positions and sizes -----------------------------------------------------------------------------------


def test_what_is_no_patch_is_not_turned():
    turns = decoder()._turns((4, 6), 30, None, None)
    features = torch.randn(1, 2, 30, 16)
    turned = rotated(features, turns)
    assert torch.equal(turned[:, :, :6], features[:, :, :6])
    torch.testing.assert_close(turned.norm(dim=-1), features.norm(dim=-1))
    assert (turned[:, :, 6:] - features[:, :, 6:]).abs().amax((1, 3)).min() > 1e-3


def test_dinov3_has_the_decoders_own_tables():
    from reincli.model.timm_import import import_timm

    with torch.no_grad():
        rope = import_timm().layers.RotaryEmbeddingDinoV3(64)
        theirs = rope.get_embed(shape=[4, 6])
    ours = rotary_tables((4, 6), 64, None, torch.device("cpu"))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_stretched_coordinates_are_larger_ones():
    plain = rotary_tables((1, 4), 16, None, torch.device("cpu"))
    stretched = rotary_tables((1, 4), 16, torch.tensor(0.5), torch.device("cpu"))
    angles, half = (torch.atan2(each[:, 4], each[:, 20]) for each in (plain, stretched))
    assert not torch.allclose(angles, half)
    # the centres of four in [-1, 1] are -.75 to .75; half of them turn by half the angle
    torch.testing.assert_close(half[2:], 2 * torch.pi * torch.tensor([0.25, 0.75]) / 2)


@pytest.mark.parametrize(("patch", "stride"), [(8, 4), (14, 7), (16, 4), (32, 4)])
def test_the_stride_of_the_masks(patch, stride):
    with torch.no_grad():
        found = decoder(patch_size=patch)(tokens(), (4, 6), None, False)
    assert found.mask_logits().shape == (2, 5, 4 * patch // stride, 6 * patch // stride)


def test_a_narrower_decoder_projects_what_it_reads():
    narrow, wide = decoder(channels=16), decoder()
    assert narrow.laterals[0].project.weight.shape == (16, 32)
    assert wide.laterals[0].project is None
    with torch.no_grad():
        found = narrow(tokens(), (4, 6), None, False)
    assert found.mask_features.shape[1] == narrow.norm.weight.shape[0] == 16
    sizes = [sum(each.numel() for each in made.parameters()) for made in (narrow, wide)]
    assert sizes[0] < sizes[1] / 2


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ReinError, match="width 36 does not divide into 2 heads") as caught:
        decoder(channels=36)
    assert caught.value.usage


def test_initialisation_statistics(oracle):
    """Mean, spread and range of every tensor after construction, against the original's."""
    stored = json.loads((oracle / "more" / "ext" / "pmd_init_stats.json").read_text())["values"]
    torch.manual_seed(0)
    made = PlainDecoder(19, 384, taps=4, patch_size=16, queries=100, layers=6, ffn=1024)
    compared = 0
    for name, values in made.named_parameters():
        (full,) = to_original({f"plain_decoder.{name}": torch.zeros(())}, LAYOUTS["dinov2"])
        facts = stored.get(full.removeprefix("network.decoder."))
        if facts is None:
            assert full.startswith("network.bn.")
            continue
        compared += 1
        error = 6 * facts["std"] / values.numel() ** 0.5 + 1e-7
        assert abs(values.mean().item() - facts["mean"]) < 2 * error, name
        assert values.std().item() == pytest.approx(
            facts["std"], rel=12 / values.numel() ** 0.5 + 1e-3, abs=1e-7
        ), name
        if facts["max"] <= 2 * facts["std"]:
            assert values.max().item() == pytest.approx(facts["max"], rel=0.1, abs=1e-7), name
    assert compared == len(stored)


# --- losses ------------------------------------------------------------------------------------------------


def test_losses_of_rounds_with_features_of_their_own():
    """Features repeated for each round give the losses and gradients of shared ones; others give others."""
    torch.manual_seed(0)
    rounds, batch, width = 3, 2, 8
    classes, embeddings = torch.randn(rounds, batch, 9, 7), torch.randn(rounds, batch, 9, width)
    features = torch.randn(batch, width, 16, 24)
    labels = torch.randint(0, 6, (batch, 8, 12), dtype=torch.uint8).repeat_interleave(4, 1)
    wanted = targets_of(labels.repeat_interleave(4, 2), 6)

    def losses(maps: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        maps = maps.clone().requires_grad_()
        given = Predictions(classes, embeddings, maps)
        found, _ = mask2former_loss(given, wanted, uniform_points(torch.device("cpu"), 3), count=64)
        torch.stack(list(found.values())).sum().backward()
        return found, maps.grad

    shared, gradient = losses(features)
    own, gradients = losses(features.expand(rounds, -1, -1, -1, -1))
    assert shared.keys() == own.keys()
    for name, value in shared.items():
        torch.testing.assert_close(own[name], value, msg=name)
    torch.testing.assert_close(gradients.sum(0), gradient, rtol=1e-4, atol=1e-6)
    several = torch.stack([features, -features, features])
    others, _ = losses(several)
    assert others["d1.loss_mask"] != shared["d1.loss_mask"]
    torch.testing.assert_close(others["d0.loss_mask"], shared["d0.loss_mask"])
    torch.testing.assert_close(others["loss_dice"], shared["loss_dice"])


def test_matching_reads_the_features_of_each_round(monkeypatch):
    torch.manual_seed(0)
    labels = torch.zeros(1, 32, 48, dtype=torch.uint8)
    labels[:, :, 24:] = 1
    wanted = targets_of(labels, 2)
    left = torch.full((1, 1, 1, 8, 12), -9.0)
    left[..., :6] = 9.0
    several = torch.cat([left, -left])  # round 0 shows the left half, round 1 the right
    given = Predictions(
        torch.zeros(2, 1, 2, 3), torch.tensor([1.0, -1.0]).view(1, 1, 2, 1).expand(2, -1, -1, -1), several
    )
    _, matches = mask2former_loss(given, wanted, uniform_points(torch.device("cpu"), 0), count=64)
    found = [dict(zip(*map(list, round_[0]), strict=True)) for round_ in matches]
    assert found == [{0: 0, 1: 1}, {0: 1, 1: 0}]


# --- backbones ---------------------------------------------------------------------------------------------


def test_quarters():
    assert quarters(24) == (5, 11, 17, 23)
    assert quarters(12) == (2, 5, 8, 11)
    assert quarters(6) == (1, 2, 4, 5)
    assert model().backbone.taps == (0, 1, 2, 3)
    assert model("model.backbone.taps=[0,0,2,3]").backbone.taps == (0, 0, 2, 3)


@pytest.mark.parametrize("tune", ["rein", "frozen", "full"])
def test_tokens_are_the_blocks_outputs_after_the_final_norm(tune):
    made = model(f"model.tune={tune}").eval()
    backbone = made.backbone
    with torch.no_grad():
        for part in ("weight", "bias"):
            getattr(backbone.body.norm, part).uniform_(0.5, 1.5)
        images = torch.randn(2, 3, 64, 32)
        maps = backbone(images, made.rein)
        found = backbone.tokens(images, made.rein)
        streamed = backbone.tokens(images, made.fold()) if made.rein is not None else found
    with torch.enable_grad():
        kept = backbone.tokens(images.clone().requires_grad_(), made.rein)
    for each, plain, fast, tracked in zip(maps, found, streamed, kept, strict=True):
        expected = F.layer_norm(
            each.flatten(2).transpose(1, 2), (32,), backbone.body.norm.weight, backbone.body.norm.bias, 1e-6
        )
        assert plain.shape == (2, 1 + 8, 32)
        torch.testing.assert_close(plain[:, 1:], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tracked, plain, rtol=1e-4, atol=1e-5)


TRANSFORMERS = [
    "dinov2_s", "dinov3_s", "vit_small_patch16_dinov3", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_512",
    "vit_tiny_patch16_224", "sam_h", "eva02_l", "clip_l",
]  # fmt: skip


@pytest.mark.parametrize("tune", ["rein", "frozen"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_plain_transformer_is_taken(name, tune):
    """At full size without numbers: shapes, and a gradient for everything that trains."""
    sizes = {"backbone": {"name": name}, "head": {"kind": "plain", "plain": {"layers": 2}}, "tune": tune}
    with torch.device("meta"):
        made = Segmentor(ModelSettings.model_validate(sizes), 19, 16).train()
        found = made(torch.zeros(2, 3, 192, 256), every_round=True)
        everything = found.class_logits.sum() + found.mask_embeddings.sum() + found.mask_features.sum()
        everything.backward()
    assert found.class_logits.shape == (3, 2, 100, 20)
    assert found.mask_features.shape == (3, 2, made.backbone.width, 48, 64)
    missing = [n for n, parameter, _ in made.decays() if parameter.grad is None]
    assert not missing
    assert (made.plain_decoder.queries is None) == (tune == "rein")
    assert not any(parameter.grad is not None for parameter in made.backbone.parameters())


@pytest.mark.parametrize(
    "name", ["resnet50", "convnext_l", "swin_tiny_patch4_window7_224", "efficientnet_b0"]
)
def test_other_backbones_are_refused_with_a_sentence(name):
    settings = ModelSettings.model_validate({"backbone": {"name": name}, "head": {"kind": "plain"}})
    with (
        torch.device("meta"),
        pytest.raises(ReinError, match=f"tokens of a plain transformer, and '{name}'") as caught,
    ):
        Segmentor(settings, 19, 16)
    assert caught.value.usage
    assert "mask2former" in caught.value.hint


def test_dinov3_brings_its_norm_and_its_tables(tmp_path, monkeypatch):
    """As published and as timm saves it; without the plain head the norm is left alone, as before."""
    from reincli.model.timm_import import import_timm

    def settings(kind: str) -> ModelSettings:
        return ModelSettings.model_validate({"backbone": {"name": "dinov3_s"}, "head": {"kind": kind}})

    torch.manual_seed(0)
    body = import_timm().create_model("vit_small_patch16_dinov3_qkvb", pretrained=False, num_classes=0)
    with torch.no_grad():
        body.norm.weight.uniform_(0.5, 1.5)
    state = dict(body.state_dict())
    write_file(tmp_path / "timm.pth", state)
    made = Segmentor(settings("plain"), 3, 4)
    load_backbone(made, tmp_path / "timm.pth")
    assert torch.equal(made.backbone.body.norm.weight, body.norm.weight)
    published = made.backbone.layout.to_original(dict(made.backbone.state_dict()))
    assert "norm.weight" in published
    write_file(tmp_path / "published.pth", published)
    again = Segmentor(settings("plain"), 3, 4)
    load_backbone(again, tmp_path / "published.pth")
    assert torch.equal(again.backbone.body.norm.weight, body.norm.weight)
    other = Segmentor(settings("mask2former"), 3, 4)
    load_backbone(other, tmp_path / "published.pth")
    assert not list(other.backbone.body.norm.parameters())
    del published["norm.weight"]
    write_file(tmp_path / "cut.pth", published)
    with pytest.raises(ReinError, match=r"1 missing: body.norm.weight"):
        load_backbone(again, tmp_path / "cut.pth")

    seen = []
    plain = PlainDecoder._turns
    monkeypatch.setattr(
        PlainDecoder, "_turns", lambda self, *given: seen.append(given[2]) or plain(self, *given)
    )
    with torch.no_grad():
        made.eval()(torch.zeros(1, 3, 64, 64))
    assert seen[0].shape == (16, 128)


# --- the model ---------------------------------------------------------------------------------------------


def test_adapters_give_the_queries_where_they_are_linked():
    linked, own = model(), model("model.adapter.link_features=false")
    assert linked.plain_decoder.queries is None
    assert linked.rein.to_query.weight.shape == (32, 32)
    assert own.plain_decoder.queries.shape == (12, 32)
    assert own.rein.to_query is None
    assert own.fold().link is None
    narrow = model("model.head.plain.channels=16")
    assert narrow.rein.queries().shape == (12, 16)
    images = torch.randn(1, 3, 64, 64)
    for made in (linked, own, narrow):
        made.eval()
        with torch.no_grad():
            plain = made(images)
            folded = made(images, made.fold())
        torch.testing.assert_close(plain.class_logits, folded.class_logits, rtol=1e-3, atol=1e-4)


def test_only_what_is_declared_trains_and_everything_in_the_decoder_decays():
    made = model().train()
    assert not any(module.training for module in made.backbone.modules())
    assert all(module.training for module in made.plain_decoder.modules())
    trained = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert trained <= set(made.trained_state())
    assert trained == {name for name, _, _ in made.decays()}
    decays = {name: each for name, _, each in made.decays()}
    assert all(each for name, each in decays.items() if name.startswith("plain_decoder."))
    assert not decays["rein.tokens_a"]
    assert not any(name.startswith(("pixel_decoder.", "mask_decoder.")) for name in trained)


@pytest.mark.parametrize("sets", [(), ("model.tune=frozen", "model.head.plain.channels=16")])
def test_a_head_is_recognised_by_its_tensors(sets):
    made = model(*sets)
    facts = weights.recognise_head(made.trained_state(), "x.pth")
    assert (facts.kind, facts.widths, facts.decoder_layers) == ("plain", (32,) * 4, 6)
    assert (facts.tune, facts.tokens, facts.channels) == (("frozen", 12, 16) if sets else ("rein", 12, 32))
    assert facts.link_features == (not sets)
    assert facts.classes == made.classes
    renamed = to_original(made.trained_state(), made.backbone.layout)
    assert all(name.startswith(("network.", "backbone.reins.")) for name in renamed)
    back = weights.from_original({**renamed, "network.decoder.attn_mask_probs": torch.zeros(6)})
    assert back.keys() == made.trained_state().keys()
