"""One pair at a time: the compact copy, turned photographs, odd images, and what workers must not do."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reincli.config import AugmentSettings, DataSettings, Settings
from reincli.data.check import inspect, is_turned
from reincli.data.compact import Compact, compact_path, open_compact, pack_label, write_compact
from reincli.data.dataset import EvalDataset, TrainDataset
from reincli.data.loading import load_label, open_pair
from reincli.data.sources import Sample, label_table
from reincli.data.transforms import Box
from reincli.errors import ReinError
from reincli.media.images import read_image, write_png
from reincli.media.picture_kinds import jpeg_size
from reincli.media.whole_files import write_bytes


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps well."""
    small = np.random.default_rng(height).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def blocks(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(width).integers(0, 19, (7, 9), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def jpeg(path: Path, image: np.ndarray, orientation: int = 1) -> None:
    """Write a JPEG with an EXIF note of how the camera was held."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    note = b"Exif\0\0" + b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    raw = data.tobytes()
    write_bytes(path, raw[:2] + b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note + raw[2:])


def pair(folder: Path, image: np.ndarray, label: np.ndarray, name: str = "a.png") -> Sample:
    write_png(folder / "images" / name, image)
    write_png(folder / "labels" / f"{name}_label.png", label)
    return Sample(folder / "images" / name, folder / "labels" / f"{name}_label.png", "gta", "gta", name)


def table(dataset: str = "gta") -> np.ndarray:
    return label_table(dataset, DataSettings())


# --- the compact copy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lossless", [False, True])
def test_a_compact_copy_gives_every_part_of_image_and_label(tmp_path: Path, lossless: bool) -> None:
    image, label = smooth(300, 530), blocks(300, 530)
    sample = pair(tmp_path, image, label)
    write_compact(sample, lossless=lossless)
    copy = open_compact(sample)
    assert copy is not None
    assert copy.shape == (300, 530)
    np.testing.assert_array_equal(copy.label(), label)
    whole = copy.region(Box(0, 300, 0, 530)).astype(int)
    error = np.abs(whole - image)
    assert error.max() == 0 if lossless else error.mean() < 1
    for box in (Box(0, 1, 0, 1), Box(255, 257, 255, 513), Box(100, 300, 512, 530), Box(256, 300, 0, 256)):
        np.testing.assert_array_equal(copy.region(box), whole[box.top : box.bottom, box.left : box.right])


@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 90)), key=st.integers(0, 99), few=st.booleans())
def test_labels_are_packed_exactly(shape: tuple[int, int], key: int, few: bool) -> None:
    label = np.random.default_rng(key).integers(0, 2 if few else 256, shape, dtype=np.uint8)
    assert unpack(pack_label(label), shape).tolist() == label.tolist()


def unpack(packed: bytes, shape: tuple[int, int]) -> np.ndarray:
    data = np.frombuffer(packed, np.uint8)
    return Compact(
        shape, (), True, np.zeros(1), data, (0, data.size), shape, (zlib.crc32(packed),), Path()
    ).label()


def test_runs_longer_than_16_bits_are_cut() -> None:
    label = np.zeros((300, 500), np.uint8)
    label[299, 499] = 4
    np.testing.assert_array_equal(unpack(pack_label(label), label.shape), label)
    label[:] = 3
    np.testing.assert_array_equal(unpack(pack_label(label[:, :257]), (300, 257)), label[:, :257])


def test_loading_takes_the_copy_while_it_is_fresh_and_the_files_when_not(tmp_path: Path) -> None:
    sample = pair(tmp_path, smooth(90, 120), blocks(90, 120))
    write_compact(sample, lossless=True)
    taken = open_pair(sample, table()).pixels(1.0)
    assert isinstance(taken, Compact)
    np.testing.assert_array_equal(taken.region(Box(0, 90, 0, 120)), read_image(sample.image))
    assert sample.label is not None
    write_png(sample.label, np.full((90, 120), 255, np.uint8))
    assert open_compact(sample) is None
    assert (open_pair(sample, table()).label == 255).all()


def test_a_copy_that_is_damaged_or_cut_short_is_not_used(tmp_path: Path) -> None:
    sample = pair(tmp_path, smooth(90, 120), blocks(90, 120))
    write_compact(sample)
    path = compact_path(sample.image)
    whole = path.read_bytes()
    for broken in (b"", whole[:40], whole[:-1], b"X" + whole[1:], whole[:30] + b"~" * 60 + whole[90:]):
        path.write_bytes(broken)
        assert open_compact(sample) is None
    path.write_bytes(whole)
    assert open_compact(sample) is not None


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_flipped_bit_in_a_copy_is_a_sentence_and_never_another_pixel(
    tmp_path: Path, lossless: bool, share: float
) -> None:
    sample = pair(tmp_path, smooth(90, 120), blocks(90, 120))
    write_compact(sample, lossless=lossless)
    copy = open_compact(sample)
    assert copy is not None
    path, first = compact_path(sample.image), copy.label_span[0]
    data = bytearray(path.read_bytes())
    data[first + int((len(data) - first) * share)] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReinError, match="is damaged: a checksum"):
        open_pair(sample, table()).pixels(1.0).region(Box(0, 90, 0, 120))


def test_a_copy_does_not_hide_values_that_are_not_declared(tmp_path: Path) -> None:
    sample = pair(tmp_path, smooth(90, 120), np.full((90, 120), 77, np.uint8))
    write_compact(sample)
    with pytest.raises(ReinError, match="has value 77; 'gta' declares 0-18, 255"):
        open_pair(sample, table())


def test_training_draws_from_the_copy_are_those_from_the_files(tmp_path: Path) -> None:
    sample = pair(tmp_path, smooth(300, 530), blocks(300, 530))
    dataset = TrainDataset([sample], {"gta": table()}, AugmentSettings(short_side=200, crop=160), seed=1)
    before = [dataset[draw] for draw in range(6)]
    write_compact(sample, lossless=True)
    for draw, old in enumerate(before):
        new = dataset[draw]
        assert (old["image"] == new["image"]).all()
        assert (old["label"] == new["label"]).all()


# --- images that do not lie as their labels do -------------------------------------------------------------


def test_sizes_are_read_from_the_head_of_a_jpeg(tmp_path: Path) -> None:
    jpeg(tmp_path / "a.jpg", smooth(33, 70), orientation=6)
    assert jpeg_size(tmp_path / "a.jpg") == (33, 70)
    write_png(tmp_path / "a.png", smooth(33, 70))
    assert jpeg_size(tmp_path / "a.png") is None
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:50])
    assert jpeg_size(tmp_path / "b.jpg") is None


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("label_as_stored", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_turned_photograph_lies_as_its_label(
    tmp_path: Path, orientation: int, label_as_stored: bool, scale: float
) -> None:
    stored = smooth(120, 160)
    shown = {1: stored, 3: stored[::-1, ::-1], 6: np.rot90(stored, -1), 8: np.rot90(stored)}[orientation]
    jpeg(tmp_path / "a.jpg", stored, orientation)
    exchanged = orientation in (6, 8)
    expected = stored if label_as_stored and exchanged else shown
    write_png(tmp_path / "a.png", blocks(*expected.shape[:2]))
    sample = Sample(tmp_path / "a.jpg", tmp_path / "a.png", "gta", "gta", "a.jpg")
    opened = open_pair(sample, table())
    assert opened.shape == expected.shape[:2]
    pixels = opened.pixels(scale)
    image = pixels.region(Box(0, pixels.shape[0], 0, pixels.shape[1])).astype(int)
    small = cv2.resize(np.ascontiguousarray(expected), pixels.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(image - small).mean() < 4
    assert (pixels.shape[0] < expected.shape[0]) == (scale < 0.5 and (not exchanged or label_as_stored))
    assert (opened.label != 255).any()
    assert not inspect(sample, table()).mismatched


def test_exchanged_sides_without_a_note_are_reported_and_ignored(tmp_path: Path) -> None:
    jpeg(tmp_path / "a.jpg", smooth(160, 90))
    write_png(tmp_path / "a.png", blocks(90, 160))
    sample = Sample(tmp_path / "a.jpg", tmp_path / "a.png", "bdd100k", "bdd100k", "a.jpg")
    opened = open_pair(sample, table("bdd100k"))
    assert opened.label.shape == (160, 90)
    assert (opened.label == 255).all()
    report = inspect(sample, table("bdd100k"))
    assert report.turned
    assert not report.mismatched
    item = EvalDataset([sample], {"bdd100k": table("bdd100k")}, Settings())[0]
    assert (item["label"] == 255).all()
    assert is_turned((160, 90), (90, 160))
    assert not is_turned((90, 90), (90, 90))


def test_a_jpeg_is_decoded_smaller_only_where_the_scale_allows(tmp_path: Path) -> None:
    jpeg(tmp_path / "a.jpg", smooth(160, 241))
    write_png(tmp_path / "a.png", blocks(160, 241))
    sample = Sample(tmp_path / "a.jpg", tmp_path / "a.png", "gta", "gta", "a.jpg")
    opened = open_pair(sample, table())
    shapes = {scale: opened.pixels(scale).shape for scale in (1.7, 0.51, 0.5, 0.25, 0.124)}
    assert shapes == {1.7: (160, 241), 0.51: (160, 241), 0.5: (80, 121), 0.25: (40, 61), 0.124: (20, 31)}


# --- odd images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bit", "16 bit grey"])
def test_every_kind_of_image_is_read_as_colours(tmp_path: Path, kind: str) -> None:
    color = smooth(20, 30)
    bgr = color[..., ::-1]
    stored, expected = {
        "grey": (color[..., 0], np.repeat(color[..., :1], 3, -1)),
        "alpha": (np.dstack([bgr, np.full((20, 30), 9, np.uint8)]), color),
        "16 bit": (bgr.astype(np.uint16) * 257, color),
        "16 bit grey": (color[..., 0].astype(np.uint16) * 257, np.repeat(color[..., :1], 3, -1)),
    }[kind]
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    read = read_image(tmp_path / "a.png")
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (3, 2), (17, 600)])
def test_tiny_and_long_images_are_drawn(tmp_path: Path, shape: tuple[int, int]) -> None:
    sample = pair(tmp_path, smooth(*shape), blocks(*shape))
    dataset = TrainDataset([sample], {"gta": table()}, AugmentSettings(short_side=32, crop=48), seed=0)
    for draw in range(8):
        item = dataset[draw]
        assert item["image"].shape == (3, 48, 48)
        assert (item["size"] >= 1).all()


def test_a_huge_image_is_drawn(tmp_path: Path) -> None:
    sample = pair(tmp_path, smooth(3000, 4100), blocks(3000, 4100))
    dataset = TrainDataset([sample], {"gta": table()}, AugmentSettings(), seed=0)
    assert dataset[0]["image"].shape == (3, 512, 512)


def test_a_label_in_colour_is_an_error_that_names_it(tmp_path: Path) -> None:
    sample = pair(tmp_path, smooth(20, 30), blocks(20, 30))
    assert sample.label is not None
    write_png(sample.label, smooth(20, 30))
    with pytest.raises(ReinError, match=r"a\.png_label\.png' has 3 channels"):
        load_label(sample, table())


def test_names_with_spaces_and_of_any_script_are_read_and_copied(tmp_path: Path) -> None:
    sample = pair(tmp_path / "Straßen von Zürich", smooth(40, 50), blocks(40, 50), "東京 1.png")
    write_compact(sample)
    assert open_compact(sample) is not None
    assert open_pair(sample, table()).shape == (40, 50)


def test_a_link_to_nowhere_is_named_with_its_target(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ReinError, match=r"a link to '.*gone\.png'"):
        read_image(tmp_path / "a.png")


# --- workers -----------------------------------------------------------------------------------------------


def test_a_worker_decodes_with_one_thread() -> None:
    """In a process of its own: a worker's signals are not for the process that tests, nor for what it starts."""
    program = (
        "import cv2; from reincli.data.dataset import init_worker; init_worker(0); print(cv2.getNumThreads())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1
