"""Pictures of kinds that are not read: named for what they are, counted in folders, never half read."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from reincli.errors import ReinError
from reincli.media.images import read_image, sliver_of, write_png
from reincli.media.inputs import find_inputs, kind_of
from reincli.media.picture_kinds import picture_kind


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
    with pytest.raises(ReinError, match="a TIFF of 32-bit floats") as caught:
        read_image(tmp_path / "x.tif")
    assert "8 or 16 bits" in caught.value.hint


def test_other_pictures_of_a_folder_are_counted(tmp_path):
    write_png(tmp_path / "in/a.png", np.zeros((4, 4, 3), np.uint8))
    for name in ("b.gif", "c.HEIC", "d.heic", "notes.md"):
        (tmp_path / "in" / name).touch()
    found = find_inputs([str(tmp_path / "in")], tmp_path / "out")
    assert len(found.files) == 1
    assert found.passed == {".gif": 1, ".heic": 2}
    assert found.others == {".md": 1}


@pytest.mark.parametrize("kind", ["bmp", "tiff", "jpeg"])
def test_other_kinds_over_the_limit_are_told_by_their_size_too(tmp_path, kind):
    if kind == "bmp":
        data = b"BM" + bytes(12) + struct.pack("<Iii", 40, 40_000, -40_000) + bytes(40)
    elif kind == "tiff":
        tags = ((256, 40_000), (257, 40_000), (258, 8))
        data = b"II*\0" + struct.pack("<IH", 8, len(tags))
        data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    else:
        data = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 40_000, 40_000, 1) + bytes(20)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ReinError, match="40000x40000 pixels, more than") as caught:
        read_image(tmp_path / "x")
    assert "OPENCV_IO_MAX_IMAGE_PIXELS=1600000000" in caught.value.hint


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("largest", "told"), [(4095, 4095), (8191, 8191), (60_000, 0), (200, 0)])
def test_a_16_bit_image_that_uses_a_sliver_of_its_range_is_noticed(tmp_path, suffix, largest, told):
    image = np.linspace(0, largest, 300).reshape(10, 10, 3).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"x.{suffix}"), image)
    assert sliver_of(tmp_path / f"x.{suffix}") == told
    cv2.imwrite(str(tmp_path / f"y.{suffix}"), (image % 256).astype(np.uint8))
    assert sliver_of(tmp_path / f"y.{suffix}") == 0


def test_a_gif_and_an_avif_are_read_where_opencv_reads_them(tmp_path):
    image = np.full((32, 48, 3), 90, np.uint8)
    for suffix in ("gif", "avif"):
        if not cv2.haveImageWriter(f"x.{suffix}"):
            continue
        assert cv2.imwrite(str(tmp_path / f"x.{suffix}"), image)
        assert read_image(tmp_path / f"x.{suffix}").shape == (32, 48, 3)
    if (tmp_path / "x.avif").exists():
        (tmp_path / "y.avif").write_bytes(b"no avif")
        found = find_inputs([str(tmp_path)], tmp_path / "out")
        assert [each.source.name for each in found.files] == ["x.avif"]
        assert found.passed == {".avif": 1, ".gif": 1}


def test_a_png_that_was_cut_is_told_without_chatter(tmp_path, capfd):
    write_png(tmp_path / "x.png", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ReinError, match="Cannot decode the image"):
        read_image(tmp_path / "x.png")
    assert capfd.readouterr().err == ""
    (tmp_path / "x.png").write_bytes(data + b"what a camera wrote behind it")
    assert read_image(tmp_path / "x.png").shape == (40, 40, 3)


@pytest.mark.parametrize(
    ("content", "told", "hint"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
            "Git LFS pointer",
            "git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>404</html>", "web page", "the file itself"),
        (b"", r"empty \(0 bytes\)", "whole one"),
    ],
)
def test_what_was_fetched_instead_of_an_image_is_named(tmp_path, content, told, hint):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ReinError, match=told) as caught:
        read_image(tmp_path / "x.jpg")
    assert hint in caught.value.hint
