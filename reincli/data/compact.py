"""A compact copy of an image and its label that loads several times faster than their PNGs.

The image is kept in tiles of 256 x 256, of which a training crop decodes only those that it shows; as JPEG without
colour subsampling, or as plain bytes, which are exact and need 3 bytes a pixel. The label is kept as runs of
equal values, exactly. The copy of `images/1.png` is `images/.compact/1.png.tiles`; it counts as long as the sizes and
times of the two original files are those that it was made from.

Layout of a file, little endian: magic, length and CRC-32 of the head, head (JSON, with the CRC-32 of every part), label
(zlib of values, then lengths of the runs), tiles in rows from the top left. What is read is checked.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from reincli.data.sources import Sample
from reincli.data.stored import read_values
from reincli.data.transforms import Box
from reincli.errors import ReinError
from reincli.media import workers
from reincli.media.images import read_image
from reincli.media.whole_files import write_bytes

MAGIC = b"REINTIL2"
TILE = 256
"""Side of a tile in pixels; a multiple of 16, so that JPEG blocks are those of the whole image."""
QUALITY = 95
"""Of JPEG tiles, colours at full resolution. On photographs about 42 dB against the original."""
HEAD = struct.Struct("<II")
"""Length and CRC-32 of the head."""
LONGEST_RUN = 65535


def compact_path(image: Path) -> Path:
    """Where the compact copy of an image lies: a hidden folder beside it, which no listing enters."""
    return image.parent / ".compact" / f"{image.name}.tiles"


@dataclass(frozen=True)
class Compact:
    """An opened compact copy; it is `transforms.Pixels`.

    Attributes:
        shape: (height, width) of the image.
        values: stored values that occur in the label.
        lossless: whether tiles are plain bytes.
        offsets: (tiles + 1,) where each tile begins.
        data: the whole file, mapped into memory: what is not needed is not read.
        label_span: first byte and length of the packed label.
        label_shape: (height, width) of the label.
        sums: CRC-32 of the label, then of each tile. path: of the file.
    """

    shape: tuple[int, int]
    values: tuple[int, ...]
    lossless: bool
    offsets: np.ndarray
    data: np.ndarray
    label_span: tuple[int, int]
    label_shape: tuple[int, int]
    sums: tuple[int, ...]
    path: Path

    def label(self) -> np.ndarray:
        """The label as stored in its file, (H, W) uint8."""
        start, length = self.label_span
        stored = self.data[start : start + length]
        self._check(stored, 0)
        packed = zlib.decompress(stored.data)
        runs = len(packed) // 3
        values = np.frombuffer(packed, np.uint8, runs)
        lengths = np.frombuffer(packed, "<u2", runs, offset=runs)
        return np.repeat(values, lengths).reshape(self.label_shape)

    def region(self, box: Box) -> np.ndarray:
        """A part as (h, w, 3) uint8 RGB; only its tiles are decoded."""
        first_row, last_row = box.top // TILE, (box.bottom - 1) // TILE
        first_column, last_column = box.left // TILE, (box.right - 1) // TILE
        height = min((last_row + 1) * TILE, self.shape[0]) - first_row * TILE
        width = min((last_column + 1) * TILE, self.shape[1]) - first_column * TILE
        canvas = np.empty((height, width, 3), np.uint8)
        across = -(-self.shape[1] // TILE)
        for row in range(first_row, last_row + 1):
            for column in range(first_column, last_column + 1):
                tile = self._tile(row * across + column, row, column)
                top, left = (row - first_row) * TILE, (column - first_column) * TILE
                canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        top, left = box.top - first_row * TILE, box.left - first_column * TILE
        part = canvas[top : top + box.bottom - box.top, left : left + box.right - box.left]
        return part if self.lossless else cv2.cvtColor(part, cv2.COLOR_BGR2RGB)

    def _tile(self, index: int, row: int, column: int) -> np.ndarray:
        stored = self.data[self.offsets[index] : self.offsets[index + 1]]
        self._check(stored, 1 + index)
        if not self.lossless:
            tile = cv2.imdecode(stored, cv2.IMREAD_COLOR)
            assert tile is not None  # its checksum is right
            return tile
        height = min(TILE, self.shape[0] - row * TILE)
        width = min(TILE, self.shape[1] - column * TILE)
        return stored.reshape(height, width, 3)

    def _check(self, stored: np.ndarray, part: int) -> None:
        """ReinError where a part is not what was written."""
        if zlib.crc32(stored.data) != self.sums[part]:
            raise ReinError(
                f"The compact copy '{self.path}' is damaged: a checksum in it is wrong.",
                "Write the copies again: rein prepare-data NAME --cache --force",
            )


# --- reading -----------------------------------------------------------------------------------------------


def open_compact(sample: Sample) -> Compact | None:
    """The compact copy of a sample, or None where there is none, it is damaged, or an original has changed."""
    if sample.label is None:
        return None
    path = compact_path(sample.image)
    try:
        data = np.memmap(path, np.uint8, "r")
        if data[: len(MAGIC)].tobytes() != MAGIC:
            return None
        start = len(MAGIC) + HEAD.size
        length, checksum = HEAD.unpack(data[len(MAGIC) : start].tobytes())
        encoded = data[start : start + length].tobytes()
        if zlib.crc32(encoded) != checksum:
            return None
        head = json.loads(encoded)
        if head["made_from"] != _state(sample) or head["bytes"] != data.size:
            return None
        first = start + length
        offsets = np.cumsum([first + head["label"], *head["tiles"]])
        return Compact(
            (head["height"], head["width"]),
            tuple(head["values"]),
            head["lossless"],
            offsets,
            np.asarray(data),
            (first, head["label"]),
            (head["label_height"], head["label_width"]),
            tuple(head["sums"]),
            path,
        )
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _state(sample: Sample) -> list[int]:
    """Sizes and times of both original files, and what their colours mean where that is declared."""
    image, label = sample.image.stat(), Path(str(sample.label)).stat()
    painted = [zlib.crc32(repr(sample.colors).encode())] if sample.colors else []
    return [image.st_size, image.st_mtime_ns, label.st_size, label.st_mtime_ns, *painted]


# --- writing -----------------------------------------------------------------------------------------------


def pack_label(label: np.ndarray) -> bytes:
    """Runs of equal values along the rows: zlib of all values (uint8), then all lengths (uint16)."""
    flat = label.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(np.append(starts, flat.size))
    pieces = -(-lengths // LONGEST_RUN)  # a run longer than 16 bits is cut
    values = np.repeat(flat[starts], pieces)
    cut = np.full(values.size, LONGEST_RUN)
    cut[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * LONGEST_RUN
    return zlib.compress(values.tobytes() + cut.astype("<u2").tobytes(), 6)


def write_compact(sample: Sample, *, lossless: bool = False) -> None:
    """Write the compact copy of a sample, whole or not at all.

    Args:
        sample: with a label, both readable.
        lossless: plain bytes instead of JPEG.

    Raises:
        ReinError: a file cannot be read or written, or image and label differ in size.
    """
    state = _state(sample)
    image, label = read_image(sample.image), read_values(Path(str(sample.label)), sample.colors)
    if image.shape[:2] != label.shape:
        (height, width), (label_height, label_width) = image.shape[:2], label.shape
        raise ReinError(
            f"'{sample.image}' is {width}x{height}, its label {label_width}x{label_height}: not copied.",
            "It is read from its own file.",
        )
    tiles = [
        _encode(image[top : top + TILE, left : left + TILE], lossless)
        for top in range(0, image.shape[0], TILE)
        for left in range(0, image.shape[1], TILE)
    ]
    packed = pack_label(label)
    head = {
        "height": image.shape[0],
        "width": image.shape[1],
        "label_height": label.shape[0],
        "label_width": label.shape[1],
        "values": np.unique(label).tolist(),
        "lossless": lossless,
        "made_from": state,
        "label": len(packed),
        "tiles": [len(tile) for tile in tiles],
        "sums": [zlib.crc32(part) for part in (packed, *tiles)],
        "bytes": 0,
    }
    encoded = _head(head, len(packed) + sum(map(len, tiles)))
    content = b"".join([MAGIC, HEAD.pack(len(encoded), zlib.crc32(encoded)), encoded, packed, *tiles])
    write_bytes(compact_path(sample.image), content)


def copy_all(
    samples: Sequence[Sample], *, lossless: bool = False, force: bool = False, threads: int = 4
) -> Iterator[tuple[Sample, bool, str]]:
    """Write the compact copies of samples that have no fresh one of that kind; files are worked on in threads.

    Yields:
        For every sample in its order: itself, whether a copy was written, and why not if it could not be.

    Raises:
        ReinError: no space or permission to write.
    """

    def copy(sample: Sample) -> tuple[Sample, bool, str]:
        there = None if force else open_compact(sample)
        if sample.label is None or (there is not None and there.lossless == lossless):
            return sample, False, ""
        try:
            write_compact(sample, lossless=lossless)
        except ReinError as error:
            if error.message.startswith("Cannot write"):
                raise
            return sample, False, error.message
        return sample, True, ""

    with workers.threads(threads) as pool:
        yield from workers.in_order(pool, copy, samples)


def _head(head: dict[str, object], rest: int) -> bytes:
    """The head with the length of the whole file in it, padded so that the number of its digits does not matter."""
    room = len(json.dumps(head)) + 20
    head["bytes"] = len(MAGIC) + HEAD.size + room + rest
    return json.dumps(head).ljust(room).encode()


def _encode(tile: np.ndarray, lossless: bool) -> bytes:
    if lossless:
        return np.ascontiguousarray(tile).tobytes()
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()
