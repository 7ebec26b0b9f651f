"""Foundation models in every form in which they are published: generated tensors of the published names and shapes.

Each form is written from its definition here, read, and must give exactly the tensors that the publisher's own file
of the same numbers gives; at the published sizes names and shapes alone are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reincli.config import BackboneSettings
from reincli.errors import ReinError
from reincli.model import foundation
from reincli.model.backbones import build_backbone
from reincli.model.families import FAMILIES
from reincli.model.layouts import LAYOUTS

State = dict[str, Tensor]
Make = Callable[..., Tensor]


def linear(state: State, name: str, out: int, into: int, make: Make, bias: bool = True) -> None:
    state[f"{name}.weight"] = make(out, into)
    if bias:
        state[f"{name}.bias"] = make(out)


def norms(state: State, make: Make, width: int, *names: str) -> None:
    for name in names:
        state[f"{name}.weight"], state[f"{name}.bias"] = make(width), make(width)


def dinov2(make: Make, width: int, depth: int, registers: int = 0) -> State:
    state = {
        "embeddings.cls_token": make(1, 1, width), "embeddings.mask_token": make(1, width),
        "embeddings.position_embeddings": make(1, 1370, width),
        "embeddings.patch_embeddings.projection.weight": make(width, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": make(width),
    }  # fmt: skip
    if registers:
        state["embeddings.register_tokens"] = make(1, registers, width)
    norms(state, make, width, "layernorm")
    for n in range(depth):
        block = f"encoder.layer.{n}."
        norms(state, make, width, block + "norm1", block + "norm2")
        for part in ("query", "key", "value"):
            linear(state, f"{block}attention.attention.{part}", width, width, make)
        linear(state, f"{block}attention.output.dense", width, width, make)
        linear(state, f"{block}mlp.fc1", 4 * width, width, make)
        linear(state, f"{block}mlp.fc2", width, 4 * width, make)
        state |= {f"{block}layer_scale{i}.lambda1": make(width) for i in (1, 2)}
    return state


def dinov3(make: Make, width: int, depth: int) -> State:
    state = {
        "embeddings.cls_token": make(1, 1, width), "embeddings.mask_token": make(1, 1, width),
        "embeddings.register_tokens": make(1, 4, width),
        "embeddings.patch_embeddings.weight": make(width, 3, 16, 16),
        "embeddings.patch_embeddings.bias": make(width),
    }  # fmt: skip
    norms(state, make, width, "norm")
    for n in range(depth):
        block = f"layer.{n}."
        norms(state, make, width, block + "norm1", block + "norm2")
        for part in "qkvo":
            linear(state, f"{block}attention.{part}_proj", width, width, make, bias=part != "k")
        linear(state, f"{block}mlp.up_proj", 4 * width, width, make)
        linear(state, f"{block}mlp.down_proj", width, 4 * width, make)
        state |= {f"{block}layer_scale{i}.lambda1": make(width) for i in (1, 2)}
    return state


def clip(make: Make, width: int, depth: int) -> State:
    state = {
        "logit_scale": make(), "text_model.embeddings.token_embedding.weight": make(10, 8),
        "visual_projection.weight": make(8, width),
        "vision_model.embeddings.class_embedding": make(width),
        "vision_model.embeddings.patch_embedding.weight": make(width, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": make(257, width),
    }  # fmt: skip
    norms(state, make, width, "vision_model.pre_layrnorm", "vision_model.post_layernorm")
    for n in range(depth):
        block = f"vision_model.encoder.layers.{n}."
        norms(state, make, width, block + "layer_norm1", block + "layer_norm2")
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(state, f"{block}self_attn.{part}", width, width, make)
        linear(state, f"{block}mlp.fc1", 4 * width, width, make)
        linear(state, f"{block}mlp.fc2", width, 4 * width, make)
    return state


def sam(make: Make, width: int, depth: int, heads: int = 16) -> State:
    front = "vision_encoder."
    state = {
        f"{front}pos_embed": make(1, 64, 64, width),
        f"{front}patch_embed.projection.weight": make(width, 3, 16, 16),
        f"{front}patch_embed.projection.bias": make(width),
        f"{front}neck.conv1.weight": make(256, width, 1, 1), "mask_decoder.iou_token.weight": make(1, 256),
    }  # fmt: skip
    for n in range(depth):
        block = f"{front}layers.{n}."
        norms(state, make, width, block + "layer_norm1", block + "layer_norm2")
        linear(state, f"{block}attn.qkv", 3 * width, width, make)
        linear(state, f"{block}attn.proj", width, width, make)
        window = 127 if n in (7, 15, 23, 31) else 27
        state |= {f"{block}attn.rel_pos_{axis}": make(window, width // heads) for axis in "hw"}
        linear(state, f"{block}mlp.lin1", 4 * width, width, make)
        linear(state, f"{block}mlp.lin2", width, 4 * width, make)
    return state


def convnext(make: Make, widths: tuple[int, ...], depths: tuple[int, ...]) -> State:
    state = {
        "convnext.embeddings.patch_embeddings.weight": make(widths[0], 3, 4, 4),
        "convnext.embeddings.patch_embeddings.bias": make(widths[0]),
        "classifier.weight": make(1000, widths[3]), "classifier.bias": make(1000),
    }  # fmt: skip
    norms(state, make, widths[0], "convnext.embeddings.layernorm")
    norms(state, make, widths[3], "convnext.layernorm")
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        front = f"convnext.encoder.stages.{stage}."
        if stage:
            norms(state, make, widths[stage - 1], f"{front}downsampling_layer.0")
            state[f"{front}downsampling_layer.1.weight"] = make(width, widths[stage - 1], 2, 2)
            state[f"{front}downsampling_layer.1.bias"] = make(width)
        for n in range(depth):
            block = f"{front}layers.{n}."
            state[f"{block}layer_scale_parameter"] = make(width)
            state[f"{block}dwconv.weight"], state[f"{block}dwconv.bias"] = make(width, 1, 7, 7), make(width)
            norms(state, make, width, f"{block}layernorm")
            linear(state, f"{block}pwconv1", 4 * width, width, make)
            linear(state, f"{block}pwconv2", width, 4 * width, make)
    return state


def on_meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def random(*shape: int) -> Tensor:
    return torch.randn(shape)


PUBLISHED = {
    "dinov2_s": dinov2(on_meta, 384, 12), "dinov2_b": dinov2(on_meta, 768, 12),
    "dinov2_l": dinov2(on_meta, 1024, 24), "dinov3_s": dinov3(on_meta, 384, 12),
    "dinov3_b": dinov3(on_meta, 768, 12), "dinov3_l": dinov3(on_meta, 1024, 24),
    "clip_l": clip(on_meta, 1024, 24), "sam_h": sam(on_meta, 1280, 32),
    "convnext_l": convnext(on_meta, (192, 384, 768, 1536), (3, 3, 27, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(PUBLISHED))
@pytest.mark.parametrize("prefix", ["", "model.", "module._orig_mod.model."])
def test_the_published_sizes_of_hugging_face_fit_the_model(name, prefix):
    given = {prefix + key: value for key, value in PUBLISHED[name].items()}
    state, facts = foundation.recognise_backbone(
        foundation.plain_backbone(foundation.unwrap(given)), "model.safetensors"
    )
    assert facts.name == name
    with torch.device("meta"):
        backbone = build_backbone(BackboneSettings(name=name), 32)
    fitted = foundation.convert_backbone(state, facts, (32, 32), 16)
    ours = {key: value.shape for key, value in backbone.layout.to_ours(fitted).items()}
    assert ours == {key: value.shape for key, value in backbone.state_dict().items()}


def test_queries_keys_and_values_are_joined_in_their_order():
    torch.manual_seed(0)
    given = dinov2(random, 8, 2)
    state = foundation.plain_backbone(given)
    block = "encoder.layer.1.attention.attention."
    for part in ("weight", "bias"):
        expected = torch.cat([given[f"{block}{each}.{part}"] for each in ("query", "key", "value")])
        assert torch.equal(state[f"blocks.1.attn.qkv.{part}"], expected)
    assert torch.equal(state["blocks.1.ls2.gamma"], given["encoder.layer.1.layer_scale2.lambda1"])
    third = foundation.plain_backbone(dinov3(random, 8, 2))
    assert third["blocks.0.attn.qkv.bias"].shape == (24,)
    assert third["blocks.0.attn.qkv.bias"][8:16].abs().max() == 0  # keys have no bias there
    tower = foundation.plain_backbone(clip(random, 8, 2))
    assert tower["transformer.resblocks.1.attn.in_proj_weight"].shape == (24, 8)


def small_raw(depth: int = 4) -> State:
    """DINOv2's own names, small."""
    torch.manual_seed(0)
    return foundation.plain_backbone(dinov2(random, 8, depth))


