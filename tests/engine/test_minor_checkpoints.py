"""Minor directions in files: ours and SoMA's, each beside its own weights, never mixed; written back; merged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from terminal import told

from reincli.config import BackboneSettings, ModelSettings
from reincli.data.labels import CITYSCAPES
from reincli.engine.checkpoint import (
    checkpoint_content,
    load_frozen,
    load_trained,
    original_content,
    original_state,
    read_checkpoint,
)
from reincli.engine.recognition import preset_of
from reincli.engine.weight_files import write_file
from reincli.errors import ReinError
from reincli.model import minor_files
from reincli.model.minor import RESIDUAL, WHOLE
from reincli.model.segmentor import Segmentor
from reincli.model.weights import from_original
from reincli.prediction.predict import load_model, load_segmentor
from reincli.settings_files import to_toml

SETS = ("model.tune=soma", "model.minor.rank=2")
RANK_4 = "model.minor.rank=4"


def maps(model: Segmentor) -> torch.Tensor:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model.eval().backbone(images)[-1]


def close(ours: torch.Tensor, theirs: torch.Tensor, bound: float = 1e-5) -> bool:
    return ((ours - theirs).norm() / theirs.norm()).item() < bound


def trained_model(folder: Path, *sets: str) -> Segmentor:
    """Begun from the file of the backbone, and moved."""
    model = tiny.model(tiny.settings(*SETS, *sets))
    load_frozen(model, folder / "backbone.pth")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in model.minor.parameters():
            each += 0.05 * torch.randn(each.shape, generator=generator)
    return model


@pytest.fixture
def files(tmp_path) -> Path:
    """A backbone, a checkpoint of ours ('ours.pth'), and the same as SoMA's would be ('released.pth', rank 4)."""
    tiny.write_backbone(tmp_path / "backbone.pth", tiny.settings())
    model, settings = trained_model(tmp_path), tiny.settings(*SETS)
    fingerprint, _ = load_frozen(tiny.model(settings), tmp_path / "backbone.pth")
    write_file(tmp_path / "ours.pth", checkpoint_content(model, settings, CITYSCAPES, 7, None, fingerprint))
    write_file(tmp_path / "released.pth", original_content(model, CITYSCAPES, 7))
    return tmp_path


def loaded(folder: Path, name: str, *sets: str) -> Segmentor:
    return load_model(folder / name, folder / "backbone.pth", tiny.settings(*SETS, *sets)).model


def test_a_checkpoint_of_ours_gives_the_features_it_was_saved_with(files):
    read = loaded(files, "ours.pth")
    assert read.minor.form == RESIDUAL
    assert torch.equal(maps(read), maps(trained_model(files)))
    names = set(torch.load(files / "ours.pth", weights_only=True)["state_dict"])
    assert not any(name.startswith("backbone.") for name in names)  # small: no weight of the backbone


def test_written_back_in_their_form_it_is_the_same_beside_the_whole_weight(files):
    """Of twice the rank: what was trained, less what was taken out."""
    state = torch.load(files / "released.pth", weights_only=True)["state_dict"]
    assert minor_files.is_somas(state)
    assert state["backbone.model.blocks.1.attn.q.lora_A.weight"].shape == (4, 32)
    read = loaded(files, "released.pth", RANK_4)
    assert read.minor.form == WHOLE
    assert close(maps(read), maps(trained_model(files)))
    again = original_content(read, CITYSCAPES, 7)["state_dict"]  # and of the same rank from then on
    assert set(again) == set(state)
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_a_released_file_is_read_beside_the_whole_weight_and_mixing_would_change_it(files):
    state = torch.load(files / "released.pth", weights_only=True)["state_dict"]
    model, plain = loaded(files, "released.pth", RANK_4), tiny.model(tiny.settings("model.tune=frozen"))
    load_frozen(plain, files / "backbone.pth")
    whole = plain.backbone.body.blocks[2].mlp.fc1.weight
    layer = model.backbone.body.blocks[2].mlp.fc1
    assert torch.equal(layer.weight, whole)
    x = torch.randn(5, 32)
    a, b = (state[f"backbone.model.blocks.2.mlp.fc1.lora_{part}.weight"] for part in "AB")
    expected = x @ whole.T + state["backbone.model.blocks.2.mlp.fc1.bias"] + (x @ a.T) @ b.T
    assert close(layer(x), expected)
    right = maps(model)
    for ours, residual in zip(model.minor.layers(), trained_model(files).minor.layers(), strict=True):
        ours.place.linear.weight.data.copy_(residual.place.linear.weight.data)  # mixed on purpose
    assert not close(maps(model), right, 5e-3)


def test_the_form_that_a_file_says_must_be_that_of_its_tensors(files):
    content = torch.load(files / "ours.pth", weights_only=True)
    content["rein"]["minor"] = WHOLE
    write_file(files / "mixed.pth", content)
    with pytest.raises(ReinError, match="says that the whole weight stands beside"):
        loaded(files, "mixed.pth")
    for value in (None, "half"):
        content["rein"]["minor"] = value
        write_file(files / "mixed.pth", content)
        with pytest.raises(ReinError, match="does not say which weights"):
            loaded(files, "mixed.pth")
    for name, value in content["state_dict"].items():
        if "start_" in name:
            value.zero_()
    content["rein"]["minor"] = RESIDUAL
    write_file(files / "mixed.pth", content)
    with pytest.raises(ReinError, match="says that the residual weight stands beside"):
        loaded(files, "mixed.pth")


