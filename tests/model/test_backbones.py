"""Backbones of all families: one form, the same numbers as timm's own pass, whatever the input's shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reincli.config import BackboneSettings, ModelSettings
from reincli.engine.backbone_files import load_backbone
from reincli.engine.checkpoint import build_model
from reincli.engine.weight_files import write_file
from reincli.errors import ReinError
from reincli.model.anatomy import find_stages
from reincli.model.backbones import build_backbone
from reincli.model.families import FAMILIES, Family
from reincli.model.hierarchical import Hierarchical
from reincli.model.necks import MultiLevelNeck, ScaleBranches
from reincli.model.segmentor import Segmentor
from reincli.model.timm_import import import_timm
from reincli.model.vit import VIEWS, ViT, strip
from reincli.settings_files import build_settings

timm = import_timm()
HEAD = {
    "channels": 32,
    "heads": 4,
    "points": 2,
    "pixel_layers": 1,
    "pixel_ffn": 32,
    "decoder_layers": 3,
    "decoder_ffn": 32,
}
SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 0}


def small_vit(name: str, kind: str, side: int = 64, **options) -> ViT:
    """A model of timm's at a size for tests, as our backbone; 16x16 patches."""
    torch.manual_seed(0)
    body = timm.create_model(name, img_size=side, patch_size=16, **{**SMALL, **options})
    for (
        parameter
    ) in body.parameters():  # biases, gains and class tokens that start at zero would hide mistakes
        nn.init.normal_(parameter, std=0.1)
    strip(body)
    family = Family(kind, name, (32,) * 4, (4,), 2, (0, 1, 2, 3))
    return VIEWS.get(kind, ViT)(BackboneSettings(name=name), family, body, (side // 16, side // 16)).eval()


PLAIN = {
    "vit_small_patch14_reg4_dinov2": {},
    "vit_small_patch16_dinov3": {},
    "vit_base_patch16_siglip_224": {},
    "vit_base_patch16_224.mae": {},
    "deit3_small_patch16_224": {},
    "vit_small_patch14_dinov2": {},
    "eva02_tiny_patch14_224": {"dynamic_img_size": True},
    "aimv2_large_patch14_224": {"mlp_ratio": 2},
    "vit_small_patch16_rope_mixed_224": {"dynamic_img_size": True},
    "vit_pe_core_base_patch16_224": {"dynamic_img_size": True},
}
"""Plain transformers: with class token, with registers, with neither; positions learnt, rotary, both."""


@pytest.mark.parametrize("name", list(PLAIN))
def test_a_plain_transformer_gives_what_timm_gives(name):
    """At the training size nothing is resampled, so timm's own pass is the judge."""
    backbone = small_vit(name, "timm", **PLAIN[name])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = backbone(images)
        theirs = backbone.body.forward_intermediates(images, intermediates_only=True)
    for each, expected in zip(ours, theirs, strict=True):
        assert each.shape == (2, 32, 4, 4)
        torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(PLAIN))
def test_a_plain_transformer_takes_other_shapes_and_refines_patches_alone(name):
    backbone = small_vit(name, "timm", **PLAIN[name])
    seen = []

    def refine(features, block, prefix):
        seen.append((block, prefix, features.shape[1]))
        return features + 1

    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 32, 96), refine)
    assert [tuple(each.shape) for each in maps] == [(1, 32, 2, 6)] * 4
    prefix = backbone.body.num_prefix_tokens
    assert seen == [(block, prefix, prefix + 12) for block in range(4)]


