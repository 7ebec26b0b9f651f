"""Pictures of every kind become the same RGB array."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from reincli.errors import ReinError
from reincli.media.drawing import write_drawing
from reincli.media.images import write_png
from reincli.media.rgb import as_rgb

RGB = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)


def test_every_kind_of_picture_is_the_same(tmp_path):
    path = tmp_path / "ümlaut.png"
    write_png(path, RGB)
    tensor = torch.from_numpy(RGB.transpose(2, 0, 1).copy())
    alpha = np.dstack([RGB, np.full((6, 9), 7, np.uint8)])
    kinds = [path, str(path), RGB, RGB / 255.0, (RGB / 255).astype(np.float32), RGB.astype(np.uint16) << 8, alpha,
             tensor, tensor.float() / 255, Image.fromarray(RGB), Image.fromarray(alpha)]  # fmt: skip
    for kind in kinds:
        found = as_rgb(kind)
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, RGB)


def test_grey_is_repeated():
    grey = RGB[..., 0]
    for kind in (
        grey,
        grey[..., None],
        torch.from_numpy(grey),
        torch.from_numpy(grey)[None],
        Image.fromarray(grey),
    ):
        np.testing.assert_array_equal(as_rgb(kind), np.dstack([grey] * 3))


def test_sixteen_bits_are_scaled_by_files_and_pil_alike(tmp_path):
    deep = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1200
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), deep)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(as_rgb(picture), as_rgb(path))
    np.testing.assert_array_equal(as_rgb(deep), as_rgb(path))


def test_exif_turns_files_and_pil_images_alike(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    path = tmp_path / "turned.jpg"
    Image.fromarray(RGB).save(path, exif=exif, quality=95)
    with Image.open(path) as picture:
        turned = as_rgb(picture)
    assert turned.shape == (9, 6, 3)
    assert as_rgb(path).shape == (9, 6, 3)
    assert np.abs(turned.astype(int) - as_rgb(path)).max() <= 4  # two JPEG decoders


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((3, 6, 9), np.uint8), "channels last"),
        (torch.zeros(6, 9, 3, dtype=torch.uint8), "channels first"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.full((4, 4, 3), 2.0), "from 2 to 2"),
        (np.full((4, 4, 3), np.nan), "expected 0 to 1"),
        (np.zeros((4, 4), np.int64), "type int64"),
        (Path("absent.png"), "no image at"),
        (7, "A int is no picture"),
    ],
)
def test_what_is_no_picture_is_said(picture, words):
    with pytest.raises(ReinError, match=words):
        as_rgb(picture)


def test_drawings_are_written_without_loss(tmp_path):
    write_drawing(tmp_path / "sub" / "ä.png", RGB)
    np.testing.assert_array_equal(as_rgb(tmp_path / "sub" / "ä.png"), RGB)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["ä.png"]
