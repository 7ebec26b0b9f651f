"""Cityscapes-C: which files, decided by what, and what is said where the library is missing."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from reincli.commands.prepare_data import run
from reincli.config import DataSettings
from reincli.data.sources import find_samples
from reincli.errors import ReinError
from reincli.media.images import read_image, write_png
from reincli.prepare.corruption import HEADLINE, Corruption, choose, corrupted, image_seed
from reincli.prepare.planning import plan

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def cityscapes(root: Path, count: int = 2) -> None:
    for i in range(count):
        write_png(root / f"leftImg8bit/val/a/a_{i}_leftImg8bit.png", IMAGE)
        write_png(root / f"gtFine/val/a/a_{i}_gtFine_labelTrainIds.png", np.zeros((64, 96), np.uint8))


@pytest.fixture
def _fake_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws from numpy's global source as the real one does."""

    def corrupt(image: np.ndarray, severity: int, corruption_name: str, seed: int = 0) -> np.ndarray:
        noise = np.random.randint(0, 20 * severity, image.shape)
        return np.clip(image + noise + seed % 5, 0, 255).astype(np.uint8)

    module = types.ModuleType("imagecorruptions")
    module.corrupt = corrupt  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "imagecorruptions", module)


def test_corruptions_are_chosen() -> None:
    assert choose([], [], 0) == list(HEADLINE)
    assert len(HEADLINE) == 16
    assert choose(["fog", "snow"], [3, 1, 3], 7) == [
        Corruption("snow", 1, 7), Corruption("fog", 1, 7), Corruption("snow", 3, 7), Corruption("fog", 3, 7)
    ]  # fmt: skip
    with pytest.raises(ReinError, match="'fgo'") as caught:
        choose(["fgo"], [], 0)
    assert "'fog'" in caught.value.hint
    with pytest.raises(ReinError, match="Severity 6"):
        choose([], [6], 0)
    with pytest.raises(ReinError, match="cityscapes-c alone"):
        run("gta", None, severity=[3])


@pytest.mark.usefixtures("_fake_library")
def test_an_image_is_decided_by_name_and_seed_and_leaves_no_trace() -> None:
    fog = Corruption("fog", 5)
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    one = corrupted(IMAGE, fog, "a.png")
    assert np.random.random() == expected
    np.testing.assert_array_equal(one, corrupted(IMAGE, fog, "a.png"))
    for other, name in ((fog, "b.png"), (Corruption("fog", 5, 1), "a.png"), (Corruption("fog", 4), "a.png")):
        assert (corrupted(IMAGE, other, name) != one).any()
    assert image_seed(fog, "a.png") == image_seed(Corruption("fog", 5, 0), "a.png")
    with pytest.raises(ReinError, match="need 32 pixels"):
        corrupted(IMAGE[:20], fog, "a.png")


@pytest.mark.usefixtures("_fake_library")
def test_the_set_is_made_goes_on_and_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cityscapes(tmp_path / "cityscapes")
    root = tmp_path / "cityscapes-c"
    run("cityscapes-c", root, workers=1)
    assert "32 files written" in capsys.readouterr().out
    samples = find_samples("cityscapes-c", DataSettings(root=str(tmp_path)))
    assert len(samples) == 32
    assert len({s.domain for s in samples}) == 16
    fog = root / "fog/5/a/a_0_leftImg8bit.png"
    before = read_image(fog)
    fog.write_bytes(fog.read_bytes()[:-30])
    run("cityscapes-c", root, workers=1)
    assert "1 files written, 31 were there" in capsys.readouterr().out
    np.testing.assert_array_equal(read_image(fog), before)
    run("cityscapes-c", root, workers=1, severity=[2], corruption=["snow"])
    assert len(list((root / "snow/2/a").iterdir())) == 2
    run("cityscapes-c", root, workers=1)
    assert "Nothing to do: 0 files written, 32 were there" in capsys.readouterr().out
    run("cityscapes-c", root, workers=1, check=True)
    assert "severity2" in capsys.readouterr().out


