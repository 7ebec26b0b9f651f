"""Whatever holds a picture -> (H, W, 3) uint8 RGB: paths, arrays, PIL images, tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
import torch

from reincli.errors import ReinError
from reincli.media.images import read_image

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = Union[str, "os.PathLike[str]", np.ndarray, torch.Tensor, "Image"]
"""A path, an array (H, W[, 1|3|4]), a tensor ([1|3|4,] H, W), or a PIL image."""


def as_rgb(picture: Picture) -> np.ndarray:
    """One picture as (H, W, 3) uint8 RGB 0-255.

    Files and PIL images are turned as their EXIF says; alpha is dropped, grey is repeated, 16 bits are cut to 8.

    Args:
        picture: uint8 0-255, uint16 0-65535, or floats 0-1. Arrays have channels last and are RGB (what OpenCV
            reads is BGR: turn it with `[..., ::-1]`), tensors have channels first.

    Raises:
        ReinError: not readable, or of another shape, type or range.
    """
    if isinstance(picture, (str, os.PathLike)):
        return read_image(Path(picture))
    if isinstance(picture, torch.Tensor):
        array = picture.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        values = array.numpy()
        return _three_channels(values.transpose(1, 2, 0) if values.ndim == 3 else values, "tensor (C, H, W)")
    if isinstance(picture, np.ndarray):
        return _three_channels(picture, "array (H, W, C)")
    if hasattr(picture, "convert") and hasattr(picture, "getexif"):
        return _from_pil(picture)
    raise ReinError(
        f"A {type(picture).__name__} is no picture.", "Give a path, a numpy array, a PIL image or a tensor."
    )


def _from_pil(picture: Image) -> np.ndarray:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture) or picture
    if upright.mode.startswith("I"):  # 16 bits a pixel; `convert` would clip instead of scaling
        return _three_channels(np.asarray(upright).astype(np.uint16), "image")
    return np.asarray(upright.convert("RGB"))


def _three_channels(array: np.ndarray, what: str) -> np.ndarray:
    """(H, W) or (H, W, 1|3|4) of any accepted type -> (H, W, 3) uint8, contiguous."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise ReinError(
            f"A picture has shape {tuple(array.shape)}; expected an {what} with 1, 3 or 4 channels.",
            "Arrays have channels last, tensors have channels first.",
        )
    array = array[..., :3]
    if array.dtype == np.uint16:
        array = array >> 8
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise ReinError(
                f"A picture of {array.dtype} has values from {low:g} to {high:g}; expected 0 to 1.",
                "Give uint8 for 0 to 255; do not normalise, the model does.",
            )
        array = np.rint(array * 255)
    elif array.dtype != np.uint8:
        raise ReinError(
            f"A picture has type {array.dtype}; expected uint8, uint16 or floats from 0 to 1.",
            "Convert it: array.astype('uint8') where its values go from 0 to 255.",
        )
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)), np.uint8)
