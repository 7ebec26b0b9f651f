"""The label of a sample as stored values: of index maps what the file says, of colour labels the class they declare."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reincli.config import OwnDataset
from reincli.data.labels import IGNORE
from reincli.errors import ReinError
from reincli.media.images import read_label, read_stored

Colors = tuple[tuple[tuple[int, int, int], int], ...]
"""RGB 0-255 with the stored value that it stands for."""
LAST_ID_1_2 = 65
"""Of Mapillary Vistas 1.2; ids above it are of version 2.0."""
LAST_PANOPTIC = 40
"""The last id of BDD100K's panoptic classes."""
SHOWN = 3
"""Colours named in an error."""
SMOOTHED = 256
"""Colours that are not declared, from which on they are taken for smoothed edges rather than classes."""


def stored_values(own: OwnDataset) -> list[int | None]:
    """A stored value that stands for each class; None for a class that the description's map leaves out."""
    back = {index: int(stored) for stored, index in own.map.items() if stored.isdecimal()}
    return [back.get(index) if own.map else index for index in range(len(own.classes))]


def colors_of(own: OwnDataset) -> Colors:
    """The colours that a description declares, each with a value that its label table maps to the right class."""
    return tuple(
        (each.color, value)
        for each, value in zip(own.classes, stored_values(own), strict=True)
        if value is not None and (own.map or value != own.ignore)
    ) + tuple((color, own.ignore) for color in own.ignore_colors)


def read_values(path: Path, colors: Colors | None) -> np.ndarray:
    """A label file as (H, W) uint8 stored values.

    Args:
        path: an index map, or where colours are declared a picture painted in exactly these.
        colors: of `colors_of`; None: an index map is expected.

    Raises:
        ReinError: unreadable, a JPEG, a panoptic mask, or colours that are not declared, counted.
    """
    if not colors:
        try:
            return read_label(path)
        except ReinError as error:
            raise _panoptic(path) or error from None
    stored = read_stored(path)
    if stored.ndim == 2:
        return read_label(path)
    if stored.dtype != np.uint8 or stored.shape[2] not in (3, 4):
        raise ReinError(
            f"The label '{path}' has {stored.shape[2]} channels of {stored.dtype}; expected one channel of class "
            "indices, or 8-bit colours.",
            "Save it as a PNG of class indices.",
        )
    _require_distinct(colors)
    known = np.array([_code(*color) for color, _ in colors])
    order = np.argsort(known)
    codes = stored[..., 2].astype(np.int32) << 16 | stored[..., 1].astype(np.int32) << 8 | stored[..., 0]
    place = order[np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)]
    strange = known[place] != codes
    if strange.any():
        if _is_index_map(stored, colors):
            raise ReinError(
                f"The label '{path}' is a picture in colours whose channels are equal, with values up to "
                f"{stored[..., 0].max()}: class indices, by all appearance.",
                "Save one of its channels alone, as a PNG.",
            )
        swapped = (codes & 255) << 16 | codes & 0xFF00 | codes >> 16
        raise _not_declared(path, codes[strange], codes.size, exchanged=bool(np.isin(swapped, known).all()))
    return np.array([value for _, value in colors], np.uint8)[place]


def _panoptic(path: Path) -> ReinError | None:
    """The error for a panoptic mask of BDD100K: RGBA, its class in red, the instance in blue and alpha; else None."""
    try:
        stored = read_stored(path)
    except ReinError:
        return None
    if stored.ndim != 3 or stored.shape[2] != 4 or stored.dtype != np.uint8:
        return None
    largest = int(stored[..., 2].max(initial=0))
    if largest > LAST_PANOPTIC or stored[..., 3].min(initial=255) == 255:  # colours are opaque
        return None
    return ReinError(
        f"The label '{path}' looks like a panoptic mask of BDD100K: 4 channels, the first with ids up to {largest}, "
        "which are other classes than the 19.",
        "Get bdd100k_sem_seg_labels_trainval.zip and put its masks there.",
    )


def _is_index_map(stored: np.ndarray, colors: Colors) -> bool:
    """Whether a picture in colours is grey, and its values are those that stand for classes, or ignored."""
    grey = stored[..., 0]
    if (grey != stored[..., 1]).any() or (grey != stored[..., 2]).any():
        return False
    return set(np.unique(grey).tolist()) <= {IGNORE, *(value for _, value in colors)}


def _code(red: int, green: int, blue: int) -> int:
    return red << 16 | green << 8 | blue


def _require_distinct(colors: Colors) -> None:
    seen: dict[tuple[int, int, int], int] = {}
    for color, value in colors:
        if seen.setdefault(color, value) != value:
            raise ReinError(
                f"The labels are painted in colours, but two classes are declared in the same one, {color}.",
                "Give each class its own color, that of the labels.",
            )


def _not_declared(path: Path, codes: np.ndarray, pixels: int, *, exchanged: bool) -> ReinError:
    """The error for colours that are not declared; `exchanged`: with red and blue exchanged, all pixels' would be."""
    found, counts = np.unique(codes, return_counts=True)
    most = np.argsort(-counts)[:SHOWN]
    named = ", ".join(
        f"({c >> 16}, {c >> 8 & 255}, {c & 255}) {n:,}"
        for c, n in zip(found[most], counts[most], strict=True)
    )
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    message = (
        f"The label '{path}' is painted in colours, and {len(codes):,} of its pixels ({len(codes) / pixels:.1%}) "
        f"have one that no class declares: {named}{more}."
    )
    if exchanged:
        return ReinError(
            message,
            "With red and blue exchanged every pixel has a declared colour: one of the two, labels or description, is "
            "in the order blue, green, red. Exchange them there.",
        )
    if len(found) > SMOOTHED:
        return ReinError(
            message,
            "So many colours come from smoothing or lossy compression, or it is a photograph: give the labels as they "
            "were painted, or class indices.",
        )
    red, green, blue = (int(found[most[0]]) >> shift & 255 for shift in (16, 8, 0))
    return ReinError(
        message,
        f"Declare it: as the color of a class, or ignore_colors = [[{red}, {green}, {blue}]] in the description.",
    )


def largest_mapillary_id(path: Path) -> int:
    """The largest id in a label of Mapillary Vistas; 0 where there is none. ReinError where it is unreadable."""
    stored = read_label(path)
    return int(stored[stored != IGNORE].max(initial=0))


def mapillary_ids(path: Path) -> np.ndarray:
    """Ids of Mapillary Vistas 1.2, (H, W) uint8.

    Raises:
        ReinError: ids that only version 2.0 has.
    """
    stored = read_label(path)
    largest = int(stored[stored != IGNORE].max(initial=0))
    if largest > LAST_ID_1_2:
        raise ReinError(
            f"'{path}' has id {largest}; version 1.2 ends at {LAST_ID_1_2}: these are labels of version 2.0.",
            "Put those of v1.2/labels, from the same download, in their place.",
        )
    return stored