def chunked(state: State, size: int = 2, anew: bool = False) -> State:
    def name(key: str) -> str:
        if not key.startswith("blocks."):
            return key
        _, number, rest = key.split(".", 2)
        return f"blocks.{int(number) // size}.{int(number) % size if anew else number}.{rest}"

    return {name(key): value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw: raw,
        lambda raw: {f"module.{key}": value for key, value in raw.items()},
        lambda raw: {f"_orig_mod.module.{key}": value for key, value in raw.items()},
        lambda raw: {"model": {f"student.{key}": value for key, value in raw.items()}},
        lambda raw: {"state_dict": {f"teacher.backbone.{key}": value for key, value in raw.items()}, "epoch": 3},
        lambda raw: {
            "teacher": {
                **{f"backbone.{key}": value for key, value in raw.items()},
                "dino_head.mlp.0.weight": torch.ones(2, 2),
            }
        },
        lambda raw: {
            "model": {
                **{f"student.backbone.{key}": value + 1 for key, value in raw.items()},
                **{f"teacher.backbone.{key}": value for key, value in raw.items()},
                "teacher.dino_head.last_layer.weight": torch.ones(2, 2), "dino_loss.center": torch.ones(1, 2),
            },
            "iteration": torch.tensor(7),
        },
        lambda raw: {"epoch": torch.tensor(1), "net": {"state_dict": raw}},
        lambda raw: {
            key.replace("blocks.", "blocks._fsdp_wrapped_module."): value for key, value in raw.items()
        },
        chunked,
        lambda raw: chunked(raw, anew=True),
        lambda raw: {"teacher": {f"backbone.{key}": value for key, value in chunked(raw).items()}},
    ],
)  # fmt: skip
def test_whatever_lies_around_a_backbone_is_taken_off(wrap):
    expected = small_raw()
    state = foundation.plain_backbone(foundation.unwrap(wrap(expected)))
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert foundation.recognise_backbone(state, "x.pth")[1].depth == 4


