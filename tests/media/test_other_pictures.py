"""Pictures of kinds that are not read: named for what they are, counted in folders, never half read."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from reincli.errors import ReinError
from reincli.media.images import picture_kind, read_image, write_png
from reincli.media.inputs import find_inputs, kind_of


def ftyp(brand: bytes, *others: bytes) -> bytes:
    body = b"ftyp" + brand + bytes(4) + b"".join(others)
    return struct.pack(">I", len(body) + 4) + body + bytes(40)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (ftyp(b"heic", b"mif1"), "HEIC"),
        (ftyp(b"mif1", b"heic"), "HEIC"),
        (ftyp(b"avif", b"mif1"), "AVIF"),
        (ftyp(b"isom", b"mp41"), ""),
        (b"GIF89a" + bytes(20), "GIF"),
        (b"short", ""),
    ],
)
def test_kinds_by_their_first_bytes(tmp_path, content, kind):
    (tmp_path / "x").write_bytes(content)
    assert picture_kind(tmp_path / "x") == kind


def test_an_heic_photo_is_an_image_and_is_refused_by_name(tmp_path):
    path = tmp_path / "photo.heic"
    path.write_bytes(ftyp(b"heic", b"mif1"))
    assert kind_of(path) == "image"
    with pytest.raises(ReinError, match="is an HEIC photo") as caught:
        read_image(path)
    assert "JPEG" in caught.value.hint


def test_an_image_over_the_limit_of_opencv_is_told_by_its_size(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    with pytest.raises(ReinError, match="40000x40000 pixels") as caught:
        read_image(tmp_path / "x.png")
    assert "OPENCV_IO_MAX_IMAGE_PIXELS" in caught.value.hint


def test_a_tiff_of_floats_is_told(tmp_path):
    cv2.imwrite(str(tmp_path / "x.tif"), np.random.default_rng(0).random((9, 9, 3)).astype(np.float32))
    with pytest.raises(ReinError, match="a TIFF") as caught:
        read_image(tmp_path / "x.tif")
    assert "8 or 16 bits" in caught.value.hint


def test_other_pictures_of_a_folder_are_counted(tmp_path):
    write_png(tmp_path / "in/a.png", np.zeros((4, 4, 3), np.uint8))
    for name in ("b.gif", "c.HEIC", "d.heic", "notes.md"):
        (tmp_path / "in" / name).touch()
    found = find_inputs([str(tmp_path / "in")], tmp_path / "out")
    assert len(found.files) == 1
    assert found.passed == {".gif": 1, ".heic": 2}
