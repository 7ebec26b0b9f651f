"""The datasets as they are downloaded: folders, names and file formats, with generated streets as content.

`write` makes one and returns what has to be read when it is prepared: class indices by source and by sample name.
Formats are written from their own definitions (PNG by its standard), not by the library that reads them.
"""

from __future__ import annotations

import functools
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from reincli.data.labels import LABEL_IDS, MAPILLARY, POLYGON_IDS, SYNTHIA_IDS
from reincli.data.vistas import VISTAS_2
from reincli.generated.streets import generate
from reincli.media.images import write_png
from reincli.media.whole_files import write_bytes

Size = tuple[int, int]
"""Width and height."""
Labels = dict[str, np.ndarray]
Expected = dict[str, Labels]
SMALL: Size = (128, 64)
BDD_TURNED, BDD_NO_LABEL, BDD_NO_IMAGE = "b1c9c847-3bda4659", "80a9e37d-e4548ac1", "ff7b98c7-3cb964ac"
GROUPED = ("car", "person", "rider", "bicycle", "motorcycle")


def write(dataset: str, root: Path, size: Size = SMALL, count: int = 2) -> Expected:
    """Write a dataset as it comes, `count` images a split (and condition); what must be read of it."""
    writers: dict[str, Callable[[Path, Size, int], Expected]] = {
        "cityscapes": cityscapes,
        "gta": gta,
        "synthia": synthia,
        "urbansyn": urbansyn,
        "mapillary": mapillary,
        "bdd100k": bdd100k,
        "acdc": acdc,
    }
    return writers[dataset](root, size, count)


# --- content -----------------------------------------------------------------------------------------------


@functools.cache
def _base(seed: int) -> tuple[np.ndarray, np.ndarray]:
    image, ids = generate(seed, "clear", SMALL)
    strip = np.arange(SMALL[0]) // 3
    ids[-3:] = np.where(strip < 34, strip, 0)  # every labelId occurs
    return image, ids


def street(number: int, size: Size = SMALL) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A street: image (H, W, 3) uint8 RGB, labelIds and class indices (H, W) uint8."""
    image, ids = (np.roll(part, 7 * number, axis=1) for part in _base(number % 2))
    if size != SMALL:
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        noise = np.random.default_rng(number).normal(
            0, 2.0, image.shape
        )  # of a sensor: work for a compressor
        image = np.clip(image + np.rint(noise), 0, 255).astype(np.uint8)
        ids = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
    by_id = np.full(256, 255, np.uint8)
    for index, stored in enumerate(LABEL_IDS):
        by_id[stored] = index
    return image, ids, by_id[ids]


# --- file formats ------------------------------------------------------------------------------------------


def _png(
    path: Path, shape: tuple[int, ...], bits: int, colour_type: int, rows: list[bytes], *extra: bytes
) -> None:
    """A PNG from the standard's text: no library is asked."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", shape[1], shape[0], bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(each[:4], each[4:]) for each in extra)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def palette_png(path: Path, indices: np.ndarray, bits: int = 8) -> None:
    """Indices (H, W) uint8 with a palette of colours that mean nothing, one of them half transparent."""
    if bits == 8:
        rows = [row.tobytes() for row in indices]
    else:
        planes = np.unpackbits(indices[..., None], axis=-1)[..., -bits:].reshape(len(indices), -1)
        rows = [row.tobytes() for row in np.packbits(planes, axis=1)]
    colors = np.random.default_rng(0).integers(0, 256, 3 * 2**bits, dtype=np.uint8).tobytes()
    _png(path, indices.shape, bits, 3, rows, b"PLTE" + colors, b"tRNS\x00\x80")


def deep_png(path: Path, channels: np.ndarray) -> None:
    """(H, W, 3) uint16 RGB as a PNG of 16 bits a channel."""
    _png(path, channels.shape, 16, 2, [row.astype(">u2").tobytes() for row in channels])


