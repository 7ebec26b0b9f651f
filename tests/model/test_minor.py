"""Minor directions: what is taken out of the weights, and the features with it, against the reference figures."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import reference
import tiny
import torch
import torch.nn.functional as F

from reincli.config import BackboneSettings, MinorSettings, ModelSettings
from reincli.errors import ReinError
from reincli.model.backbones import build_backbone
from reincli.model.criterion import mask2former_loss, targets_of
from reincli.model.minor import WHOLE, MinorDirections
from reincli.model.minor_files import written_for_soma
from reincli.model.segmentor import Segmentor, class_maps
from reincli.model.weights import backbone_to_ours, from_original, to_original
from reincli.ops.low_rank import minor_factors, redundant_columns

BOUND = 1e-5


@pytest.fixture(scope="session")
def figures(oracle) -> Path:
    return oracle / "more" / "ext"


def soma(size: str = "s") -> Segmentor:
    return Segmentor(ModelSettings(tune="soma", backbone=BackboneSettings(name=f"dinov2_{size}")), 19, 32)


def with_generated_weights(form: str = "residual") -> Segmentor:
    """ViT-S and head by the rule; nothing is taken out of the whole weights where they shall stay."""
    return copy.deepcopy(_generated(form))


@functools.cache
def _generated(form: str) -> Segmentor:
    model = soma()
    whole = {name: value for name, value in model.state_dict().items() if not name.startswith("minor.")}
    state = {
        name: reference.weight(name, tuple(value.shape))
        for name, value in to_original(whole, model.backbone.layout).items()
    }
    model.load_state_dict(backbone_to_ours(from_original(state), model.backbone.layout), strict=False)
    if form == "residual":
        model.minor.begin()
    else:
        model.minor.form = form
    return model.eval()


@torch.no_grad()
def set_trained(model: Segmentor) -> None:
    """A, B = 0.02 z and biases + 0.02 z, z by the names of the released files."""
    for layer in model.minor.layers():
        block, way, last = layer.place.path
        names = ("q", "k", "v") if last == "qkv" else (last,)
        for index, name in enumerate(names):
            key = f"backbone.model.blocks.{block}.{way}.{name}"
            for part, value in (("A", layer.main.a), ("B", layer.main.b)):
                draw = reference.normal(f"{key}.lora_{part}.weight", tuple(value[index].shape))
                value[index] = torch.from_numpy(np.float32(0.02) * draw)
            bias = layer.bias.view(len(names), -1)[index]
            bias += torch.from_numpy(np.float32(0.02) * reference.normal(f"{key}.bias", tuple(bias.shape)))


def maps_of(model: Segmentor, size: tuple[int, int], grad: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The four maps as the figures have them, enlarged; and the scores of the classes."""
    with torch.set_grad_enabled(grad):
        images = model.normalise(reference.image(*size, 12345)[None])
        maps = model.backbone(images)
        scores = class_maps(model(images, every_round=True), size)
    zoomed = [
        each if zoom == 1 else F.interpolate(each, scale_factor=zoom, mode="bilinear", align_corners=False)
        for each, zoom in zip(maps, model.backbone.zooms, strict=True)
    ]
    return [each.detach() for each in zoomed], scores.detach()


