"""Labels as stored: few bits, colours, and what is no label map."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from reincli.config import DataSettings
from reincli.data.check import absent_classes, inspect, require_pixels
from reincli.data.labels import Classes
from reincli.data.loading import load_label
from reincli.data.sources import Sample, find_samples, label_table
from reincli.errors import ReinError
from reincli.media.images import read_label, write_png

COLORS = [(0, 0, 0), (37, 91, 151), (74, 182, 46)]


def png_of_bits(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey PNG of few bits, from the standard's text."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    planes = np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(len(values), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(planes, axis=1))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("width", [16, 13])
def test_grey_labels_of_few_bits_give_the_stored_values(tmp_path, bits, width):
    values = np.random.default_rng(bits).integers(0, 2**bits, (9, width)).astype(np.uint8)
    png_of_bits(tmp_path / "x.png", values, bits)
    assert np.array_equal(read_label(tmp_path / "x.png"), values)


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_a_jpeg_is_no_label_whatever_it_is_called(tmp_path, name):
    data = cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1]
    (tmp_path / name).write_bytes(data.tobytes())
    with pytest.raises(ReinError, match="is a JPEG") as caught:
        read_label(tmp_path / name)
    assert "PNG" in caught.value.hint


def described(root: Path, **more: object) -> DataSettings:
    classes = [{"name": n, "color": c} for n, c in zip(["sky", "wall", "road"], COLORS, strict=True)]
    own = {"root": str(root), "classes": classes, "splits": {"train": {"images": "i", "labels": "l"}}, **more}
    return DataSettings(own={"own": own}, train=("own:train",), val=())


def painted(root: Path, label: np.ndarray, colors: list[tuple[int, int, int]] = COLORS) -> None:
    write_png(root / "i/0.png", np.zeros((*label.shape, 3), np.uint8))
    write_png(root / "l/0.png", np.array(colors, np.uint8)[label])


def sample_of(data: DataSettings) -> tuple[Sample, np.ndarray]:
    return find_samples("own:train", data)[0], label_table("own", data)


@pytest.mark.parametrize("stored", [None, {"7": 0, "3": 1, "255": 2}])
def test_labels_in_the_declared_colours_are_the_classes(tmp_path, stored):
    label = np.random.default_rng(0).integers(0, 3, (20, 30))
    painted(tmp_path, label)
    data = described(tmp_path, **({"map": stored} if stored else {}))
    assert np.array_equal(load_label(*sample_of(data)), label)


def test_colours_are_exact_and_what_is_not_declared_is_counted_and_named(tmp_path):
    label = np.zeros((10, 20), int)
    label[0, :7], label[1, :3] = 1, 2
    painted(tmp_path, label, [COLORS[0], (37, 91, 152), (255, 255, 255)])
    data = described(tmp_path)
    message = r"10 of its pixels \(5\.0%\) .* \(37, 91, 152\) 7, \(255, 255, 255\) 3"
    with pytest.raises(ReinError, match=message) as caught:
        load_label(*sample_of(data))
    assert "ignore_colors = [[37, 91, 152]]" in caught.value.hint
    report = inspect(*sample_of(data))
    assert report.hint == caught.value.hint
    assert "37, 91, 152" in report.unreadable
    told = described(tmp_path, ignore_colors=[(37, 91, 152), (255, 255, 255)])
    assert (load_label(*sample_of(told)) == 255).sum() == 10


def test_a_photograph_is_no_label(tmp_path):
    write_png(tmp_path / "i/0.png", np.zeros((40, 40, 3), np.uint8))
    write_png(tmp_path / "l/0.png", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    with pytest.raises(ReinError, match=r"and 15\d\d more") as caught:
        load_label(*sample_of(described(tmp_path)))
    assert "photograph" in caught.value.hint


def test_two_classes_of_one_colour_cannot_be_told_apart(tmp_path):
    painted(tmp_path, np.zeros((4, 4), int))
    data = described(tmp_path)
    own = data.own["own"]
    same = [each.model_copy(update={"color": (0, 0, 0)}) for each in own.classes]
    twice = described(tmp_path, classes=[each.model_dump() for each in same])
    with pytest.raises(ReinError, match="same one") as caught:
        load_label(*sample_of(twice))
    assert "own color" in caught.value.hint


# --- nothing there -----------------------------------------------------------------------------------------


def counts(**pixels: int) -> np.ndarray:
    result = np.zeros(256, np.int64)
    for value, number in pixels.items():
        result[int(value[1:])] = number
    return result


def test_classes_without_a_pixel_are_told_with_what_is_ignored(tmp_path):
    table = label_table("own", described(tmp_path))
    classes = Classes(("sky", "wall", "road"), tuple(COLORS))
    assert absent_classes(counts(v0=1, v1=1, v2=1, v255=9), table, classes) == ""
    told = absent_classes(counts(v0=63, v1=0, v255=37), table, classes)
    assert "no pixel is of wall, road (2 of 3 classes)" in told
    assert "255, which is ignored, covers 37%" in told


def test_labels_that_are_all_ignored_are_an_error(tmp_path):
    table = label_table("own", described(tmp_path, ignore=11))
    with pytest.raises(ReinError, match=r"No pixel of it is of any class.*11 \(100%\)"):
        require_pixels(counts(v11=5), table, "it")
    require_pixels(counts(v11=5, v2=1), table, "it")
    require_pixels(counts(), table, "it")


def test_images_of_another_suffix_are_counted(tmp_path):
    (tmp_path / "i").mkdir()
    (tmp_path / "l").mkdir()
    for name in ("a.JPG", "b.JPG", "notes.txt"):
        (tmp_path / "i" / name).touch()
    with pytest.raises(ReinError, match=r"No image '\*\.png'.*2 \.JPG, 1 \.txt") as caught:
        find_samples("own:train", described(tmp_path))
    assert 'image_suffix = ".JPG"' in caught.value.hint


def test_a_mistyped_folder_is_named_with_the_nearest_one(tmp_path):
    (tmp_path / "ii").mkdir()
    data = described(tmp_path, splits={"train": {"images": "iii", "labels": "l"}})
    with pytest.raises(ReinError, match="there is no folder") as caught:
        find_samples("own:train", data)
    assert "Did you mean 'ii'?" in caught.value.hint


def test_two_classes_of_one_name_are_refused(tmp_path):
    from reincli.settings_files import build_settings

    raw = described(tmp_path).model_dump(mode="json")
    raw["own"]["own"]["classes"][1]["name"] = "sky"
    with pytest.raises(ReinError, match="two classes called 'sky'") as caught:
        build_settings({"data": raw})
    assert caught.value.usage


def test_a_lossy_webp_is_no_label_and_a_lossless_one_is(tmp_path):
    label = np.random.default_rng(0).integers(0, 3, (8, 8))
    data = described(tmp_path)
    painted(tmp_path, label)
    picture = np.array(COLORS, np.uint8)[label][..., ::-1]
    sample, table = sample_of(data)
    for quality, refused in ((50, True), (101, False)):  # over 100: lossless
        content = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
        (tmp_path / "l/0.png").write_bytes(content.tobytes())
        if refused:
            with pytest.raises(ReinError, match="is a lossy WebP"):
                load_label(sample, table)
        else:
            assert np.array_equal(load_label(sample, table), label)


@pytest.mark.parametrize("channels", [2, 3])
def test_class_indices_in_the_form_of_colours_are_told_and_never_to_be_declared_as_colours(
    tmp_path, channels
):
    from PIL import Image

    label = np.random.default_rng(0).integers(0, 3, (8, 8)).astype(np.uint8)
    data = described(tmp_path)
    painted(tmp_path, label)
    alpha = np.full_like(label, 255)
    planes = (label, alpha) if channels == 2 else (label, label, label)
    Image.fromarray(np.dstack(planes), "LA" if channels == 2 else "RGB").save(tmp_path / "l/0.png")
    sample, table = sample_of(data)
    with pytest.raises(ReinError, match="values up to 2: class indices") as caught:
        load_label(sample, table)
    assert caught.value.hint == "Save one of its channels alone, as a PNG."
    Image.fromarray(np.dstack([label * 50] * 3), "RGB").save(tmp_path / "l/0.png")  # greys that mean no index
    with pytest.raises(ReinError, match="no class declares") as caught:
        load_label(sample, table)
    assert "ignore_colors" in caught.value.hint


@pytest.mark.parametrize(
    ("images", "labels", "hint"),
    [
        ("{}.png", "{}.tif", 'label_suffix = ".tif"'),
        ("{}.png", "{}_mask.png", 'label_suffix = "_mask.png"'),
        ("{}.png", "{}.npy", "as PNGs of class indices"),
        ("{}.png", "{}.jpg", "as PNGs of class indices"),
        ("{}.png", "{}.txt", 'format = "yolo"'),
        ("{}.png", "other{}.png", "Bring their labels"),
    ],
)
def test_labels_under_other_names_are_seen(tmp_path, images, labels, hint):
    for folder, name in (("i", images), ("l", labels)):
        (tmp_path / folder).mkdir()
        for number in range(12):
            (tmp_path / folder / name.format(number)).touch()
    with pytest.raises(ReinError, match="12 of 12 images") as caught:
        find_samples("own:train", described(tmp_path))
    assert hint in caught.value.hint


def test_images_of_another_suffix_are_seen_beside_the_right_ones(tmp_path):
    for name in ("i/0.png", "i/1.jpg", "i/2.jpg", "l/0.png", "l/1.png", "l/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ReinError, match="2 labels in") as caught:
        find_samples("own:train", described(tmp_path))
    assert "end with '.jpg'" in caught.value.hint
    assert "convert them" in caught.value.hint


def test_colours_in_the_order_of_opencv_are_told(tmp_path):
    label = np.random.default_rng(0).integers(0, 3, (8, 8))
    data = described(tmp_path)
    painted(tmp_path, label)
    cv2.imwrite(str(tmp_path / "l/0.png"), np.array(COLORS, np.uint8)[label])  # which takes blue, green, red
    sample, table = sample_of(data)
    with pytest.raises(ReinError, match="no class declares") as caught:
        load_label(sample, table)
    assert "red and blue exchanged" in caught.value.hint


@pytest.mark.parametrize(("stored", "hint"), [("500", "write them anew"), ("road", '"7" = 0')])
def test_values_that_no_label_holds_cannot_be_mapped(tmp_path, stored, hint):
    with pytest.raises(ReinError, match=f"'{stored}'; expected 0 to 255") as caught:
        label_table("own", described(tmp_path, map={stored: 0}))
    assert hint in caught.value.hint


def test_a_file_of_settings_in_the_place_of_a_dataset(tmp_path):
    with pytest.raises(ReinError, match="No dataset") as caught:
        find_samples("my own.toml:val", described(tmp_path))
    assert "--config 'my own.toml'" in caught.value.hint
