"""Every preset's recipe trains and validates: sources, augmentation, schedule, start; tiny model, tiny files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch

from reincli.config import TEST_SIZES, Settings
from reincli.data.labels import CITYSCAPES
from reincli.data.layouts import split_folders
from reincli.engine.checkpoint import build_model
from reincli.engine.weight_files import write_file
from reincli.settings_files import build_settings, preset_names, read_preset
from reincli.training.adapt import Adaptation
from reincli.training.run import Run, prepare_run
from reincli.training.run_folder import read_log, start_folder
from reincli.training.train import train

STARTED = ("gta_synthia_urbansyn2citys", "citys16th2citys")
"""The second starts from the first: a test of their own."""
ADAPTED = ("gta2citys-adapt", "citys2acdc-adapt")
"""They start from a checkpoint, too, and do something else with their batches."""
PRESETS = [name for name in preset_names() if name not in ("demo", *STARTED, *ADAPTED)]


def write_pairs(root: Path, dataset: str, split: str, count: int) -> None:
    """Pictures and prepared labels where a dataset keeps them."""
    rng = np.random.default_rng(0)
    for folders in split_folders(dataset, root)[split]:
        for index in range(count):
            stem = f"town/{index}"
            image = root / folders.images / f"{folders.prefixes[0]}{stem}{folders.image_suffix}"
            if folders.prefixes[0]:
                image = root / folders.images / f"{folders.prefixes[0]}{index}{folders.image_suffix}"
            name = str(image.relative_to(root / folders.images)).removesuffix(folders.image_suffix)
            name = name.replace(folders.prefixes[0], folders.prefixes[1], 1) if folders.prefixes[0] else name
            label = root / str(folders.labels) / f"{name}{folders.label_suffixes[0]}"
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            blocks = rng.integers(0, 19, (4, 8), np.uint8).repeat(16, 0).repeat(16, 1)
            cv2.imwrite(str(image), rng.integers(0, 256, (64, 128, 3), np.uint8))
            cv2.imwrite(str(label), blocks)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Every dataset, two images a split."""
    root = tmp_path_factory.mktemp("data")
    for dataset, split in (
        ("gta", "train"), ("synthia", "train"), ("urbansyn", "train"), ("cityscapes", "train"), ("cityscapes", "val"),
        ("bdd100k", "val"), ("mapillary", "val"), ("acdc", "train"), ("acdc", "val"),
        ("cityscapes-c", "val"),
    ):  # fmt: skip
        write_pairs(root / dataset, dataset, split, 2)
    (root / "cityscapes" / "train_16th.txt").write_text("town/1_leftImg8bit.png\n")
    return root


def small(preset: str, data: Path, backbone: Path, *sets: str) -> Settings:
    """A preset with everything that makes it large an eighth of it, or tiny; what it is about stays."""
    raw = read_preset(preset)
    augment = raw.get("data", {}).get("augment", {})
    if "size" in augment:
        augment["size"] = [side // 8 for side in augment["size"]]
    augment["crop"], augment["short_side"] = 64, 64
    raw.setdefault("data", {})["augment"] = {**augment, "long_side_max": 256}
    raw.get("train", {}).pop("start_from", None)  # of another run, which is tried apart
    model = raw.get("model", {})
    kept = {key: model[key] for key in ("tune", "train_backbone") if key in model}
    raw["model"] = {**tiny.RAW["model"], **kept}
    raw["model"]["minor"] = {**model.get("minor", {}), "rank": 4}  # those of the methods are above the width
    if "kind" in model.get("head", {}):
        raw["model"]["head"] = {**tiny.RAW["model"]["head"], "kind": model["head"]["kind"]}
    raw.setdefault("test", {})["sizes"] = dict.fromkeys(TEST_SIZES, "native")
    return build_settings(raw, [
        f"data.root='{data}'", f"model.backbone.weights='{backbone}'", "data.workers=0", "train.iterations=2",
        "train.validate_every=2", "train.points=64", "train.log_every=1", "train.precision='fp32'", "test.window=64",
        "test.stride=43", *sets,
    ])  # fmt: skip


def run_through(settings: Settings, folder: Path) -> Run:
    start_folder(folder, settings)
    run = prepare_run(settings, folder, device=torch.device("cpu"), precision="fp32")
    train(run)
    return run


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, data) -> Path:
    """Weights of the tiny backbone."""
    path = tmp_path_factory.mktemp("weights") / "backbone.pth"
    settings = small("gta2citys", data, path)
    torch.manual_seed(0)
    write_file(path, build_model(settings, len(CITYSCAPES)).backbone.body.state_dict())
    return path


@pytest.mark.slow
def test_every_preset_trains_and_validates(data, backbone, tmp_path):
    trained: dict[str, list[str]] = {}
    for preset in PRESETS:
        run = run_through(small(preset, data, backbone), tmp_path / preset)
        validation = read_log(run.folder)[-1]
        assert validation["mean"]["mIoU"] is not None, preset
        trained[preset] = list(validation["domains"])
    assert trained["gta2citys"] == ["cityscapes", "bdd100k", "mapillary"]
    assert trained["citys2acdc"][:4] == ["night", "fog", "rain", "snow"]
    assert len(trained["citys2citysc"]) == 16


def test_fine_tuning_starts_from_the_checkpoint_of_another_run(data, backbone, tmp_path):
    first = run_through(small(STARTED[0], data, backbone), tmp_path / "first")
    start = f"train.start_from='{tmp_path / 'first' / 'last.pth'}'"
    settings = small(STARTED[1], data, backbone, start)
    start_folder(tmp_path / "second", settings)
    run = prepare_run(settings, tmp_path / "second", device=torch.device("cpu"), precision="fp32")
    before, after = first.model.trained_state(), run.model.trained_state()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    train(run)
    assert read_log(run.folder)[0]["lr"] == pytest.approx(1e-5)


@pytest.mark.parametrize("name", ADAPTED)
def test_adaptations_start_from_the_checkpoint_of_another_run(data, backbone, tmp_path, name):
    first = run_through(small(name.removesuffix("-adapt"), data, backbone), tmp_path / "first")
    start = f"train.start_from='{first.folder / 'last.pth'}'"
    settings = small(name, data, backbone, start, "train.batch_size=2", "data.rare_class_sampling=false",
                     "adapt.masked_block=16")  # fmt: skip
    start_folder(tmp_path / "second", settings)
    run = prepare_run(settings, tmp_path / "second", device=torch.device("cpu"), precision="fp32")
    train(run, task=Adaptation(run))
    log = read_log(run.folder)
    assert [entry["iteration"] for entry in log if entry["kind"] == "validation"] == [0, 2]
    assert [entry["iteration"] for entry in log if entry["kind"] == "pseudo"] == [1, 2]