def test_a_file_of_another_rank_says_what_to_set(files):
    with pytest.raises(ReinError) as caught:
        loaded(files, "released.pth")  # rank 4: written back, it has twice that of its setting
    assert "model.minor.rank = 4" in caught.value.hint
    assert loaded(files, "released.pth", RANK_4).minor.rank == 4
    with pytest.raises(
        ReinError, match=r"\(soma, width 32, rank 4 from block 1 on, 19 classes\) fits no preset"
    ):
        load_model(files / "released.pth", files / "backbone.pth", None)


def test_it_is_strict(files):
    content = torch.load(files / "ours.pth", weights_only=True)
    del content["state_dict"]["minor.blocks.2.attn.qkv.main.start_a"]
    write_file(files / "cut.pth", content)
    with pytest.raises(ReinError, match=r"1 missing: minor\.blocks\.2\.attn\.qkv\.main\.start_a"):
        loaded(files, "cut.pth")
    for sets, says in (("model.minor.rank=3", "of the wrong shape"), ("model.minor.first_block=0", "missing"),
                       ("model.tune=frozen", "left over")):  # fmt: skip
        with pytest.raises(ReinError, match=says):
            loaded(files, "ours.pth", sets)


@pytest.mark.parametrize(("name", "sets"), [("ours.pth", ()), ("released.pth", (RANK_4,))])
def test_another_backbone_is_refused(files, name, sets):
    torch.manual_seed(5)
    state = torch.load(files / "backbone.pth", weights_only=True)
    write_file(files / "backbone.pth", {n: v + 0.1 * torch.randn_like(v) for n, v in state.items()})
    with pytest.raises(ReinError, match="another backbone"):
        loaded(files, name, *sets)


def test_a_line_tells_how_a_released_file_was_read(files):
    settings = tiny.settings(*SETS, RANK_4)
    assert (
        load_model(files / "released.pth", files / "backbone.pth", settings).notes == []
    )  # it says so itself
    content = torch.load(files / "released.pth", weights_only=True)
    assert content["meta"].pop("minor") == WHOLE  # as the authors' do not
    write_file(files / "released.pth", content)
    found = load_model(files / "released.pth", files / "backbone.pth", settings)
    (note,) = [note for note in found.notes if "released file" in note]
    assert "WHOLE" in note
    assert "by chance it is 12.5%" in note
    assert load_model(files / "ours.pth", files / "backbone.pth", None).notes == []


def test_the_test_tells_a_start_from_this_weight_from_any_other(files):
    own = trained_model(files)
    with torch.no_grad():
        for layer in own.minor.layers():  # as begun, with the whole weight back in place
            layer.add(lambda pair: (pair.start_a, pair.start_b), 1)
            layer.main.a.copy_(layer.main.start_a)
    share, chance = own.minor.overlap()
    assert share == pytest.approx(1, abs=1e-4)
    assert chance == 2 / 32
    with torch.no_grad():
        for layer in own.minor.layers():
            layer.main.a.copy_(torch.randn(layer.main.a.shape, generator=torch.Generator().manual_seed(0)))
    assert own.minor.overlap()[0] < 0.25


@pytest.mark.parametrize(("size", "frozen"), [("s", 50), ("l", 98)])
def test_names_of_a_released_file(oracle, size, frozen):
    """Names and shapes of the authors' files: each is read, and written again."""
    path = oracle / "more" / "ext" / "manifests" / f"soma_dinov2_{size}_512.released.json"
    manifest = {name: tuple(entry[0]) for name, entry in json.loads(path.read_text()).items()}
    read, biases = minor_files.read_from_soma(
        {name: torch.zeros(shape, device="meta") for name, shape in manifest.items()}
    )
    assert len(biases) == frozen
    with torch.device("meta"):
        settings = ModelSettings(tune="soma", backbone=BackboneSettings(name=f"dinov2_{size}"))
        model = Segmentor(settings, 19, 32)
    ours = {name: tuple(value.shape) for name, value in from_original(read).items()}
    assert ours == {name: tuple(value.shape) for name, value in model.trained_state().items()}
    assert set(minor_files.frozen_biases(model)) == set(biases)
    model.minor.form = WHOLE
    assert {name: tuple(value.shape) for name, value in original_state(model).items()} == manifest


