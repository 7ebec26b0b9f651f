"""Anomaly maps in files: 16-bit PNGs that any viewer opens, or the numbers as they are for NumPy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from reincli.media.images import write_png
from reincli.media.whole_files import write_bytes
from reincli.ops.anomaly import to_16_bit

FORMS = {"png": ".png", "npy": ".npy"}
"""What a user may ask for, and the ending of its files."""


def write_anomaly(path: Path, anomaly: np.ndarray, classes: int, mark: str = "") -> None:
    """Write the (H, W) anomaly of K classes, -K to 0, whole or not at all, in the form that the ending names.

    `.png`: uint16, see `ops.anomaly.to_16_bit`. `.npy`: float32; the mark (`outputs.mark`) stands behind the array,
    where `numpy.load` does not look.

    Raises:
        ReinError: no permission or no space.
    """
    if path.suffix == FORMS["png"]:
        write_png(path, to_16_bit(anomaly, classes), mark=mark)
        return
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(anomaly, np.float32), allow_pickle=False)
    write_bytes(path, data.getvalue() + mark.encode("latin-1"))