def test_clip_counts_its_class_embedding_twice():
    backbone = small_vit("vit_base_patch16_clip_quickgelu_224", "clip")
    plain = small_vit("vit_base_patch16_clip_quickgelu_224", "timm")
    plain.load_state_dict(backbone.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(backbone(images)[0], plain(images)[0])
        plain.body.pos_embed[:, 0] += plain.body.cls_token[0]
        torch.testing.assert_close(backbone(images)[3], plain(images)[3])


def test_sam_gives_what_timm_gives_and_refines_the_blocks_it_names():
    torch.manual_seed(0)
    body = timm.create_model(
        "samvit_base_patch16", img_size=128, embed_dim=32, depth=4, num_heads=2, window_size=3,
        global_attn_indexes=(1, 3), num_classes=0,
    )  # fmt: skip
    for parameter in body.parameters():
        nn.init.normal_(parameter, std=0.1)
    strip(body)
    family = Family("sam", "", (32,) * 4, (4,), 2, (0, 1, 2, 3), (1, 3))
    backbone = VIEWS["sam"](BackboneSettings(name="sam_h"), family, body, (8, 8)).eval()
    assert backbone.banks == (2,)
    seen = []

    def refine(features, block, prefix):
        seen.append((block, prefix))
        return features

    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        ours = backbone(images, refine)
        theirs = body.forward_intermediates(images, intermediates_only=True)
        other = backbone(torch.randn(1, 3, 64, 96))
    assert seen == [(0, 0), (1, 0)]
    for each, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-5)
    assert other[0].shape == (1, 32, 4, 6)


HOOKED = [
    "test_resnet",
    "test_convnext",
    "test_efficientnet",
    "swin_tiny_patch4_window7_224",
    "hiera_tiny_224",
]