def test_a_released_file_finds_its_presets(oracle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = oracle / "more" / "ext" / "manifests" / "soma_dinov2_l_512.released.json"
    manifest = json.loads(path.read_text())
    state = {name: torch.zeros(entry[0], device="meta") for name, entry in manifest.items()}
    read = from_original(minor_files.read_from_soma(state)[0])
    assert preset_of(read, Path("x.pth")).name == "gta2citys-soma"
    with pytest.raises(ReinError, match="score otherwise"):
        preset_of(read, Path("x.pth"), scored=("cityscapes:val", "bdd100k:val"))


def test_a_run_that_starts_from_a_released_file_keeps_the_whole_weight(files):
    settings = tiny.settings(*SETS, RANK_4)
    model, read = tiny.model(settings), read_checkpoint(files / "released.pth")
    load_frozen(model, files / "backbone.pth", read)
    load_trained(model, read)
    content = checkpoint_content(model, settings, CITYSCAPES, 1, None)
    assert content["rein"]["minor"] == WHOLE
    write_file(files / "on.pth", content)
    assert torch.equal(maps(loaded(files, "on.pth", RANK_4)), maps(model))


# --- merged ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", ["soma", "recycle", "rein+soma"])
def test_prediction_runs_the_graph_of_the_frozen_model(files, tune):
    settings = tiny.settings(*SETS, f"model.tune={tune}")
    model = trained_model(files, f"model.tune={tune}")
    write_file(files / "x.pth", checkpoint_content(model, settings, CITYSCAPES, 7, None))
    seg = load_segmentor(files / "x.pth", backbone=files / "backbone.pth", device="cpu", precision="fp32")
    assert seg.model.minor is None
    frozen = tiny.model(tiny.settings("model.tune=rein" if "rein" in tune else "model.tune=frozen"))
    assert sum(p.numel() for p in seg.model.parameters()) <= sum(p.numel() for p in frozen.parameters())
    assert not any(module._forward_hooks for module in seg.model.modules())
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 3, 64, 64), np.uint8))
    with torch.no_grad():
        plain = model.eval()(model.normalise(images), every_round=False).mask_logits(-1)
        merged = seg.model(seg.model.normalise(images), seg.folded, every_round=False).mask_logits(-1)
    assert close(merged, plain, 1e-4)


def test_a_merged_backbone_is_a_backbone(files):
    words = ("convert-weights", files / "ours.pth", "--merge", "--backbone", files / "backbone.pth")
    told(*words)
    assert "is there already" in told(*words, code=2)
    plain = tiny.model(tiny.settings("model.tune=frozen"))
    load_frozen(plain, files / "ours_backbone.pth")
    assert close(maps(plain), maps(trained_model(files)))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--merge"], 2, "needs a checkpoint"),
        (["rein.pth", "--merge"], 1, "has no minor directions"),
        (["ours.pth", "--merge", "--kind", "original"], 2, "do not fit"),
        (["ours.pth", "--merge", "--height", "512"], 2, "do not fit"),
        (["both.pth", "x.pth", "--kind", "original"], 1, "a form for its own method"),
        (["backbone.pth", "--merge"], 1, "no segmentation head"),
        (["ours.pth", "x.txt", "--merge"], 2, "'x.txt' must end in .pth or .safetensors"),
        (["ours.pth", "x.safetensors", "--kind", "original"], 2, "'x.safetensors' does not end with .pth"),
        (["backbone.pth", "x.txt"], 2, "'x.txt' must end in .pth or .safetensors"),
        (["backbone.pth", "x.pth", "--preset", "demo"], 2, "for --merge and --kind original"),
        (["rein.pth", "--merge", "--preset", "demo", "--config", "a.toml"], 2, "were both given"),
    ],
)
def test_what_cannot_be_merged_or_written_back(files, monkeypatch, words, code, says):
    monkeypatch.chdir(files)
    tiny.write_checkpoint(files / "rein.pth", tiny.settings())
    both = tiny.settings(*SETS, "model.tune=rein+soma")
    model = trained_model(files, "model.tune=rein+soma")
    write_file(files / "both.pth", checkpoint_content(model, both, CITYSCAPES, 7, None))
    assert says in told("convert-weights", *words, "--backbone", files / "backbone.pth", code=code)


@pytest.mark.parametrize("tune", ["soma", "recycle", "rein+soma"])
def test_train_evaluate_write_back_and_merge(tmp_path, tune):
    """The whole commands."""
    tiny.write_toy(tmp_path / "toy")
    settings = tiny.settings(*SETS, f"model.tune={tune}", data=tiny.own_data(tmp_path / "toy"))
    backbone, last = tmp_path / "backbone.pth", tmp_path / "run" / "last.pth"
    tiny.write_backbone(backbone, settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings))
    output = told("train", "--config", tmp_path / "toy.toml", "--backbone", backbone, "--work-dir", tmp_path / "run",
                  "--device", "cpu")  # fmt: skip
    assert " minor + " in output
    told("eval", last, "--device", "cpu", "--json", tmp_path / "a.json")
    if tune == "soma":
        output = told("convert-weights", last, tmp_path / "o.pth", "--kind", "original")
        assert "set r = 4" in output
        told("eval", tmp_path / "o.pth", "--config", tmp_path / "toy.toml", "--backbone", backbone,
             "--set", RANK_4, "--device", "cpu", "--json", tmp_path / "b.json")  # fmt: skip
        one, two = (json.loads((tmp_path / f"{n}.json").read_text())["domains"]["val"]["mIoU"] for n in "ab")
        assert one == pytest.approx(two, abs=0.5)
    assert "worked in" in told("convert-weights", last, "--merge")
