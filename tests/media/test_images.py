"""Label files of every kind that the datasets come in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from layouts import palette_png

from reincli.errors import ReinError
from reincli.media.images import read_image, read_label, read_stored, write_png


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_label_gives_its_indices(tmp_path: Path, bits: int) -> None:
    indices = np.random.default_rng(bits).integers(0, 2**bits, (13, 24), dtype=np.uint8)
    palette_png(tmp_path / "label.png", indices, bits)
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), indices)


def test_a_palette_image_gives_its_colours(tmp_path: Path) -> None:
    indices = np.zeros((4, 5), np.uint8)
    palette_png(tmp_path / "image.png", indices)
    color = np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8)[:3]
    assert (read_image(tmp_path / "image.png") == color).all()


def test_a_16_bit_label_of_three_channels_is_stored_as_it_is(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 3000, (5, 6, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "label.png"), stored)
    np.testing.assert_array_equal(read_stored(tmp_path / "label.png"), stored)
    with pytest.raises(ReinError, match="3 channels"):
        read_label(tmp_path / "label.png")


def test_a_damaged_palette_label_is_an_error_that_names_it(tmp_path: Path) -> None:
    palette_png(tmp_path / "label.png", np.zeros((40, 40), np.uint8))
    data = (tmp_path / "label.png").read_bytes()
    (tmp_path / "label.png").write_bytes(data[:60])
    with pytest.raises(ReinError, match=r"label\.png"):
        read_label(tmp_path / "label.png")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    write_png(tmp_path / "new" / "image.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "image.png"), image)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["image.png"]


def test_a_damaged_image_is_said_by_us_alone(tmp_path, capfd):
    write_png(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReinError, match="Cannot decode the image"):
        read_image(tmp_path / "a.png")
    assert capfd.readouterr().err == ""