@pytest.mark.usefixtures("_fake_library")
def test_the_order_of_channels_is_chosen_and_never_mixed(tmp_path: Path) -> None:
    rgb, bgr = Corruption("fog", 5), Corruption("fog", 5, channels="bgr")
    swapped = corrupted(np.ascontiguousarray(IMAGE[..., ::-1]), rgb, "a.png")[..., ::-1]
    np.testing.assert_array_equal(corrupted(IMAGE, bgr, "a.png"), swapped)
    assert (corrupted(IMAGE, rgb, "a.png") != swapped).any()
    cityscapes(tmp_path / "cityscapes")
    root = tmp_path / "cityscapes-c"
    run("cityscapes-c", root, workers=1, corruption=["fog"])
    assert (root / "fog/5/made.txt").read_text() == "channels rgb, seed 0\n"
    image = root / "fog/5/a/a_0_leftImg8bit.png"
    np.testing.assert_array_equal(read_image(image), corrupted(IMAGE, rgb, "a_0_leftImg8bit.png"))
    for changed in ({"channels": "bgr"}, {"seed": 1}):
        before = image.read_bytes()
        with pytest.raises(ReinError, match="fog/5' was made with channels rgb, seed 0, not"):
            run("cityscapes-c", root, workers=1, corruption=["fog", "snow"], **changed)
        assert image.read_bytes() == before
        assert not (root / "snow").exists()
    run("cityscapes-c", root, workers=1, corruption=["fog"], channels="bgr", force=True)
    np.testing.assert_array_equal(read_image(image), corrupted(IMAGE, bgr, "a_0_leftImg8bit.png"))
    (root / "fog/5/made.txt").unlink()  # made before there was a choice
    run("cityscapes-c", root, workers=1, corruption=["fog"])
    with pytest.raises(ReinError, match="no order of channels 'gbr'"):
        run("cityscapes-c", root, channels="gbr")
    with pytest.raises(ReinError, match="for cityscapes-c alone"):
        run("gta", None, channels="bgr")


@pytest.mark.usefixtures("_fake_library")
def test_labels_are_looked_for_before_hours_of_drawing(tmp_path: Path) -> None:
    cityscapes(tmp_path / "cityscapes")
    label = tmp_path / "cityscapes/gtFine/val/a/a_1_gtFine_labelTrainIds.png"
    label.unlink()
    with pytest.raises(ReinError, match="1 of 2 images of 'cityscapes:val' have no prepared label") as caught:
        run("cityscapes-c", tmp_path / "cityscapes-c", workers=1)
    assert "gtFine_trainvaltest.zip" in caught.value.hint
    assert f"rein prepare-data cityscapes {tmp_path / 'cityscapes'}" in caught.value.hint
    assert not (tmp_path / "cityscapes-c").exists()


def test_a_missing_library_and_missing_images_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cityscapes(tmp_path / "cityscapes")
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ReinError) as caught:
        run("cityscapes-c", tmp_path / "cityscapes-c", workers=1)
    assert "imagecorruptions-imaug" in caught.value.message
    assert "reincli[corruptions]" in caught.value.hint
    with pytest.raises(ReinError, match="leftImg8bit/val"):
        plan("cityscapes-c", tmp_path / "elsewhere/cityscapes-c")


@pytest.mark.parametrize("name", [each.name for each in HEADLINE])
def test_the_real_library_is_deterministic(name: str) -> None:
    pytest.importorskip("imagecorruptions", reason="the extra [corruptions] is not installed")
    corruption = Corruption(name, 5)
    one = corrupted(IMAGE, corruption, "a.png")
    assert one.shape == IMAGE.shape
    assert (one != IMAGE).any()
    np.testing.assert_array_equal(one, corrupted(IMAGE, corruption, "a.png"))
