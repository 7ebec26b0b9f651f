"""Every preset loads, and says what the published settings say."""

from __future__ import annotations

import json

import pytest
import torch

from reincli.config import Settings, test_size
from reincli.model.families import family_of
from reincli.model.segmentor import Segmentor
from reincli.settings_files import build_settings, load_settings, preset_names, presets_folder, read_preset

BACKBONES = {
    "vit_s": "dinov2_s",
    "vit_b": "dinov2_b",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "convnext_l": "convnext_l",
    "clip_l": "clip_l",
    "sam_h": "sam_h",
    "eva02_l": "eva02_l",
    "dinov3_s": "dinov3_s",
    "dinov3_b": "dinov3_b",
    "dinov3_l": "dinov3_l",
}
MAIN = [
    "gta2citys",
    "gta_synthia2citys",
    "gta_synthia_urbansyn2citys",
    "citys16th2citys",
    "citys2acdc",
    "citys2acdc-512",
    "citys2citysc",
    "citys2bdd_mapillary",
]
FROZEN = {"clip_l", "sam_h", "eva02_l", "dinov3_l"}
BASELINES = ["gta2citys-frozen", "gta2citys-full", *(f"gta2citys-{b}-frozen" for b in sorted(FROZEN))]
ACDC = [f"citys2acdc-dinov3_{size}" for size in "sbl"]
MINOR = [
    "gta2citys-soma", "gta2citys-dinov3_l-soma", "gta_synthia2citys-soma", "gta_synthia_urbansyn2citys-soma-512",
    "gta_synthia_urbansyn2citys-soma", "citys16th2citys-soma", "citys2acdc-soma", "citys2acdc-dinov3_l-soma",
    "citys2acdc-soma-512", "citys2bdd_mapillary-soma", "gta2citys-recycle", "citys2bdd_mapillary-recycle",
]  # fmt: skip
ADAPTED = {"gta2citys-adapt": ("cityscapes:train",), "citys2acdc-adapt": ("acdc:train",)}
PLAIN = ["gta2citys-plain", "gta2citys-dinov3_l-plain", "citys2acdc-plain"]
RECIPE_1024 = ["gta_synthia_urbansyn2citys", "citys2acdc", "citys2citysc", "citys2acdc-plain", *ACDC]
RECIPE_512 = [
    "gta2citys",
    "gta_synthia2citys",
    "citys2acdc-512",
    "citys2bdd_mapillary",
    *BASELINES,
    *(f"gta2citys-{b}" for b in BACKBONES),
]

PUBLISHED = {
    "gta2citys": {"cityscapes": 66.7, "bdd100k": 60.0, "mapillary": 66.1},
    "gta_synthia2citys": {"cityscapes": 72.2},
    "gta_synthia_urbansyn2citys": {"cityscapes": 78.4},
    "citys16th2citys": {"cityscapes": 82.5},
    "citys2acdc": {"acdc:val": 73.4, "acdc:test": 77.6},
    "citys2citysc": {"cityscapes-c": 60.0},
    "gta2citys-resnet50": {"cityscapes": 49.1},
    "gta2citys-resnet101": {"cityscapes": 45.9},
    "gta2citys-convnext_l": {"cityscapes": 57.9},
    "gta2citys-vit_s": {"cityscapes": 55.3},
    "gta2citys-vit_b": {"cityscapes": 64.3},
    "gta2citys-clip_l": {"cityscapes": 58.1},
    "gta2citys-sam_h": {"cityscapes": 59.2},
    "gta2citys-eva02_l": {"cityscapes": 67.8},
    "gta2citys-soma": {"cityscapes": 71.8, "bdd100k": 61.3, "mapillary": 71.7},
    "gta_synthia2citys-soma": {"mean": 69.26},
    "gta_synthia_urbansyn2citys-soma-512": {"mean": 71.68},
    "gta_synthia_urbansyn2citys-soma": {"mean": 73.12},
    "citys16th2citys-soma": {"mean": 75.50},
    "citys2acdc-soma": {"acdc:test": 78.75},
    "citys2acdc-soma-512": {"acdc:val": 71.7, "acdc:test": 74.4},
    "citys2bdd_mapillary": {"bdd100k": 63.5, "mapillary": 74.0},
    "citys2bdd_mapillary-soma": {"bdd100k": 67.0, "mapillary": 76.5},
    "gta2citys-recycle": {"cityscapes": 73.0, "bdd100k": 61.8, "mapillary": 72.1},
    "citys2bdd_mapillary-recycle": {"bdd100k": 66.7, "mapillary": 77.5},
}


@pytest.fixture(params=preset_names())
def preset(request) -> Settings:
    return load_settings(preset=request.param)


def test_all_are_there():
    expected = {
        *MAIN,
        *BASELINES,
        *ACDC,
        *MINOR,
        *PLAIN,
        *ADAPTED,
        *(f"gta2citys-{b}" for b in BACKBONES),
        "demo",
    }
    assert set(preset_names()) == expected
    assert len(list(presets_folder().glob("*.toml"))) == 46


