"""One raw label file to class indices: a pure function of a path for each form in which datasets come.

Everything that has no class becomes 255. Results are (H, W) uint8.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from reincli.data.labels import (
    IGNORE,
    LABEL_IDS,
    POLYGON_IDS,
    SYNTHIA_IDS,
    mapillary_table,
    table_to_indices,
)
from reincli.data.stored import mapillary_ids
from reincli.data.vistas import VISTAS_2, vistas_2_table
from reincli.errors import ReinError
from reincli.media.images import jpeg_turn, read_label, read_stored, with_turn, write_png
from reincli.media.outputs import mark
from reincli.media.whole_files import write_bytes
from reincli.prepare.shapes import FARTHEST, LARGEST_SIDE

MAKER = "prepare-data"
"""In the marks of labels; behind it stands the raw file's `raw_stamp`."""
HALF_QUALITY = 75
"""JPEG quality of the half-size Mapillary images: Pillow's own, with which the original made them."""
HALF_LABEL = " half label"
"""End of the name of a form whose label is written at half size."""


def from_label_ids(path: Path) -> np.ndarray:
    """labelIds of the Cityscapes benchmark, grey or palette PNG (Cityscapes, GTA, ACDC)."""
    return cv2.LUT(read_label(path), table_to_indices(LABEL_IDS))


def from_synthia(path: Path) -> np.ndarray:
    """Synthia's 16-bit PNG of several channels; the class is in the last one as OpenCV orders them."""
    stored = read_stored(path)
    if stored.ndim == 3 and stored.dtype == np.uint8:
        raise ReinError(
            f"'{path}' is a colour picture (8 bits a channel); Synthia's labels have 16.",
            "Put the files of GT/LABELS there, not those of GT/COLOR.",
        )
    ids = stored[..., -1] if stored.ndim == 3 else stored
    return table_to_indices(SYNTHIA_IDS)[np.minimum(ids, 255)]


def from_mapillary(path: Path) -> np.ndarray:
    """Mapillary Vistas 1.2: palette PNG of 66 ids."""
    return cv2.LUT(mapillary_ids(path), mapillary_table())


def from_mapillary_2(path: Path) -> np.ndarray:
    """Mapillary Vistas 2.0: palette PNG of 124 ids."""
    stored = read_label(path)
    largest = int(stored[stored != IGNORE].max(initial=0))
    if largest >= len(VISTAS_2):
        raise ReinError(
            f"'{path}' has id {largest}; version 2.0 of Mapillary Vistas ends at {len(VISTAS_2) - 1}.",
            "Fetch it again: the labels of v2.0/labels, not its instances.",
        )
    return cv2.LUT(stored, vistas_2_table())


def from_polygons(path: Path) -> np.ndarray:
    """A polygon file of Cityscapes, drawn as its development kit does: in order, later ones over earlier ones.

    Deleted objects and those without an id (licence plates) are left out, groups are drawn as their members.

    Raises:
        ReinError: no such file, no JSON, or a name that the benchmark does not know.
    """
    # The kit draws with Pillow too, whose outlines differ from OpenCV's by pixels.
    from PIL import Image, ImageDraw

    try:
        scene = json.loads(path.read_text("utf-8"))
        size = (int(scene["imgWidth"]), int(scene["imgHeight"]))
        objects = [
            (str(each["label"]), [(float(x), float(y)) for x, y in each["polygon"]])
            for each in scene["objects"]
            if not each.get("deleted")
        ]
        if not all(0 < side <= LARGEST_SIDE for side in size):
            raise ValueError(size)
        if not all(abs(at) <= FARTHEST for _, polygon in objects for corner in polygon for at in corner):
            raise ValueError("a corner")
    except OSError as error:
        raise ReinError(f"Cannot read the polygons '{path}': {error.strerror}.", "Check the path.") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ReinError(f"'{path}' is not a polygon file of Cityscapes.", "Fetch it again.") from None
    indices = table_to_indices(LABEL_IDS)
    label = Image.new("L", size, IGNORE)
    pen = ImageDraw.Draw(label)
    for name, polygon in objects:
        stored = _polygon_id(name, path)
        if stored >= 0 and len(polygon) > 1:
            pen.polygon(polygon, fill=int(indices[stored]))
    return np.array(label)


def _polygon_id(name: str, path: Path) -> int:
    """The labelId of a polygon's name; an unknown '...group' counts as its members."""
    known = name if name in POLYGON_IDS else name.removesuffix("group")
    if known not in POLYGON_IDS:
        raise ReinError(f"'{path}' has an object '{name}', which Cityscapes does not know.", "Mend the file.")
    return POLYGON_IDS[known]


def raw_stamp(path: Path) -> str:
    """Length and checksum of a raw file: whether what was made of it still holds."""
    data = path.read_bytes()
    return f"{len(data)}-{zlib.crc32(data):08x}"


def half_size(height: int, width: int) -> tuple[int, int]:
    """The (height, width) at which Mapillary is validated; at least one pixel."""
    return max(height // 2, 1), max(width // 2, 1)


def _half_image(source: Path) -> bytes:
    """A photograph at half size as JPEG, lying as it is stored, with its note on how the camera was held.

    Made by Pillow as the published score's were: its bicubic resize looks at all pixels (OpenCV's at 16 of them), its
    JPEG halves the colour. The note apart, the bytes are the original's.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source) as opened:
            height, width = half_size(opened.height, opened.width)
            small = opened.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    except FileNotFoundError:
        raise ReinError(f"There is no image at '{source}'.", "Check the path.") from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ReinError(
            f"Cannot decode the image '{source}' ({source.stat().st_size} bytes).",
            "The file is damaged, cut short or no image: fetch it again.",
        ) from None
    data = io.BytesIO()
    small.save(data, "JPEG", quality=HALF_QUALITY)
    turn = jpeg_turn(source)
    return data.getvalue() if turn == 1 else with_turn(data.getvalue(), turn)


def _half_label(label: np.ndarray) -> np.ndarray:
    """(H, W) uint8 at half size by Pillow's nearest: of each 2x2 pixels the one at (1, 1)."""
    from PIL import Image

    height, width = half_size(label.shape[0], label.shape[1])
    return np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))


LABEL_CONVERTERS: Mapping[str, Callable[[Path], np.ndarray]] = {
    "label ids": from_label_ids,
    "polygons": from_polygons,
    "synthia": from_synthia,
    "mapillary": from_mapillary,
    "mapillary v2.0": from_mapillary_2,
}
"""By the name of the form; a name and two paths travel to a worker process more easily than a function."""


def convert(form: str, source: Path, target: Path) -> np.ndarray | None:
    """Read a raw file and write what training and evaluation read, whole or not at all.

    Args:
        form: a key of `LABEL_CONVERTERS`, one of them with `HALF_LABEL`, or 'mapillary half image'.
        source: the raw file.
        target: the file to write.

    Returns:
        The label that was written, (H, W) uint8 class indices; None for an image.

    Raises:
        ReinError: the raw file is damaged, or the target cannot be written.
    """
    if form == "mapillary half image":
        write_bytes(target, _half_image(source))
        return None
    label = LABEL_CONVERTERS[form.removesuffix(HALF_LABEL)](source)
    if form.endswith(HALF_LABEL):
        label = _half_label(label)
    write_png(target, label, mark=mark(MAKER, raw_stamp(source)))
    return label
