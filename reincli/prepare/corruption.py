"""Cityscapes-C: the 16 common corruptions (arXiv 1903.12261, 1907.07484) drawn onto images, by an optional library.

What is drawn depends on the corruption, its severity, the seed and the image's name alone, so that any file can be
made again at any time, by any worker.
"""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reincli.data.layouts import CORRUPTIONS
from reincli.errors import ReinError, nearest
from reincli.media.images import read_image, write_png

SEVERITIES = (1, 2, 3, 4, 5)
OWN_SEED = ("glass_blur", "impulse_noise")
"""Corruptions that take a seed; the others draw from numpy's global source."""
SMALLEST = 32
"""Pixels of a side below which the library refuses an image."""


@dataclass(frozen=True)
class Corruption:
    """One of `layouts.CORRUPTIONS` at a severity of 1 to 5, with the seed of the whole set."""

    name: str
    severity: int
    seed: int = 0


HEADLINE = tuple(Corruption(name, 5) for name in CORRUPTIONS)
"""The set of the published figure."""


def choose(names: list[str], severities: list[int], seed: int) -> list[Corruption]:
    """Corruptions by name at severities, severities outermost; none named: all, severity 5.

    Raises:
        ReinError: a name that is not one of the 16, or a severity that is not 1 to 5.
    """
    for name in names:
        if name not in CORRUPTIONS:
            raise ReinError(f"No corruption is named '{name}'.", nearest(name, CORRUPTIONS), usage=True)
    for severity in severities:
        if severity not in SEVERITIES:
            raise ReinError(f"Severity {severity} does not exist; expected 1 to 5.", usage=True)
    chosen = [name for name in CORRUPTIONS if name in names or not names]
    return [Corruption(name, s, seed) for s in sorted(set(severities or [5])) for name in chosen]


def require_library() -> Any:
    """The library's `corrupt`.

    Raises:
        ReinError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from imagecorruptions import corrupt
    except ImportError as error:
        message = f"Making cityscapes-c needs the package 'imagecorruptions-imaug', which cannot be imported ({error})."
        raise ReinError(message, "Install it: pip install 'reincli[corruptions]'") from None
    return corrupt


def image_seed(corruption: Corruption, name: str) -> int:
    """The seed of one image, 32 bits."""
    return zlib.crc32(f"{corruption.seed}/{corruption.name}/{corruption.severity}/{name}".encode())


def corrupted(image: np.ndarray, corruption: Corruption, name: str) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB with a corruption, decided by the corruption and the image's name.

    Numpy's global random source is set for it and put back: call it in a process without other threads that draw.

    Raises:
        ReinError: the library is missing, or the image is smaller than 32 pixels.
    """
    corrupt = require_library()
    if min(image.shape[:2]) < SMALLEST:
        height, width = image.shape[:2]
        raise ReinError(f"'{name}' is {width}x{height}; corruptions need {SMALLEST} pixels a side.")
    seed = image_seed(corruption, name)
    own = {"seed": seed} if corruption.name in OWN_SEED else {}
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = corrupt(image, severity=corruption.severity, corruption_name=corruption.name, **own)
    finally:
        np.random.set_state(before)
    return np.ascontiguousarray(result, dtype=np.uint8)


def write_corrupted(source: Path, target: Path, corruption: Corruption) -> None:
    """Read an image and write it corrupted, as PNG, whole or not at all.

    Raises:
        ReinError: it cannot be read or written, or the library is missing.
    """
    write_png(target, corrupted(read_image(source), corruption, source.name))