def test_each_states_what_it_is_about(preset):
    raw = read_preset(preset.name)
    assert raw["description"]
    assert raw["model"]["backbone"]["name"]
    assert raw["data"]["train"]
    assert raw["data"]["val"]
    assert raw["data"]["augment"]["crop"]
    assert raw["test"]["window"] == preset.data.augment.crop


def test_published_scores(preset):
    assert preset.published == PUBLISHED.get(preset.name, {})


@pytest.mark.parametrize("name", RECIPE_512)
def test_512_recipe_is_the_defaults(name):
    """Apart from what a setting is about, nothing differs from the defaults."""
    preset, default = load_settings(preset=name), build_settings({})
    assert preset.data.augment == default.data.augment
    assert (preset.optim, preset.train) == (default.optim, default.train)
    assert preset.test == default.test
    assert preset.model.head == default.model.head


@pytest.mark.parametrize("name", RECIPE_1024)
def test_1024_recipe(name):
    preset = load_settings(preset=name)
    augment = preset.data.augment
    assert (augment.short_side, augment.long_side_max, augment.crop) == (1024, 4096, 1024)
    assert (preset.optim.lr, preset.optim.warmup_iterations, preset.optim.warmup_factor) == (
        6e-5,
        10_000,
        1e-6,
    )
    assert (preset.train.iterations, preset.train.batch_size) == (40_000, 8)
    assert (preset.test.mode, preset.test.window, preset.test.stride) == ("slide", 1024, 683)


@pytest.mark.parametrize(("name", "target"), ADAPTED.items())
def test_adaptations_are_as_published(name, target):
    """Steps, batch, crop and sampling of VFM-UDA++, the learning rate of adapters on a frozen backbone."""
    preset = load_settings(preset=name)
    assert preset.adapt.target == target
    assert (preset.train.iterations, preset.train.batch_size, preset.data.augment.crop) == (40_000, 8, 1024)
    assert preset.data.rare_class_sampling
    assert preset.optim == build_settings({}).optim
    assert (preset.adapt.teacher_decay, preset.adapt.threshold, preset.adapt.masked_share) == (
        0.999,
        0.968,
        0.7,
    )
    border = preset.adapt.border
    borders = (0.03, 0.25, 0.03) if name.startswith("gta") else (0.0, 0.0, 0.0)
    assert (border.top, border.bottom, border.sides) == borders
    assert not set(preset.adapt.target) & set(preset.data.val)


def test_a_sixteenth_of_cityscapes():
    preset = load_settings(preset="citys16th2citys")
    augment = preset.data.augment
    assert preset.data.train == ("cityscapes:train_16th",)
    assert (augment.resize, augment.size, augment.ratio, augment.crop) == (
        "range",
        (2048, 1024),
        (0.5, 2.0),
        1024,
    )
    assert (preset.optim.lr, preset.optim.warmup_iterations) == (1e-5, 0)
    assert (preset.train.iterations, preset.train.batch_size, preset.train.validate_every) == (4_000, 4, 400)
    assert preset.train.start_from
    assert preset.train.start_from.endswith("gta_synthia_urbansyn2citys/last.pth")


@pytest.mark.parametrize(("suffix", "backbone"), BACKBONES.items())
def test_backbones(suffix, backbone):
    model = load_settings(preset=f"gta2citys-{suffix}").model
    assert model.backbone.name == backbone
    assert model.adapter.link_features == (suffix not in ("clip_l", "sam_h"))
    assert model.tune == "rein"


@pytest.mark.parametrize(
    ("name", "backbone", "tune"),
    [
        ("gta2citys-frozen", "dinov2_l", "frozen"),
        ("gta2citys-full", "dinov2_l", "full"),
        *((f"gta2citys-{name}-frozen", name, "frozen") for name in sorted(FROZEN)),
    ],
)
def test_baselines(name, backbone, tune):
    model = load_settings(preset=name).model
    assert (model.backbone.name, model.tune) == (backbone, tune)


@pytest.mark.parametrize("name", ACDC)
def test_dinov3_on_acdc_is_the_preset_of_dinov2_with_another_backbone(name):
    ours, other = load_settings(preset=name), load_settings(preset="citys2acdc")
    assert ours.model.backbone.name == name.removeprefix("citys2acdc-")
    assert (ours.data, ours.optim, ours.train, ours.test) == (
        other.data, other.optim, other.train, other.test,
    )  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_head_is_what_differs_from_the_preset_of_the_other_head(name):
    ours, other = load_settings(preset=name), load_settings(preset=name.removesuffix("-plain"))
    assert ours.model.head.kind == "plain"
    assert other.model.head.kind == "mask2former"
    assert ours.model.backbone == other.model.backbone
    assert ours.model.tune == "rein"
    assert (ours.data, ours.test, ours.optim.lr) == (other.data, other.test, other.optim.lr)
    assert ours.train.clip_grad_norm == 0.01
    assert ours.train.model_copy(update={"clip_grad_norm": None}) == other.train
    assert ours.optim.warmup_iterations >= 6_000


