"""Writing drawings: PNGs of pictures, which compress otherwise than label maps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from reincli.media.images import with_comment
from reincli.media.whole_files import write_bytes


def write_drawing(path: Path, drawing: np.ndarray, mark: str = "") -> None:
    """Write (H, W, 3) uint8 RGB as PNG, whole or not at all.

    Encoded in half the time of `images.write_png`, and no larger, since drawings are photographs for the most part:
    differences to the left neighbour, run lengths and a Huffman code, without a search for repeats.
    `mark` is kept as the comment, see `outputs.mark`.

    Raises:
        ReinError: no permission or no space; nothing half-written is left.
    """
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV before 4.11 has no such choice
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
        options += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(drawing, cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise ValueError(f"cannot encode an array of shape {drawing.shape}, {drawing.dtype} as PNG")
    write_bytes(path, with_comment(encoded.tobytes(), mark))