@pytest.mark.parametrize(
    ("average", "averaged"),
    [
        ("model_ema", "model"),
        ("state_dict_ema", "state_dict"),
        ("ema", "model"),
        ("state_dict", "ema_state_dict"),
    ],
)
def test_of_two_copies_the_average_is_taken(average, averaged):
    """The last ones are MMEngine's, which keeps the average in the usual place."""
    raw = small_raw()
    moved = {key: value + 1 for key, value in raw.items()}
    for content in ({average: raw, averaged: moved}, {averaged: moved, average: raw}):
        found = foundation.plain_backbone(foundation.unwrap(content))
        assert torch.equal(found["blocks.0.attn.qkv.weight"], raw["blocks.0.attn.qkv.weight"])
        told = foundation.average_taken(content)
        assert told is None if average == "state_dict" else f"'{average}' beside '{averaged}'" in str(told)


@pytest.mark.parametrize(
    "average", [{}, {"decay": torch.ones(())}, {"shadow": [torch.ones(2)]}, None, "half"]
)
def test_what_is_no_whole_average_is_passed_by(average):
    raw = small_raw()
    half = dict(list(raw.items())[: len(raw) // 2])
    content = {"model": raw, "model_ema": half if average == "half" else average}
    assert foundation.unwrap(content).keys() == raw.keys()
    assert foundation.average_taken(content) is None


def test_two_copies_of_which_none_is_preferred_are_an_error():
    raw = small_raw()
    both = {f"{front}.{name}": value for front in ("left", "right") for name, value in raw.items()}
    with pytest.raises(ReinError, match=r"2 networks of one form, under left\., right\."):
        foundation.plain_backbone(foundation.unwrap(both))


@pytest.mark.parametrize(("width", "size"), [(384, "small"), (768, "base"), (1024, "large")])
def test_dinov2_with_registers_is_named(width, size):
    state = foundation.plain_backbone(dinov2(on_meta, width, 1, registers=4))
    with pytest.raises(ReinError, match="DINOv2 with registers") as caught:
        foundation.recognise_backbone(state, "reg.pth")
    assert f"model.backbone.name=vit_{size}_patch14_reg4_dinov2 --backbone reg.pth" in caught.value.hint


def resnet(make: Make, stages: tuple[int, ...]) -> State:
    """microsoft/resnet-50 and its like."""
    state: State = {}

    def unit(name: str, out: int, into: int, kernel: int) -> None:
        state[f"{name}.convolution.weight"] = make(out, into, kernel, kernel)
        norms(state, make, out, f"{name}.normalization")
        state.update({f"{name}.normalization.running_{part}": make(out) for part in ("mean", "var")})
        state[f"{name}.normalization.num_batches_tracked"] = make()

    state["classifier.1.weight"], state["classifier.1.bias"] = make(1000, 2048), make(1000)
    unit("resnet.embedder.embedder", 64, 3, 7)
    into = 64
    for stage, depth in enumerate(stages):
        inner, out = 64 * 2**stage, 256 * 2**stage
        for n in range(depth):
            front = f"resnet.encoder.stages.{stage}.layers.{n}."
            unit(f"{front}layer.0", inner, into, 1)
            unit(f"{front}layer.1", inner, inner, 3)
            unit(f"{front}layer.2", out, inner, 1)
            if n == 0:
                unit(f"{front}shortcut", out, into, 1)
            into = out
    return state


def test_a_resnet_of_hugging_face_is_timms_and_is_named():
    from reincli.model.timm_import import import_timm

    state = foundation.plain_backbone(resnet(on_meta, (3, 4, 6, 3)))
    with pytest.raises(ReinError, match="one convolution in its stem") as caught:
        foundation.recognise_backbone(state, "r.bin")
    assert "model.backbone.name=resnet50 " in caught.value.hint
    with torch.device("meta"):
        wanted = import_timm().create_model("resnet50", num_classes=0).state_dict()
    assert {name: value.shape for name, value in wanted.items()} == {
        name: value.shape for name, value in state.items()
    }


def test_every_family_with_a_file_of_hugging_face_is_here():
    """EVA02 is published there in timm's names (`test_weights`); ResNet v1c too."""
    kinds = {FAMILIES[name].kind for name in PUBLISHED}
    assert kinds | {"eva02", "resnet", "timm"} == set(LAYOUTS)


def smooth(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    waves = [torch.sin(rows * k + columns * m) for k in range(1, 4) for m in range(1, 4)]
    return torch.stack(waves, -1).flatten(0, 1)


@pytest.mark.parametrize("grid", [(24, 40), (40, 24), (32, 64), (64, 32), (30, 53), (37, 37)])
def test_the_shape_of_stored_positions_is_read_from_them(grid):
    cells = smooth(*grid)
    assert foundation.grid_of(len(cells), "x.pth", None, cells) == grid


def test_positions_that_show_no_shape_are_an_error():
    torch.manual_seed(0)
    with pytest.raises(ReinError, match="do not show its shape"):
        foundation.grid_of(960, "x.pth", None, torch.randn(960, 16))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"ema": {"decay": 0.99, "shadow": state}, "step": 3},
        lambda state: [state, {"lr": 1.0}],
        lambda state: {"shadow": state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
    ],
)
def test_the_one_network_of_a_file_is_found_under_any_key(wrap):
    state = {"blocks.0.weight": torch.ones(2), "blocks.1.weight": torch.ones(3), "cls_token": torch.zeros(1)}
    assert set(foundation.unwrap(wrap(state))) == set(state)


def test_of_several_networks_under_unusual_keys_none_is_guessed():
    state = {"a.weight": torch.ones(2)}
    with pytest.raises(ReinError, match=r"'x\.pth' holds 2 tables of tensors, under first, last"):
        foundation.unwrap({"first": state, "last": state}, "x.pth")
    with pytest.raises(ReinError, match=r"'x\.pth' holds no table of tensors"):
        foundation.unwrap({"optimizer": {"lr": 1.0}}, "x.pth")


def test_quantised_weights_are_refused():
    state = foundation.plain_backbone(dinov2(torch.zeros, 192, 6))
    with pytest.raises(ReinError, match="int8: they were quantised"):
        foundation.recognise_backbone({name: value.to(torch.int8) for name, value in state.items()}, "x.pth")
