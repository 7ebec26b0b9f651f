"""Generated streets: the same for the same seed, whole labels, and files where the datasets keep theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reincli.data.labels import LABEL_IDS
from reincli.generated.streets import DOMAINS, generate, write_scenes
from reincli.media.images import read_image, read_label

RAIL_TRACK = 10


@given(seed=st.integers(0, 2**31), domain=st.sampled_from(DOMAINS))
@settings(max_examples=12, deadline=None)
def test_any_seed_gives_a_street_whose_every_pixel_has_an_id(seed: int, domain: str) -> None:
    image, label = generate(seed, domain, (192, 96))
    assert image.shape == (96, 192, 3)
    assert label.shape == (96, 192)
    assert image.dtype == label.dtype == np.uint8
    assert set(np.unique(label)) <= {*LABEL_IDS, RAIL_TRACK}
    assert {7, 23} <= set(np.unique(label)), "no street without road and sky"
    assert image.std() > 5


def test_a_seed_gives_one_street_in_all_weathers() -> None:
    shown = {domain: generate(5, domain, (256, 128)) for domain in DOMAINS}
    for domain, (image, label) in shown.items():
        again = generate(5, domain, (256, 128))
        np.testing.assert_array_equal(image, again[0])
        np.testing.assert_array_equal(label, shown["clear"][1])
    assert shown["night"][0].mean() < 0.7 * shown["clear"][0].mean()
    assert shown["fog"][0].std() < shown["clear"][0].std()
    road = shown["clear"][1] == 7
    assert shown["snow"][0][road].mean() > shown["clear"][0][road].mean()
    assert not np.array_equal(generate(6, "clear", (256, 128))[1], shown["clear"][1])


def test_all_classes_occur() -> None:
    seen: set[int] = set()
    for seed in range(16):
        seen |= set(np.unique(generate(seed, "clear", (256, 128))[1]).tolist())
    assert seen >= set(LABEL_IDS)


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="sleet"):
        generate(0, "sleet")


def test_streets_are_written_once_in_the_folders_of_cityscapes_and_acdc(tmp_path: Path) -> None:
    files: list[int] = []
    drawn = write_scenes(tmp_path, train=2, val=1, targets=1, size=(96, 48), on_file=lambda: files.append(1))
    assert drawn == len(files) == 7
    assert len(list(tmp_path.glob("cityscapes/leftImg8bit/train/*/*_leftImg8bit.png"))) == 2
    assert len(list(tmp_path.glob("cityscapes/gtFine/val/*/*_gtFine_labelIds.png"))) == 1
    for condition in DOMAINS[1:]:
        (image,) = tmp_path.glob(f"acdc/rgb_anon/{condition}/val/*/*_rgb_anon.png")
        (label,) = tmp_path.glob(f"acdc/gt/{condition}/val/*/*_gt_labelIds.png")
        assert read_image(image).shape[:2] == read_label(label).shape == (48, 96)
    image.unlink()
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*labelIds.png") if path != label}
    options = {"train": 2, "val": 1, "targets": 1, "size": (96, 48), "workers": 0}
    assert write_scenes(tmp_path, **options) == 1  # type: ignore[arg-type]
    assert all(path.stat().st_mtime_ns == time for path, time in again.items())
    assert write_scenes(tmp_path, **options) == 0  # type: ignore[arg-type]
    assert write_scenes(tmp_path, force=True, **options) == 7  # type: ignore[arg-type]