@pytest.mark.parametrize("name", preset_names())
def test_every_backbone_of_a_preset_is_known(name):
    assert family_of(load_settings(preset=name).model.backbone) is not None


@pytest.mark.parametrize("name", MAIN)
def test_a_preset_without_a_backbone_in_its_name_is_dinov2_l(name):
    assert load_settings(preset=name).model.backbone.name == "dinov2_l"


SOMA_FILES = {
    "gta2citys-soma": "sora_dinov2-L_mask2former.py",
    "gta_synthia2citys-soma": "sora_dinov2-L_mask2former_gs2cbm.py",
    "gta_synthia_urbansyn2citys-soma-512": "sora_dinov2-L_mask2former_gsu2cbm.py",
    "gta_synthia_urbansyn2citys-soma": "sora_dinov2-L_mask2former_gsu2cbm_1024x1024.py",
    "citys16th2citys-soma": "sora_dinov2-L_mask2former_gsuc16_2cbm_1024x1024.py",
    "citys2acdc-soma": "sora_dinov2_mask2former_ACDC_1024x1024_bs4x2.py",
    "citys2acdc-soma-512": "sora_dinov2_mask2former_ACDC_512x512_bs4x2.py",
    "citys2bdd_mapillary-soma": "sora_dinov2_mask2former_c2bm.py",
}
ON_FOUR_TIMES_TWO = ("citys2acdc-soma", "citys2acdc-soma-512")


@pytest.mark.parametrize("name", SOMA_FILES)
def test_soma_is_trained_as_published(oracle, name):
    told = json.loads((oracle / "more" / "ext" / "soma_settings.json").read_text())[SOMA_FILES[name]]
    preset = load_settings(preset=name)
    optim, train = preset.optim, preset.train
    assert preset.model.tune == "soma"
    assert sorted([optim.lr * optim.factors.backbone, optim.lr]) == pytest.approx(told["lrs"])
    (decay,) = [each for each in told["schedulers"] if each.get("param_name") == "weight_decay"]
    assert optim.weight_decay_end == decay["eta_min"]
    assert train.iterations == told["max_iters"] == decay["end"]
    assert train.validate_every == told["val_interval"]
    warm = [each for each in told["schedulers"] if each["type"] == "LinearLR"]
    assert optim.warmup_iterations == (warm[0]["end"] if warm else 0)
    if warm:
        assert optim.warmup_factor == warm[0]["start_factor"]
    assert train.ema_from == (told["ema"][0]["begin_iter"] if told["ema"] else None)
    assert train.ema_decay == (1 - 0.0002 if told["ema"] else None)
    assert train.batch_size == told["batch_size"] * (4 if name in ON_FOUR_TIMES_TWO else 1)
    assert preset.data.augment.crop == told["crop"][0][0] == preset.test.window == told["img_size"]
    assert preset.test.stride == told["crop"][1]["stride"][0]


def test_every_preset_after_the_paper_states_its_own_test_sizes():
    for name in MINOR:
        settings = load_settings(preset=name)
        datasets = {source.split(":")[0] for source in settings.data.val}
        assert set(settings.test.sizes) == datasets, name
    sizes = load_settings(preset="gta2citys-soma").test.sizes
    assert sizes == {"cityscapes": "2048x1024", "mapillary": "2048x1024", "bdd100k": "1280x720"}
    assert test_size(load_settings(preset="gta2citys"), "cityscapes") == "1024x512"
    assert test_size(load_settings(preset="citys2bdd_mapillary"), "mapillary") == "1024x512"


def test_recycle_has_its_own_rates():
    for name in ("gta2citys-recycle", "citys2bdd_mapillary-recycle"):
        preset = load_settings(preset=name)
        assert (preset.model.tune, preset.optim.lr, preset.optim.factors.sub) == ("recycle", 1e-4, 0.5)
        assert preset.train.ema_decay is None
    assert load_settings(preset="citys2bdd_mapillary-recycle").model.minor.sub_rank == 2
    assert load_settings(preset="gta2citys-recycle").model.minor.sub_rank == 4


@pytest.mark.parametrize("name", ["gta2citys-recycle", "citys2bdd_mapillary-recycle"])
def test_recycle_is_scaled_by_the_published_factor(name):
    """1/36 whatever the ranks, see section 3 of the facts."""
    model = load_settings(preset=name).model
    small = model.backbone.model_copy(update={"name": "dinov2_s"})
    with torch.device("meta"):
        minor = Segmentor(model.model_copy(update={"backbone": small}), 19, 32).minor
    factors = [pair.factor for layer in minor.layers() for pair in (layer.main, layer.sub)]
    assert factors == pytest.approx([1 / 36] * (12 * 4 * 2), rel=1e-12)
