"""Items of an adaptation: decided by their number, labels of the target untouched, each part as its switch says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from reincli.config import BorderSettings, Settings
from reincli.data.adaptation import AdaptDataset, block_side, counted_pixels, pasted_classes
from reincli.data.dataset import TrainDataset
from reincli.data.sources import find_samples, label_tables
from reincli.media.images import read_image


@pytest.fixture
def toy(tmp_path) -> Path:
    tiny.write_toy(tmp_path, ("train", "dusk"), count=4)
    return tmp_path


def settings(toy: Path, *sets: str) -> Settings:
    data = tiny.own_data(toy, ("train", "dusk"))
    return tiny.settings("adapt.target=['toy:dusk']", *sets, data=data)


def dataset(chosen: Settings) -> AdaptDataset:
    data, adapt = chosen.data, chosen.adapt
    source = None
    if adapt.source:
        plain = (
            data.augment.model_copy(update={"photometric": False}) if adapt.strong_colors else data.augment
        )
        source = TrainDataset(find_samples("toy:train", data), label_tables(["toy:train"], data), plain, 1)
    return AdaptDataset(source, find_samples("toy:dusk", data), data.augment, adapt, 1)


def test_an_item_is_decided_by_its_number(toy):
    one, other = dataset(settings(toy)), dataset(settings(toy))
    for draw in (9, 2, 9):
        left, right = one[draw], other[draw]
        assert left.keys() == right.keys()
        assert all(torch.equal(left[k], right[k]) for k in left if k != "name")
    assert not torch.equal(one[2]["target"], one[3]["target"])


def test_every_target_image_comes_once_a_pass(toy):
    items = dataset(settings(toy))
    passes = [[items.target_of(draw).name for draw in range(4 * n, 4 * n + 4)] for n in range(6)]
    assert all(sorted(names) == ["0.png", "1.png", "2.png", "3.png"] for names in passes)
    assert len({tuple(names) for names in passes}) > 1


def test_labels_of_the_target_are_not_opened(toy):
    expected = dataset(settings(toy))[5]
    for path in (toy / "labels" / "dusk").iterdir():
        path.write_bytes(b"no label")
    found = dataset(settings(toy))[5]
    assert torch.equal(found["target"], expected["target"])


def test_parts_are_there_as_their_switches_say(toy):
    everything = {"target", "target_size", "counted", "name", "image", "label", "size", "paste", "hidden"}
    assert set(dataset(settings(toy))[0]) == everything
    assert set(dataset(settings(toy, "adapt.masked=false"))[0]) == everything - {"hidden"}
    assert set(dataset(settings(toy, "adapt.mix=false"))[0]) == everything - {"paste"} | {"strong"}
    alone = set(dataset(settings(toy, "adapt.source=false"))[0])
    assert alone == {"target", "target_size", "counted", "name", "strong", "hidden"}


def test_half_of_the_classes_are_pasted():
    label = np.array([[0, 1, 1], [4, 255, 7], [9, 9, 9]], np.uint8)
    drawn = [tuple(pasted_classes(label, np.random.default_rng(seed))) for seed in range(200)]
    assert {len(classes) for classes in drawn} == {3}  # of five
    assert {index for classes in drawn for index in classes} == {0, 1, 4, 7, 9}
    assert pasted_classes(np.full((2, 2), 255, np.uint8), np.random.default_rng(0)).size == 0


def test_what_is_pasted_is_whole_classes_of_the_source(toy):
    items = dataset(settings(toy))
    for draw in range(6):
        item = items[draw]
        pasted = set(item["label"][item["paste"]].tolist())
        kept = set(item["label"][~item["paste"]].tolist())
        assert not pasted & kept
        assert 255 not in pasted
        assert len(pasted) == (len((pasted | kept) - {255}) + 1) // 2


def test_strong_colours_change_the_source_and_not_the_target(toy):
    strong, plain = (dataset(settings(toy, f"adapt.strong_colors={on}")) for on in ("true", "false"))
    assert any(not torch.equal(strong[n]["image"], plain[n]["image"]) for n in range(4))
    for draw in range(4):
        assert torch.equal(strong[draw]["target"], plain[draw]["target"])
        assert torch.equal(strong[draw]["label"], plain[draw]["label"])


def test_without_colours_the_source_is_as_in_training(toy):
    chosen = settings(toy, "adapt.strong_colors=false")
    training = TrainDataset(
        find_samples("toy:train", chosen.data),
        label_tables(["toy:train"], chosen.data),
        chosen.data.augment,
        1,
    )
    assert torch.equal(dataset(chosen)[3]["image"], training[3]["image"])


def test_borders_are_left_out():
    marks = counted_pixels(100, 200, BorderSettings(top=0.03, bottom=0.25, sides=0.03))
    rows, columns = np.flatnonzero((marks == 0).any(1)), np.flatnonzero((marks == 0).any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (3, 74, 6, 193)
    assert (counted_pixels(5, 6, BorderSettings()) == 0).all()


def test_borders_go_with_the_crop(toy):
    """Where the border is left out, the crop shows that part of the image; padding never counts."""
    item = dataset(settings(toy, "adapt.border.bottom=0.5"))
    for draw in range(8):
        found = item[draw]
        height, width = found["target_size"].tolist()
        assert not found["counted"][height:].any()
        assert not found["counted"][:, width:].any()
        rows = found["counted"][:, :width].any(1)
        assert torch.equal(rows, found["counted"][:, :width].all(1))  # whole rows, from the top
    assert not any(item[draw]["counted"].all() for draw in range(8))


def test_blocks_are_hidden_as_often_as_said(toy):
    items = dataset(settings(toy, "adapt.masked_share=0.7", "adapt.masked_block=8"))
    hidden = torch.stack([items[draw]["hidden"] for draw in range(40)])
    assert hidden.shape == (40, 8, 8)
    assert abs(float(hidden.float().mean()) - 0.7) < 0.03
    assert block_side(settings(toy).adapt, 64) == 8
    assert block_side(settings(toy).adapt, 512) == block_side(settings(toy).adapt, 1024) == 64


def test_a_target_crop_is_a_part_of_its_image(toy):
    items = dataset(settings(toy, "data.augment.resize='range'", "data.augment.size=[96, 64]",
                             "data.augment.ratio=[1.0, 1.0]", "data.augment.flip=0.0"))  # fmt: skip
    item = items[0]
    stored = read_image(items.target_of(0).image)
    crop = item["target"].numpy().transpose(1, 2, 0)
    assert any(np.array_equal(stored[:, left : left + 64], crop) for left in range(33))