@pytest.mark.parametrize("name", HOOKED)
def test_others_run_as_timm_runs_them_and_every_block_is_refined(name):
    small = {"embed_dim": 16} if name.startswith(("swin", "hiera")) else {}
    small |= {"depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)} if name.startswith("swin") else {}
    small |= {"stages": (1, 1, 2, 1), "num_heads": 1} if name.startswith("hiera") else {}
    torch.manual_seed(0)
    body = timm.create_model(name, num_classes=0, **small).eval()
    anatomy = find_stages(body)
    backbone = Hierarchical(BackboneSettings(name=name), "timm", body, anatomy)
    size = body.pretrained_cfg["input_size"][1:]
    images, seen = torch.randn(1, 3, *size), []

    def refine(features, block, prefix):
        assert features.ndim == 3
        seen.append(block)
        return features * 2

    with torch.no_grad():
        plain = backbone(images)
        theirs = body.forward_intermediates(images, intermediates_only=True)[-4:]
        twice = backbone(images, refine)
        again = backbone(images)
    for each, expected, later in zip(plain, theirs, again, strict=True):
        assert torch.equal(each, expected)
        assert torch.equal(each, later)  # the hooks are gone
    assert seen == list(range(sum(backbone.banks)))
    assert [each.shape[1] for each in plain] == list(backbone.widths)
    assert all(not torch.allclose(each, other) for each, other in zip(plain, twice, strict=True))


def test_convnext_norms_what_is_read_and_goes_on_from_before():
    torch.manual_seed(0)
    body = timm.create_model("test_convnext", num_classes=0)
    backbone = Hierarchical(BackboneSettings(name="x"), "convnext", body, find_stages(body)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    for each in maps:
        assert each.mean(1).abs().max() < 1e-5  # each pixel is normed over its channels
    assert [tuple(each.shape[2:]) for each in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize(("stride", "last"), [(None, 8), (8, 8), (32, 32)])
def test_a_resnet_keeps_stride_8_unless_told(stride, last):
    with torch.device("meta"):
        backbone = build_backbone(BackboneSettings(name="resnet50", output_stride=stride), 4)
        maps = backbone(torch.zeros(1, 3, 65, 97))
    assert maps[0].shape[2:] == (17, 25)
    assert maps[3].shape[2:] == (-(-65 // last), -(-97 // last))
    dilations = [block.conv2.dilation[0] for block in backbone.body.layer4]
    assert dilations == ([2, 4, 4] if last == 8 else [1, 1, 1])


FAMILIES_OF_TIMM = [
    "vit_small_patch16_dinov3", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
    pytest.param("vit_small_patch14_reg4_dinov2", marks=pytest.mark.slow),
    pytest.param("convnext_tiny", marks=pytest.mark.slow),
    pytest.param("vit_large_patch16_dinov3", marks=pytest.mark.slow),
    pytest.param("vit_base_patch16_siglip_512", marks=pytest.mark.slow),
    pytest.param("vit_base_patch16_224.mae", marks=pytest.mark.slow),
    pytest.param("hiera_tiny_224", marks=pytest.mark.slow),
    pytest.param("beit_base_patch16_224", marks=pytest.mark.slow),
    pytest.param("efficientnet_b0", marks=pytest.mark.slow),
    pytest.param("pvt_v2_b0", marks=pytest.mark.slow),
    pytest.param("aimv2_large_patch14_224", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES_OF_TIMM)
def test_a_name_of_timm_is_enough_forward_and_backward(name):
    """At full size without numbers: shapes of everything, a loss, a gradient for each tensor of the adapters."""
    with torch.device("meta"):
        settings = ModelSettings.model_validate({"backbone": {"name": name}, "head": {"decoder_layers": 3}})
        model = Segmentor(settings, 19, 16).train()
        fixed = getattr(model.backbone, "fixed", None)
        height, width = fixed or (192, 256)
        predictions = model(torch.zeros(1, 3, height, width), every_round=True)
        predictions.class_logits.sum().backward()
    assert predictions.mask_features.shape[2:] == (height // 4, width // 4)
    missing = [name for name, parameter in model.rein.named_parameters() if parameter.grad is None]
    assert not missing
    assert not any(parameter.grad is not None for parameter in model.backbone.parameters())


@pytest.mark.parametrize(
    "name",
    ["dinov2_s", "sam_h", "dinov3_s",
     *(pytest.param(name, marks=pytest.mark.slow) for name in ("eva02_l", "clip_l", "convnext_l"))],
)  # fmt: skip
def test_every_family_takes_an_input_that_is_not_square(name):
    family = FAMILIES[name]
    with torch.device("meta"):
        backbone = build_backbone(BackboneSettings(name=name), 32)
        maps = backbone(torch.zeros(1, 3, 64, 96))
    assert tuple(each.shape[1] for each in maps) == family.widths == backbone.widths
    assert (backbone.banks, backbone.depth) == (family.banks, family.blocks)
    strides = [64 / (each.shape[2] * zoom) for each, zoom in zip(maps, backbone.zooms, strict=True)]
    assert strides == [4, 8, 16, 32]


# --- between backbone and head, for CLIP -------------------------------------------------------------------


def test_necks_make_a_pyramid_of_equal_maps():
    torch.manual_seed(0)
    maps = [torch.randn(2, 8, 4, 6) for _ in range(4)]
    for neck in (ScaleBranches(8), MultiLevelNeck(8)):
        assert [tuple(each.shape[1:]) for each in neck(maps)] == [
            (8, 16, 24),
            (8, 8, 12),
            (8, 4, 6),
            (8, 2, 3),
        ]
        with torch.autocast("cpu", torch.bfloat16):
            assert all(each.isfinite().all() for each in neck(maps))


def test_scale_branches_count_with_the_batch_while_they_train():
    torch.manual_seed(0)
    neck = ScaleBranches(8).train()
    norm = neck.up4[2]
    neck([torch.randn(2, 8, 4, 4)] * 4)
    assert norm.running_mean.abs().max() > 0
    before = norm.running_mean.clone()
    neck.eval()([torch.randn(2, 8, 4, 4)] * 4)
    assert torch.equal(norm.running_mean, before)


@pytest.mark.slow
@pytest.mark.parametrize(("tune", "kind"), [("rein", ScaleBranches), ("frozen", MultiLevelNeck)])
def test_clip_trains_its_neck_and_nothing_of_itself(tune, kind):
    with torch.device("meta"):
        settings = {"tune": tune, "backbone": {"name": "clip_l"}, "adapter": {"link_features": False}}
        model = Segmentor(ModelSettings.model_validate(settings), 19, 32).train()
    assert isinstance(model.neck, kind)
    assert all(module.training for module in model.neck.modules())
    assert not any(module.training for module in model.backbone.modules())
    assert {name for name, p in model.named_parameters() if p.requires_grad} <= set(model.trained_state())


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dinov2_x", "No backbone is named 'dinov2_x'.*'dinov2_"),
        ("vit_bsae_patch16_224", "Did you mean 'vit_base_patch16_224'"),
        ("quux", "Known here: dinov2_s.*any other name must be a model of timm"),
        ("convnext_tiny.fb_in23k", "no weights 'fb_in23k' of 'convnext_tiny'. Did you mean 'fb_in22k'"),
        ("levit_128s", "no blocks that Rein can be attached to"),
    ],
)
def test_a_name_that_cannot_be_built(name, message):
    with pytest.raises(ReinError, match=message), torch.device("meta"):
        build_backbone(BackboneSettings(name=name), 16)


def test_output_stride_is_for_resnets():
    with pytest.raises(ReinError, match=r"output_stride is for ResNets; 'dinov2_s'"):
        build_backbone(BackboneSettings(name="dinov2_s", output_stride=8), 16)


def test_a_model_of_fixed_size_says_which_size_it_takes():
    body = timm.create_model("test_convnext", num_classes=0)
    backbone = Hierarchical(BackboneSettings(name="x"), "timm", body, find_stages(body), fixed=(64, 64))
    with pytest.raises(ReinError, match=r"'x' takes images of 64x64 .* alone, not 96x64"):
        backbone(torch.zeros(1, 3, 64, 96))


def timm_settings(name: str, crop: int):
    raw = {
        "model": {"backbone": {"name": name}, "head": {"pixel_layers": 1, "decoder_layers": 2}},
        "data": {"augment": {"crop": crop}},
    }
    return build_settings(raw)


def test_timms_own_file_is_resampled_as_the_method_does_it(tmp_path):
    """Patches of 14 and a grid of 37x37 become 16 and the crop's, with a remark."""
    torch.manual_seed(0)
    published = timm.create_model("test_vit3", num_classes=10)  # without registers, whatever patch it has
    write_file(tmp_path / "model.safetensors", published.state_dict())
    model = build_model(timm_settings("test_vit3", 64), 3)
    (note,) = load_backbone(model, tmp_path / "model.safetensors")
    assert "resampled to 4x4" in note
    same = model.backbone.body.blocks[0].attn.qkv.weight
    assert torch.equal(same, published.blocks[0].attn.qkv.weight)


def test_another_models_file_is_refused_with_the_place_of_the_right_one(tmp_path):
    other = timm.create_model("test_vit2", num_classes=10)
    write_file(tmp_path / "other.pth", other.state_dict())
    model = build_model(timm_settings("test_vit3", 64), 3)
    with pytest.raises(ReinError, match=r"does not fit the model.*huggingface.co/timm/test_vit3"):
        load_backbone(model, tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_recomputed_activations_give_the_same_gradients_and_keep_less(name):
    settings = build_settings(
        {"model": {"backbone": {"name": name}, "head": HEAD}, "data": {"augment": {"crop": 64}}}
    )
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build_model(settings, 19).train()
        model.recompute = recompute
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            predictions = model(torch.randn(1, 3, 64, 64))
        (predictions.class_logits.square().mean() + predictions.mask_logits().square().mean()).backward()
        grads = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
        found.append((grads, sum(kept.values())))
    (expected, most), (grads, less) = found
    assert grads.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(grads[key], value, rtol=1e-5, atol=1e-8, msg=key)
    assert less < 0.7 * most