def jpeg(path: Path, image: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB as a photograph."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    write_bytes(path, data.tobytes())


def rectangles(ids: np.ndarray) -> Iterator[tuple[int, int, int, int, int]]:
    """(id, left, top, right, bottom), all inclusive, that together are the map."""
    open_: dict[tuple[int, int, int], int] = {}
    for y, row in enumerate([*ids, None]):
        runs = []
        if row is not None:
            starts = np.flatnonzero(np.diff(row.astype(int), prepend=-1))
            ends = [*(starts[1:] - 1), len(row) - 1]
            runs = [(int(row[a]), int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
        for run in [run for run in open_ if run not in runs]:
            stored, left, right = run
            yield stored, left, open_.pop(run), right, y - 1
        for run in runs:
            open_.setdefault(run, y)


def polygons(path: Path, ids: np.ndarray) -> None:
    """A polygon file of Cityscapes that its development kit draws as this map of labelIds.

    Everything lies over a whole image of road; some objects are groups; what is deleted and the licence plates, which
    have no id, leave no trace; polygons leave the image at its edges, as those of annotators do.
    """
    height, width = ids.shape
    names = {stored: name for name, stored in POLYGON_IDS.items()}

    def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
        left, top = left - 2 * (left == 0), top - 2 * (top == 0)
        right, bottom = right + 3 * (right == width - 1), bottom + 3 * (bottom == height - 1)
        return [[left, top], [right, top], [right, bottom], [left, bottom]]

    whole = box(0, 0, width - 1, height - 1)
    objects: list[dict[str, object]] = [
        {"label": "road", "polygon": whole},
        {"label": "sky", "polygon": whole, "deleted": 1, "id": 1, "user": "a", "date": "01-Jan-2015"},
    ]
    for index, (stored, *corners) in enumerate(rectangles(ids)):
        name = names[stored]
        group = "group" if name in GROUPED and index % 2 else ""
        objects.append({"label": name + group, "polygon": box(*corners), "deleted": 0, "verified": 0})
        if name == "car":
            objects.append({"label": "license plate", "polygon": box(*corners)})
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"imgHeight": height, "imgWidth": width, "objects": objects}
    path.write_text(json.dumps(content, indent=4), "utf-8")


# --- datasets ----------------------------------------------------------------------------------------------


def cityscapes(root: Path, size: Size, count: int) -> Expected:
    """Polygons for most images; of the last of `val` there are the drawn labelIds alone; `test` has no labels."""
    expected: Expected = {"cityscapes:train": {}, "cityscapes:val": {}}
    for split, city in (("train", "aachen"), ("val", "frankfurt"), ("test", "berlin")):
        for number in range(count):
            image, ids, indices = street(number + 3 * (split == "val"), size)
            stem = f"{city}/{city}_{number:06}_000019"
            write_png(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png", image)
            if split == "test":
                continue
            label = root / f"gtFine/{split}/{stem}_gtFine_"
            if split == "val" and number == count - 1:
                write_png(Path(f"{label}labelIds.png"), ids)
            else:
                polygons(Path(f"{label}polygons.json"), ids)
                write_png(Path(f"{label}labelIds.png"), np.zeros_like(ids))  # polygons come first
            write_png(Path(f"{label}color.png"), image)
            write_png(Path(f"{label}instanceIds.png"), ids.astype(np.uint16) * 1000)
            expected[f"cityscapes:{split}"][f"{stem}_leftImg8bit.png"] = indices
    return expected


def gta(root: Path, size: Size, count: int) -> Expected:
    """Palette PNGs of labelIds."""
    expected: Labels = {}
    for number in range(1, count + 1):
        image, ids, indices = street(number, size)
        write_png(root / f"images/{number:05}.png", image)
        palette_png(root / f"labels/{number:05}.png", ids)
        expected[f"{number:05}.png"] = indices
    return {"gta": expected}


def synthia(root: Path, size: Size, count: int) -> Expected:
    """16 bits and three channels: the class in red (OpenCV's last), the instance in green."""
    expected: Labels = {}
    by_class = np.zeros(256, np.uint16)
    by_class[: len(SYNTHIA_IDS)] = SYNTHIA_IDS
    for number in range(count):
        image, _, indices = street(number, size)
        classes = by_class[indices]
        channels = np.stack(
            [classes, np.arange(classes.size).reshape(classes.shape) % 65536, 0 * classes], -1
        )
        write_png(root / f"RGB/{number:07}.png", image)
        deep_png(root / f"GT/LABELS/{number:07}.png", channels.astype(np.uint16))
        write_png(root / f"GT/COLOR/{number:07}.png", image)
        expected[f"{number:07}.png"] = indices
    return {"synthia": expected}


def urbansyn(root: Path, size: Size, count: int) -> Expected:
    """Class indices as they come, 19 for what has none."""
    expected: Labels = {}
    for number in range(1, count + 1):
        image, _, indices = street(number, size)
        write_png(root / f"rgb/rgb_{number:04}.png", image)
        write_png(root / f"ss/ss_{number:04}.png", np.where(indices == 255, 19, indices).astype(np.uint8))
        write_png(root / f"ss_colour/ss_colour_{number:04}.png", image)
        expected[f"rgb_{number:04}.png"] = indices
    return {"urbansyn": expected}


def mapillary(root: Path, size: Size, count: int) -> Expected:
    """Photographs of odd size, palette PNGs of 66 ids; `val` is read from the half-size copy."""
    expected: Expected = {"mapillary:train": {}, "mapillary:val": {}}
    by_class: dict[int, list[int]] = {}
    for stored, (_, index) in enumerate(MAPILLARY):
        by_class.setdefault(index, []).append(stored)
    for split in ("training", "validation", "testing"):
        for number in range(count):
            image, _, indices = street(number + 3 * (split == "validation"), (size[0] + 1, size[1] + 1))
            name = f"__{split[:2]}CRyFzoDOXn6unQ6a{number}"
            jpeg(root / f"{split}/images/{name}.jpg", image)
            if split == "testing":
                continue
            turn = np.indices(indices.shape).sum(0)  # all ids of a class take part
            stored_ids = np.zeros_like(indices)
            for index, ids in by_class.items():
                stored_ids = np.where(indices == index, np.asarray(ids)[turn % len(ids)], stored_ids)
            palette_png(root / f"{split}/v1.2/labels/{name}.png", stored_ids.astype(np.uint8))
            palette_png(root / f"{split}/v2.0/labels/{name}.png", vistas_2(indices))
            write_png(root / f"{split}/v1.2/instances/{name}.png", stored_ids.astype(np.uint16) * 256)
            if split == "validation":
                half = [int_range(length) for length in indices.shape]
                expected["mapillary:val"][f"{name}.jpg"] = indices[np.ix_(*half)]
            else:
                expected["mapillary:train"][f"{name}.jpg"] = indices
    return expected


def vistas_2(indices: np.ndarray) -> np.ndarray:
    """(H, W) uint8 ids of version 2.0 that stand for these class indices; all ids of a class take part."""
    turn = np.indices(indices.shape).sum(0)
    stored = np.zeros_like(indices)
    for index in (*range(19), 255):
        ids = [number for number, (_, each) in enumerate(VISTAS_2) if each == index]
        stored = np.where(indices == index, np.asarray(ids)[turn % len(ids)], stored)
    return stored.astype(np.uint8)


def int_range(length: int) -> np.ndarray:
    """Rows or columns that the nearest pixels of a half-size copy come from."""
    half = length // 2
    return np.floor((np.arange(half) + 0.5) * (length / half)).astype(int)


def bdd100k(root: Path, size: Size, count: int) -> Expected:
    """Class indices as they come, under both forms of names; in `val` a turned pair and two files without partner."""
    expected: Expected = {"bdd100k:train": {}, "bdd100k:val": {}}
    masks = root / "labels/sem_seg/masks"
    for split, suffix in (("train", "_train_id"), ("val", ""), ("test", "")):
        for number in range(count):
            image, _, indices = street(number + 3 * (split == "val"), size)
            name = f"0a0a0b1a-7c39d84{number}"
            jpeg(root / f"images/10k/{split}/{name}.jpg", image)
            if split == "test":
                continue
            write_png(masks / f"{split}/{name}{suffix}.png", indices)
            write_png(root / f"labels/sem_seg/colormaps/{split}/{name}.png", image)
            expected[f"bdd100k:{split}"][f"{name}.jpg"] = indices
    image, _, indices = street(9, size)
    jpeg(root / f"images/10k/val/{BDD_TURNED}.jpg", image)
    write_png(masks / f"val/{BDD_TURNED}.png", np.ascontiguousarray(indices.T))
    expected["bdd100k:val"][f"{BDD_TURNED}.jpg"] = indices.T
    jpeg(root / f"images/10k/val/{BDD_NO_LABEL}.jpg", image)
    write_png(masks / f"val/{BDD_NO_IMAGE}.png", indices)
    return expected


def acdc(root: Path, size: Size, count: int) -> Expected:
    """Four conditions; labelIds everywhere, for fog the class indices too; `test` has no labels."""
    expected: Expected = {"acdc:train": {}, "acdc:val": {}}
    number = 0
    for condition in ("fog", "night", "rain", "snow"):
        for split in ("train", "val", "test"):
            for frame in range(count):
                number += 1
                image, ids, indices = street(number, size)
                stem = f"{condition}/{split}/GOPR0475/GOPR0475_frame_{frame:06}"
                write_png(root / f"rgb_anon/{stem}_rgb_anon.png", image)
                write_png(root / f"rgb_anon/{stem.replace(split, f'{split}_ref', 1)}_rgb_ref_anon.png", image)
                if split == "test":
                    continue
                write_png(root / f"gt/{stem}_gt_labelIds.png", ids)
                write_png(root / f"gt/{stem}_gt_labelColor.png", image)
                if condition == "fog":
                    write_png(root / f"gt/{stem}_gt_labelTrainIds.png", indices)
                expected[f"acdc:{split}"][f"{stem}_rgb_anon.png"] = indices
    return expected
