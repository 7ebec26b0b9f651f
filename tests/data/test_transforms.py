"""Sizes, crops, flips and colours, against the original's pixels and OpenCV's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reincli.config import AugmentSettings
from reincli.data import transforms as t

GOLDEN = Path(__file__).parents[1] / "golden" / "resize_sizes.json"


class Legacy:
    """numpy's old random source, from which the original draws, behind the names of the new one."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)

    def integers(self, low: int, high: int) -> int:
        return int(self.state.randint(low, high))

    def uniform(self, low: float, high: float) -> float:
        return float(self.state.uniform(low, high))


def blocks_image(height: int, width: int, key: int) -> np.ndarray:
    """The reference figures' image recipe, as (H, W, 3) RGB."""
    rng = np.random.Generator(np.random.Philox(key=key))
    base = rng.integers(0, 256, size=(3, -(-height // 32), -(-width // 32)), dtype=np.uint8)
    base = base.repeat(32, 1).repeat(32, 2)[:, :height, :width]
    noise = rng.integers(0, 256, size=(3, height, width), dtype=np.uint8)
    bgr = ((3 * base.astype(np.uint16) + noise) // 4).astype(np.uint8)
    return np.ascontiguousarray(bgr[::-1].transpose(1, 2, 0))


def blocks_label(height: int, width: int, key: int) -> np.ndarray:
    """The reference figures' label recipe."""
    rng = np.random.Generator(np.random.Philox(key=key))
    rows, columns = -(-height // 16), -(-width // 16)
    subset = rng.permutation(19)[:7]
    coarse = rng.integers(0, 7, size=(-(-rows // 4), -(-columns // 4)))
    fine = rng.integers(0, 7, size=(rows, columns))
    pick = rng.random((rows, columns), dtype=np.float32)
    repeated = coarse.repeat(4, 0).repeat(4, 1)[:rows, :columns]
    label = subset[np.where(pick < 0.7, repeated, fine)]
    label[pick > 0.9] = 255
    return label.astype(np.uint8).repeat(16, 0).repeat(16, 1)[:height, :width]


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    oracle: Path = request.getfixturevalue("oracle")
    return {
        **np.load(oracle / "data_transforms.npz"),
        "info": json.loads((oracle / "data_transforms.json").read_text())["info"],
    }


# --- sizes -------------------------------------------------------------------------------------------------


def test_sizes_of_a_sample_of_the_reference_table() -> None:
    table = json.loads(GOLDEN.read_text())
    for height, width, short, longest, out_h, out_w in table["shortest_edge"]:
        assert t.shortest_edge_size(height, width, short, longest) == (out_h, out_w)
    for long_side, short_side, height, width, out_h, out_w in table["keep_ratio"]:
        assert t.keep_ratio_size(height, width, long_side, short_side) == (out_h, out_w)


def test_sizes_of_the_whole_reference_table(oracle: Path) -> None:
    table = json.loads((oracle / "data_resize_sizes.json").read_text())
    rows = table["shortest_edge"]
    assert len(rows) == 1152
    wrong = [r for r in rows if t.shortest_edge_size(r[1], r[2], r[3], r[4]) != (r[5], r[6])]
    assert wrong == []
    for width, height, h, w, out_h, out_w, _ in table["val_resize_keep_ratio"]:
        assert t.keep_ratio_size(h, w, max(width, height), min(width, height)) == (out_h, out_w)


def test_range_draws_one_ratio_of_the_given_size() -> None:
    augment = AugmentSettings(resize="range", size=(200, 100), ratio=(0.5, 0.5))
    assert t.draw_size(100, 200, augment, np.random.default_rng(0)) == (50, 100)


@given(
    height=st.integers(16, 1200),
    width=st.integers(16, 2100),
    short=st.integers(16, 1024),
    longest=st.integers(64, 2048),
)
def test_shortest_edge_stays_within_its_bounds(height: int, width: int, short: int, longest: int) -> None:
    size = t.shortest_edge_size(height, width, short, longest)
    assert min(size) <= short
    assert max(size) <= max(longest, short)


# --- resampling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("short", "size"), [(40, (40, 60)), (64, (64, 96)), (100, (100, 150))])
def test_resampling_gives_the_reference_pixels(
    golden: dict[str, Any], short: int, size: tuple[int, int]
) -> None:
    image = np.ascontiguousarray(golden["img_bgr_hwc"][..., ::-1])
    np.testing.assert_array_equal(t.resize_image(image, size)[..., ::-1], golden[f"resize{short}_img"])
    np.testing.assert_array_equal(t.resize_label(golden["label"], size), golden[f"resize{short}_label"])


@given(stored=st.integers(1, 2100), resized=st.integers(1, 2100))
def test_nearest_indices_are_those_of_opencv(stored: int, resized: int) -> None:
    line = np.arange(stored, dtype=np.uint16)[None]
    expected = cv2.resize(line, (resized, 1), interpolation=cv2.INTER_NEAREST)[0]
    np.testing.assert_array_equal(t.nearest_indices(stored, resized, 0, resized), expected)


def test_a_cropped_label_is_the_crop_of_the_resized_label() -> None:
    label = blocks_label(90, 140, 5)
    box = t.Box(13, 61, 40, 99)
    whole = t.resize_label(label, (123, 177))
    np.testing.assert_array_equal(t.resize_label(label, (123, 177), box), whole[13:61, 40:99])


@example(
    stored=(2, 8), size=(2, 7), place=(0, 0.5, 0, 0), key=0
)  # 5 columns would round to 5: copied as they are
@example(stored=(1, 11), size=(1, 10), place=(0, 0.15, 0, 0), key=0)
@given(
    stored=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    place=st.tuples(*[st.floats(0, 1)] * 4),
    key=st.integers(0, 99),
)
def test_a_resized_part_is_the_part_of_the_resized_whole(
    stored: tuple[int, int], size: tuple[int, int], place: tuple[float, ...], key: int
) -> None:
    """On white noise, the hardest of images: one grey level apart at most."""
    image = np.random.default_rng(key).integers(0, 256, (*stored, 3), dtype=np.uint8)
    top, left = int(place[0] * (size[0] - 1)), int(place[1] * (size[1] - 1))
    bottom = top + 1 + int(place[2] * (size[0] - 1 - top))
    right = left + 1 + int(place[3] * (size[1] - 1 - left))
    part = t.resize_region(t.ArrayPixels(image), size, t.Box(top, bottom, left, right))
    whole = t.resize_image(image, size)[top:bottom, left:right]
    assert part.shape == whole.shape
    off = np.abs(part.astype(int) - whole)
    assert off.max() <= (0 if top == left == 0 else 1)


@pytest.mark.parametrize("step", t.SCALE_STEPS)
def test_a_crop_at_every_scale_of_the_recipe_is_within_one_grey_level(step: int) -> None:
    image = np.random.default_rng(step).integers(0, 256, (1052, 1914, 3), dtype=np.uint8)
    size = t.shortest_edge_size(1052, 1914, int(51.2 * step), 2048)
    whole = t.resize_image(image, size)
    rng = np.random.default_rng(step)
    for _ in range(3):
        box = t.draw_box(size, (512, 512), rng)
        part = t.resize_region(t.ArrayPixels(image), size, box)
        off = np.abs(part.astype(int) - whole[box.top : box.bottom, box.left : box.right])
        assert off.max() <= 1
        assert (off > 0).mean() < 0.25


# --- crop, flip, colour, all of it -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_crops_are_those_of_the_reference(golden: dict[str, Any], seed: int) -> None:
    label = blocks_label(300, 500, 4245)
    label[:, :330] = 3
    rng = Legacy(seed)
    box, cropped = t.draw_crop(label, (300, 500), (128, 160), 0.75, rng)
    expected = golden["info"][f"randomcrop_skew_seed{seed}"]
    assert [box.top, box.bottom, box.left, box.right] == expected["bbox_y1y2x1x2"]
    assert rng.state.random_sample() == expected["next_random_after"]
    np.testing.assert_array_equal(cropped, label[box.top : box.bottom, box.left : box.right])


def test_a_crop_larger_than_the_image_takes_what_there_is() -> None:
    box, cropped = t.draw_crop(blocks_label(30, 50, 1), (30, 50), (64, 40), 1.0, np.random.default_rng(0))
    assert (box.top, box.bottom) == (0, 30)
    assert cropped.shape == (30, 40)


def test_a_label_of_one_class_is_never_varied_but_still_cropped() -> None:
    label = np.full((40, 40), 7, np.uint8)
    label[0] = 255
    assert not t.is_varied(label, 0.75)
    assert t.draw_crop(label, (40, 40), (8, 8), 0.75, np.random.default_rng(0))[1].shape == (8, 8)


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_shows_the_class_for_which_its_image_was_drawn(seed: int) -> None:
    label = blocks_label(120, 200, 4245)
    label[40:60, 150:180] = 30  # one place; at twice the size 2,400 pixels of 96,000
    wanted = t.Wanted(30, 300)
    _, cropped = t.draw_crop(label, (240, 400), (200, 200), 1.0, np.random.default_rng(seed), wanted)
    assert np.count_nonzero(cropped == 30) >= 4 * 300
    elsewhere = t.Wanted(31, 1)
    assert t.draw_crop(label, (240, 400), (96, 96), 1.0, np.random.default_rng(seed), elsewhere)[1].shape == (
        96,
        96,
    )


@pytest.mark.parametrize("seed", range(8))
def test_colours_are_those_of_the_reference(golden: dict[str, Any], seed: int) -> None:
    image = np.ascontiguousarray(golden["img_bgr_hwc"][..., ::-1])
    rng = Legacy(seed)
    changed = t.distort(image, t.draw_distortion(rng))
    np.testing.assert_array_equal(changed[..., ::-1], golden[f"photometric_seed{seed}"])
    assert rng.state.random_sample() == golden["info"][f"photometric_seed{seed}"]["next_random_after"]


@pytest.mark.parametrize("seed", range(4))
def test_the_whole_pipeline_gives_the_reference_pixels(golden: dict[str, Any], seed: int) -> None:
    rng = Legacy(seed)
    augment = AugmentSettings(short_side=128, crop=128)
    view = t.draw_view((300, 500), blocks_label(300, 500, 4245), augment, rng)
    whole, box = t.resize_image(blocks_image(300, 500, 4244), view.size), view.box
    image, label = t.finish(whole[box.top : box.bottom, box.left : box.right], view)
    np.testing.assert_array_equal(image.transpose(2, 0, 1)[::-1], golden[f"pipeline_seed{seed}_img_chw"])
    np.testing.assert_array_equal(label, golden[f"pipeline_seed{seed}_label"])
    assert rng.state.random_sample() == golden["info"][f"pipeline_seed{seed}"]["next_random_after"]


def test_colour_steps_by_hand() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    assert t.distort(image, t.Distortion(brightness=31.9)).max() == 131  # cut, not rounded
    assert t.distort(image, t.Distortion(contrast=1.5)).max() == 150
    assert t.distort(image, t.Distortion(brightness=32.0, contrast=1.5)).max() == 198
    assert t.distort(image, t.Distortion(brightness=-200.0)).max() == 0
    np.testing.assert_array_equal(t.distort(image, t.Distortion()), image)


def test_padding_fills_right_and_bottom() -> None:
    padded = t.pad(np.ones((3, 5, 3), np.uint8), 6, 0)
    assert padded.shape == (6, 6, 3)
    assert padded[:3, :5].min() == 1
    assert padded[3:].max() == 0
    assert padded[:, 5:].max() == 0
    assert t.pad(np.ones((3, 8), np.uint8), 6, 255).shape == (6, 8)
