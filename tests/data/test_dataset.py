"""Training draws, test images, and the check of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from reincli.config import AugmentSettings, DataSettings, Settings
from reincli.data.dataset import EvalDataset, TrainDataset, check_labels, init_worker
from reincli.data.loading import load_label
from reincli.data.sources import Sample, find_samples, label_tables
from reincli.errors import ReinError
from reincli.media.images import write_png

AUGMENT = AugmentSettings(short_side=40, crop=48)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    rng = np.random.default_rng(0)
    for i in range(5):
        write_png(tmp_path / f"gta/images/{i}.png", rng.integers(0, 256, (50, 80, 3), dtype=np.uint8))
        label = rng.integers(0, 19, (5, 8), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        label[:3] = 255
        write_png(tmp_path / f"gta/labels/{i}_labelTrainIds.png", label)
    return find_samples("gta", DataSettings(root=str(tmp_path)))


@pytest.fixture
def tables() -> dict[str, np.ndarray]:
    return dict(label_tables(["gta"], DataSettings()))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["name"] == b["name"] and all(torch.equal(a[k], b[k]) for k in ("image", "label", "size"))


def test_a_draw_is_decided_by_seed_and_number_alone(
    samples: list[Sample], tables: dict[str, np.ndarray]
) -> None:
    one, other = (TrainDataset(samples, tables, AUGMENT, seed=3) for _ in range(2))
    backwards = {draw: other[draw] for draw in reversed(range(12))}
    assert all(same(one[draw], backwards[draw]) for draw in range(12))
    reseeded = TrainDataset(samples, tables, AUGMENT, seed=4)
    assert not all(same(one[draw], reseeded[draw]) for draw in range(5))
    assert not same(one[0], next(one[d] for d in range(5, 10) if one.drawn(d)[0] == one.drawn(0)[0]))


def test_workers_change_nothing(samples: list[Sample], tables: dict[str, np.ndarray]) -> None:
    dataset = TrainDataset(samples, tables, AUGMENT, seed=3)
    loader = DataLoader(dataset, batch_size=None, sampler=range(8), num_workers=2, worker_init_fn=init_worker)
    for draw, item in enumerate(loader):
        assert same(item, dataset[draw])


def test_every_pass_sees_every_file_once_in_a_new_order(
    samples: list[Sample], tables: dict[str, np.ndarray]
) -> None:
    dataset = TrainDataset(samples, tables, AUGMENT, seed=0)
    passes = [[dataset.drawn(5 * epoch + i)[0].name for i in range(5)] for epoch in range(6)]
    assert all(sorted(names) == [f"{i}.png" for i in range(5)] for names in passes)
    assert len({tuple(names) for names in passes}) > 1


def test_a_draw_is_padded_right_and_bottom(samples: list[Sample], tables: dict[str, np.ndarray]) -> None:
    augment = AugmentSettings(short_side=20, crop=64, photometric=False)
    dataset = TrainDataset(samples, tables, augment, seed=0)
    for draw in range(10):
        item = dataset[draw]
        height, width = item["size"].tolist()
        assert item["image"].shape == (3, 64, 64)
        assert item["label"].shape == (64, 64)
        assert item["image"].dtype == item["label"].dtype == torch.uint8
        assert item["size"].dtype == torch.int64
        assert height < 64
        assert (item["image"][:, height:] == 0).all()
        assert (item["image"][:, :, width:] == 0).all()
        assert (item["label"][height:] == 255).all()
        assert (item["label"][:, width:] == 255).all()
        assert set(item["label"].unique().tolist()) <= {*range(19), 255}


def test_test_images_have_the_size_of_their_dataset(
    samples: list[Sample], tables: dict[str, np.ndarray]
) -> None:
    settings = Settings.model_validate({"test": {"sizes": {"gta": "64x32"}}})
    item = EvalDataset(samples, tables, settings)[1]
    assert [tuple(image.shape) for image in item["images"]] == [(3, 32, 51)]
    assert item["label"].shape == (50, 80)
    assert item["original_size"] == (50, 80)
    assert item["sample"] == samples[1]
    native = EvalDataset(samples, tables, settings, size="native")
    assert native[0]["images"][0].shape == (3, 50, 80)
    assert len(native) == 5
    views = EvalDataset(samples, tables, settings, "native", scales=(0.5, 1.0, 1.75))[0]["images"]
    assert [tuple(view.shape[1:]) for view in views] == [(25, 40), (50, 80), (88, 140)]


def test_test_images_of_the_reference_run_have_its_sizes(oracle: Path) -> None:
    data = DataSettings(root=str(oracle / "e2e/data"))
    found = [sample for source in data.val for sample in find_samples(source, data)]
    dataset = EvalDataset(found, label_tables(data.val, data), Settings(data=data))
    sizes = [tuple(dataset[i]["images"][0].shape[1:]) for i in range(len(dataset))]
    assert sizes == [(512, 1024)] * 2 + [(720, 1280)] * 2 + [(512, 684)] * 2
    check_labels(found, label_tables(data.val, data))


def test_an_undeclared_value_is_named_with_file_and_declaration(
    samples: list[Sample], tables: dict[str, np.ndarray]
) -> None:
    label = np.zeros((50, 80), np.uint8)
    label[0, :3] = 19, 20, 77
    assert samples[2].label is not None
    write_png(samples[2].label, label)
    with pytest.raises(ReinError, match=r"2_label.*' has values 19-20, 77; 'gta' declares 0-18, 255"):
        load_label(samples[2], tables["gta"])
    with pytest.raises(ReinError, match="values 19-20, 77"):
        check_labels(samples, tables)


def test_the_check_names_sizes_and_damaged_files_and_stops_at_three(
    samples: list[Sample], tables: dict[str, np.ndarray]
) -> None:
    read: list[int] = []
    check_labels(samples, tables, on_file=lambda: read.append(1))
    assert len(read) == 5
    labels = [s.label for s in samples if s.label]
    write_png(labels[0], np.zeros((50, 81), np.uint8))
    labels[1].write_bytes(b"no picture")
    write_png(labels[2], np.full((50, 80), 200, np.uint8))
    write_png(labels[3], np.full((50, 80), 201, np.uint8))
    with pytest.raises(ReinError) as caught:
        check_labels(samples, tables)
    message = caught.value.message
    assert "is 81x50, its image is 80x50" in message
    assert "1_labelTrainIds.png" in message
    assert "value 200" in message
    assert "value 201" not in message
