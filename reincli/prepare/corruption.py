"""Cityscapes-C: the 16 common corruptions (arXiv 1903.12261, 1907.07484) drawn onto images, by an optional library.

What is drawn depends on the corruption, its severity, the seed and the image's name alone, so that any file can be
made again at any time, by any worker.
"""

from __future__ import annotations

import shutil
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reincli.data.layouts import CORRUPTIONS
from reincli.errors import ReinError, nearest
from reincli.media.images import read_image, write_png
from reincli.media.whole_files import write_bytes

SEVERITIES = (1, 2, 3, 4, 5)
CHANNELS = ("rgb", "bgr")
MADE = "made.txt"
"""In the folder of a corruption and severity, which seed and order of channels its images have."""
OWN_SEED = ("glass_blur", "impulse_noise")
"""Corruptions that take a seed; the others draw from numpy's global source."""
SMALLEST = 32
"""Pixels of a side below which the library refuses an image."""


@dataclass(frozen=True)
class Corruption:
    """One of `layouts.CORRUPTIONS` at a severity of 1 to 5, with the seed and the order of channels of the whole set.

    `channels`: 'rgb', or 'bgr': the library is handed the image with red and blue exchanged, as a public generator
    does, and what it gives is exchanged back. Corruptions that treat all channels alike come out the same.
    """

    name: str
    severity: int
    seed: int = 0
    channels: str = CHANNELS[0]


HEADLINE = tuple(Corruption(name, 5) for name in CORRUPTIONS)
"""The set of the published figure."""


def choose(
    names: list[str], severities: list[int], seed: int, channels: str = CHANNELS[0]
) -> list[Corruption]:
    """Corruptions by name at severities, severities outermost; none named: all, severity 5.

    Raises:
        ReinError: a name that is not one of the 16, a severity that is not 1 to 5, another order of channels.
    """
    if channels not in CHANNELS:
        raise ReinError(f"There is no order of channels '{channels}'.", "Give rgb or bgr.", usage=True)
    for name in names:
        if name not in CORRUPTIONS:
            raise ReinError(f"No corruption is named '{name}'.", nearest(name, CORRUPTIONS), usage=True)
    for severity in severities:
        if severity not in SEVERITIES:
            raise ReinError(
                f"Severity {severity} does not exist; expected 1 to 5.",
                "For example: --severity 3",
                usage=True,
            )
    chosen = [name for name in CORRUPTIONS if name in names or not names]
    return [Corruption(name, s, seed, channels) for s in sorted(set(severities or [5])) for name in chosen]


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
        raise ReinError(
            f"'{name}' is {width}x{height}; corruptions need {SMALLEST} pixels a side.",
            "Use the images as they were released.",
        )
    seed = image_seed(corruption, name)
    own = {"seed": seed} if corruption.name in OWN_SEED else {}
    swapped = corruption.channels == CHANNELS[1]
    if swapped:
        image = np.ascontiguousarray(image[..., ::-1])
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = corrupt(image, severity=corruption.severity, corruption_name=corruption.name, **own)
    finally:
        np.random.set_state(before)
    result = np.asarray(result)
    return np.ascontiguousarray(result[..., ::-1] if swapped else result, dtype=np.uint8)


def settle(root: Path, corruptions: Sequence[Corruption], *, force: bool = False) -> None:
    """Note seed and order of channels in each folder that is made, before its first image is.

    Args:
        root: the folder of the set.
        corruptions: that are made.
        force: images that were made otherwise are removed, so that no folder holds both.

    Raises:
        ReinError: images that were made otherwise are there, and no `force`.
    """
    others = []
    for each in corruptions:
        folder = root / each.name / str(each.severity)
        if folder.is_dir() and _made(folder, each) != _how(each) and any(folder.rglob("*.png")):
            others.append((folder, each))
    if others and not force:
        folder, each = others[0]
        raise ReinError(
            f"'{folder}' was made with {_made(folder, each)}, not {_how(each)}.",
            "Make it anew: --force. Or keep it: give the same --channels and --seed.",
        )
    for folder, _ in others:
        shutil.rmtree(folder)
    for each in corruptions:
        note = root / each.name / str(each.severity) / MADE
        if not note.is_file() or note.read_text("utf-8").strip() != _how(each):
            write_bytes(note, f"{_how(each)}\n".encode())


def _how(corruption: Corruption) -> str:
    return f"channels {corruption.channels}, seed {corruption.seed}"


def _made(folder: Path, corruption: Corruption) -> str:
    """How the images of a folder were made; those without a note are older, and rgb."""
    note = folder / MADE
    return (
        note.read_text("utf-8").strip() if note.is_file() else _how(replace(corruption, channels=CHANNELS[0]))
    )


def write_corrupted(source: Path, target: Path, corruption: Corruption) -> None:
    """Read an image and write it corrupted, as PNG, whole or not at all.

    Raises:
        ReinError: it cannot be read or written, or the library is missing.
    """
    write_png(target, corrupted(read_image(source), corruption, source.name))
