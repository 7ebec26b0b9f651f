"""Reading images and label maps, and writing PNGs whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import cv2
import numpy as np

from reincli.errors import ReinError


def _decode(path: Path, flags: int, what: str) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)  # numpy opens any path name; OpenCV does not on every system
    except FileNotFoundError:
        raise ReinError(f"There is no {what} at '{path}'.", "Check the path.") from None
    except OSError as error:
        raise ReinError(f"Cannot read the {what} '{path}': {error.strerror}.", "Check path and permission.") from None
    try:
        array = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:
        array = None
    if array is None:
        raise ReinError(
            f"Cannot decode the {what} '{path}' ({data.size} bytes).",
            "The file is damaged, cut short or no image: fetch it again or remove it.",
        )
    return array


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB 0-255; grey, alpha, 16-bit and EXIF rotation are resolved.

    Raises:
        ReinError: no such file, no permission, or not decodable.
    """
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR, "image"), cv2.COLOR_BGR2RGB)


def read_label(path: Path) -> np.ndarray:
    """A label map as (H, W) uint8, values as stored (palette indices of palette PNGs).

    Raises:
        ReinError: not readable, more than one channel (a colour picture, no label map), or values over 255.
    """
    label = _decode(path, cv2.IMREAD_UNCHANGED, "label")
    if label.ndim != 2:
        raise ReinError(
            f"The label '{path}' has {label.shape[2]} channels; expected one channel of class indices.",
            "It looks like a colour picture: point at the index labels, or prepare the dataset first.",
        )
    if label.dtype != np.uint8:
        if label.max(initial=0) > 255:
            raise ReinError(f"The label '{path}' has value {label.max()}; expected 0 to 255.")
        label = label.astype(np.uint8)
    return label


def write_png(path: Path, array: np.ndarray, compression: int = 1) -> None:
    """Write (H, W) uint8/uint16 or (H, W, 3) uint8 RGB as PNG: temporary file, flush, rename.

    Raises:
        ReinError: no permission or no space; nothing half-written is left.
    """
    picture = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    ok, encoded = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    if not ok:
        raise ValueError(f"cannot encode an array of shape {array.shape}, {array.dtype} as PNG")
    write_bytes(path, encoded.tobytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary name in the same folder, flush, rename.

    Raises:
        ReinError: no permission or no space.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ReinError(
            f"Cannot write '{path}': {error.strerror}.", "Check free space and permission, or choose another folder."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