def thinned(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Every so many rows and columns, to a stored shape."""
    steps = [
        next(step for step in range(1, side + 1) if -(-side // step) == count)
        for side, count in zip(array.shape, shape, strict=True)
    ]
    return array[:: steps[0], :: steps[1]]


# --- what is taken out -------------------------------------------------------------------------------------


def test_product_and_residual_of_every_layer(figures):
    stored, notes = reference.load(figures, "soma_init_dinov2_s")
    model = with_generated_weights()
    layers = {".".join(layer.place.path): layer for layer in model.minor.layers()}
    assert len(notes["layers"]) == 48
    errors: dict[str, float] = {}
    for key, facts in notes["layers"].items():
        block, way, name = key.removeprefix("backbone.model.blocks.").split(".")
        fused = name in "qkv"
        layer = layers[f"{block}.{way}.{'qkv' if fused else name}"]
        index = "qkv".index(name) if fused else 0
        product = (layer.main.b[index] @ layer.main.a[index]).detach()
        weight = layer.place.linear.weight.detach()
        residual = weight.chunk(3)[index] if fused else weight
        assert list(product.shape) == facts["product"]["shape"]
        assert product.double().norm().item() == pytest.approx(facts["product"]["l2"], rel=BOUND)
        assert residual.double().norm().item() == pytest.approx(facts["residual"]["l2"], rel=1e-6)
        for factor, part in ((layer.main.a, "lora_A"), (layer.main.b, "lora_B")):
            assert factor[index].double().norm().item() == pytest.approx(facts[part]["l2"], rel=BOUND)
        sizes = layer.main.b[index].norm(dim=0) * layer.main.a[index].norm(dim=1)
        assert sizes.detach().numpy() == pytest.approx(facts["singular_taken"], rel=2e-4, abs=1e-6)
        for part, value in (("product", product), ("residual", residual)):
            if f"{key}.{part}" in stored:
                theirs = stored[f"{key}.{part}"]
                errors[f"{key}.{part}"] = reference.relative_error(
                    thinned(value.numpy(), theirs.shape), theirs
                )
    for part in ("product", "residual"):
        print(f"largest error of a {part}: {max(v for k, v in errors.items() if part in k):.1e}")
    assert len(errors) == 20
    for key, error in errors.items():
        # products here are exact to float32; those of the figures, of a decomposition in float32, are off by so much
        noise = notes["layers"][key.rpartition(".")[0]]["product_rel_l2_fp32_vs_fp64"]
        assert error < (max(BOUND, 1.2 * noise) if key.endswith("product") else BOUND), (key, error, noise)


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (20, 20)])
def test_taken_out_are_the_last_triplets(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    left, sizes, right = torch.linalg.svd(weight.double(), full_matrices=False)
    a, b = minor_factors(weight, 5)
    product = (left[:, -5:] * sizes[-5:]) @ right[-5:]
    assert torch.allclose((b @ a).double(), product, atol=1e-6)
    assert torch.allclose(a.norm(dim=1).double() ** 2, sizes[-5:], rtol=1e-5)
    assert torch.allclose(b.norm(dim=0).double() ** 2, sizes[-5:], rtol=1e-5)


def test_a_direction_of_size_nought_is_nought():
    a, b = minor_factors(torch.zeros(4, 6), 2)
    assert not a.any()
    assert not b.any()


@pytest.mark.parametrize("shape", ["384x384", "1152x384", "384x1536"])
def test_redundant_columns(figures, shape):
    stored, _ = reference.load(figures, "recycle")
    rows, columns = (int(side) for side in shape.split("x"))
    weight = reference.weight("recycle.test.weight", (rows, columns))
    main, sub = redundant_columns(weight, 32, 4)
    pivots, count = stored[f"{shape}.pivots"], min(rows, columns)
    assert main[0].argmax(1).tolist() == pivots[count - 32 : count].tolist()
    assert sub[0].argmax(1).tolist() == pivots[:4].tolist()
    assert (main[0].sum(), sub[0].sum()) == (32, 4)
    signs = {}
    for name, ours in (("Q_last32", main[1]), ("Q_first4", sub[1])):
        theirs = stored[f"{shape}.{name}"]
        cut = torch.from_numpy(thinned(ours.numpy(), theirs.shape))
        signs[name] = (cut * torch.from_numpy(theirs)).sum(0).sign()  # LAPACK's
        errors = (cut * signs[name] - torch.from_numpy(theirs)).norm(dim=0) / cut.norm(dim=0)
        assert errors.max() < BOUND
    product = (main[1] * signs["Q_last32"]) @ main[0] + (sub[1] * signs["Q_first4"]) @ sub[0]
    residual, theirs = (weight - product / 36).numpy(), stored[f"{shape}.residual"]
    assert reference.relative_error(thinned(residual, theirs.shape), theirs) < BOUND


# --- features ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", [False, True], ids=["stream", "blocks"])
@pytest.mark.parametrize("size", [(256, 256), pytest.param((256, 384), marks=pytest.mark.slow)])
def test_every_map_of_the_figures(figures, size, grad):
    """Frozen, split and not trained, trained beside the residual, and beside the whole weight."""
    name = f"fwd_soma_dinov2_s_512_in{size[0]}x{size[1]}"
    stored, notes = reference.load(figures, name)
    errors: dict[str, float] = {}
    scores = {}
    for kind, form in (("init", "residual"), ("trained", "residual"), ("fullweight", WHOLE)):
        model = with_generated_weights(form)
        if kind != "init":
            set_trained(model)
        for merged in (False, True):
            if merged:
                model.merge_gains()
            maps, scores[kind] = maps_of(model, size, grad)
            for level, each in enumerate(maps):
                key = f"{kind}_feat{level}"
                cut = reference.cut(each.numpy(), notes["tensors"][key]["slice"])
                errors[f"{key} merged {merged}"] = reference.relative_error(cut, stored[key])
    print(f"{name}: largest relative error of maps {max(errors.values()):.1e} of {len(errors)}")
    assert len(errors) == 24
    assert max(errors.values()) < BOUND, errors
    labels = cv2.imread(str(figures / f"{name}_argmax.png"), cv2.IMREAD_UNCHANGED)
    assert (scores["trained"][0].argmax(0).numpy() != labels).mean() <= 1e-4
    assert (scores["fullweight"][0].argmax(0).numpy() != labels).mean() > 1e-3  # they are not to be mixed


@pytest.mark.slow
def test_losses_and_every_gradient_of_a_step(figures, monkeypatch):
    from test_loss_parity import assert_close, assert_same_matches, batch_of

    notes = json.loads((figures / "loss_full_soma_dinov2_s_512_in256x256.json").read_text())
    model = with_generated_weights()
    set_trained(model)
    model.train()
    images, labels, sizes = batch_of(notes)
    targets = targets_of(labels, 19)
    predictions = model(model.normalise(images, sizes))
    losses, matches = mask2former_loss(predictions, targets, reference.points(500_000, len(images), True))
    expected = {key.removeprefix("decode."): value for key, value in notes["losses"].items()}
    assert_close({key: value.item() for key, value in losses.items()}, expected, 1e-4)
    recorded = next(value for key, value in notes.items() if key.startswith("matches"))
    assert_same_matches(recorded, matches, targets)
    torch.stack(list(losses.values())).sum().backward()
    model.minor.form = WHOLE  # so that the gradients alone are written
    with torch.no_grad():
        for each in model.trained():
            each.parameter.copy_(each.parameter.grad if each.parameter.grad is not None else 0)
    found = {name: value.norm().item() for name, value in written_for_soma(model)[0].items()}
    norms = next(value for key, value in notes.items() if "grad" in key and isinstance(value, dict))
    errors = {
        key: abs(found[key] - value) / value
        for key, value in norms.items()
        if value and not key.endswith(("attn.k.bias", "mask_token"))
    }
    print(f"largest relative error {max(errors.values()):.1e} of {len(errors)} gradient norms")
    assert len(errors) > 400
    assert max(errors.values()) < 1e-3


# --- what trains -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["s", "l"])
def test_what_trains_is_what_trains_there(figures, size):
    with torch.device("meta"):
        model = soma(size)
    model.minor.form = WHOLE
    manifest = json.loads((figures / "manifests" / f"soma_dinov2_{size}_512.all.json").read_text())
    wanted = {key: tuple(entry[0]) for key, entry in manifest.items() if entry[2] is True}
    wanted.pop("backbone.model.mask_token")  # nothing reads it
    assert {name: tuple(value.shape) for name, value in written_for_soma(model)[0].items()} == wanted
    counts = json.loads((figures / "manifests" / "counts.json").read_text())[f"soma_dinov2_{size}_512"]
    width = model.backbone.width
    assert sum(each.parameter.numel() for each in model.trained()) == counts["trainable"] - width
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == counts["trainable"] - width


BACKBONES = {
    "plain": ("vit_tiny_patch16_224", 6),
    "fused, biases apart": ("vit_small_patch16_dinov3_qkvb", 6),
    "separate, swiglu": ("eva02_base_patch14_448", 7),
    "sam": ("samvit_base_patch16_224", 6),
    "run by timm": ("beit_base_patch16_224", 6),
}
"""Models of timm, and matrices of one block that SoMA takes apart."""
LARGE = {"sam", "run by timm"}


@pytest.mark.parametrize("kind", ["soma", "recycle"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in BACKBONES]
)
def test_every_plain_transformer_starts_as_the_frozen_one_and_merges_to_the_trained_one(name, kind):
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSettings(name=BACKBONES[name][0]), 14).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        frozen = backbone(images)
        separate = [getattr(each, "qkv_bias_separate", None) for each in backbone.modules()]
        minor = MinorDirections(backbone, MinorSettings(rank=4, sub_rank=2, first_block=10), kind)
        minor.begin()
        begun = backbone(images)
        for parameter in minor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        trained = backbone(images)
        minor.merge()
        merged = backbone(images)

    def error(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
        return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))

    assert error(begun, frozen) < BOUND
    assert error(merged, trained) < BOUND
    assert error(trained, frozen) > 1e-3
    assert not any(each._forward_hooks for each in backbone.modules())
    assert separate == [getattr(each, "qkv_bias_separate", None) for each in backbone.modules()]


@pytest.mark.parametrize("kind", ["soma", "recycle"])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_trained_parameter_gets_a_gradient(name, kind):
    """So that no layer is passed over: timm reads some fused weights without calling the layer."""
    timm_name, matrices = BACKBONES[name]
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSettings(name=timm_name), 14)
    backbone.requires_grad_(False)
    minor = MinorDirections(backbone, MinorSettings(rank=4, sub_rank=2, first_block=11), kind)
    minor.begin()
    minor.requires_grad_(True)
    sum(each.square().sum() for each in backbone(torch.randn(1, 3, 224, 224))).backward()
    assert not [name for name, p in minor.named_parameters() if p.grad is None or not p.grad.any()]
    count = sum(len(layer.place.taken) for layer in minor.layers())
    assert count == (matrices if kind == "soma" or matrices == 7 else 4)


@pytest.mark.parametrize("kind", ["soma", "recycle"])
def test_gate_and_input_in_one_weight_are_two_matrices(kind):
    with torch.device("meta"):
        settings = BackboneSettings(name="vit_giant_patch14_reg4_dinov2", patch_size=14)
        backbone = build_backbone(settings, 16)
        minor = MinorDirections(backbone, MinorSettings(rank=4, first_block=39), kind)
    taken = {layer.place.path[-1]: len(layer.place.taken) for layer in minor.layers()}
    apart = kind == "soma"
    assert taken == {"qkv": 3 if apart else 1, "proj": 1, "fc1": 2 if apart else 1, "fc2": 1}


def test_layers_blocks_and_biases_are_chosen():
    chosen = tiny.settings(
        "model.tune=soma", "model.minor.rank=2", "model.minor.first_block=3", 'model.minor.layers=["q", "v", "fc2"]',
        "model.minor.biases=false",
    )  # fmt: skip
    model = tiny.model(chosen)
    assert [(layer.place.path, layer.place.taken) for layer in model.minor.layers()] == [
        (("3", "attn", "qkv"), (0, 2)), (("3", "mlp", "fc2"), (0,)),
    ]  # fmt: skip
    assert {name.rsplit(".", 1)[1] for name, _ in model.minor.named_parameters()} == {"a", "b"}
    weight = model.backbone.body.blocks[3].attn.qkv.weight
    before = weight.detach().clone()
    model.minor.begin()
    changed = (weight != before).any(1)
    assert changed[:32].all()
    assert not changed[32:64].any()
    assert changed[64:].all()


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["model.minor.rank=33"], "above the width"),
        (["model.minor.first_block=4"], "blocks 0 to 3"),
        (["model.backbone={name = 'resnet50'}"], "plain transformers"),
        (["model.backbone={name = 'swin_tiny_patch4_window7_224'}"], "plain transformers"),
        (["model.backbone={name = 'mixer_s16_224'}"], "has not a linear layer"),
        (["model.train_backbone=true"], "train_backbone"),
        (["model.tune=recycle", 'model.minor.layers=["q"]', "model.minor.rank=2"], "takes whole"),
        (["model.tune=recycle", "model.minor.rank=30"], "together"),
    ],
)
def test_what_cannot_be_tuned_is_one_sentence(sets, says):
    with pytest.raises(ReinError, match=says) as caught:
        tiny.model(tiny.settings("model.tune=soma", *sets))
    assert caught.value.usage


def test_a_weight_that_is_not_finite_cannot_be_decomposed():
    model = tiny.model(tiny.settings("model.tune=soma", "model.minor.rank=2"))
    model.backbone.body.blocks[2].mlp.fc1.weight.data[0, 0] = float("nan")
    with pytest.raises(ReinError, match=r"blocks\.2\.mlp\.fc1 cannot be decomposed"):
        model.minor.begin()


def test_a_decomposition_that_does_not_converge_is_a_sentence(monkeypatch):
    def failing(matrix: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge.")

    model = tiny.model(tiny.settings("model.tune=soma", "model.minor.rank=2"))
    monkeypatch.setattr(torch.linalg, "eigh", failing)
    with pytest.raises(ReinError, match=r"blocks\.1\.attn\.qkv cannot be decomposed: .*failed to converge"):
        model.minor.begin()


def test_both_together_train_both():
    model = tiny.model(tiny.settings("model.tune=rein+soma", "model.minor.rank=2"))
    assert {each.part for each in model.trained()} == {"rein", "backbone", "head"}
    assert set(model.trained_modules()) == {"rein", "minor", "pixel_decoder", "mask_decoder"}
    names = [each.name for each in model.trained()]
    ids = {id(each.parameter) for each in model.trained()}
    assert len(names) == len(set(names)) == len(ids)
    assert ids == {id(p) for p in model.parameters() if p.requires_grad}
