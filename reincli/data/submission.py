"""The zip that the benchmark of ACDC's test images takes: a PNG of class indices an image, under its own name.

Nothing is written that the server would refuse: the images there are, the names, sizes and values are checked first.
"""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from reincli.data.labels import CITYSCAPES
from reincli.data.sources import Sample
from reincli.errors import ReinError
from reincli.media.images import read_label, replace_whole, write_png
from reincli.media.outputs import mark

SOURCE = "acdc:test"
SIZE = (1080, 1920)
"""(height, width) of every image and so of every file."""
IMAGES = {"night": 500, "fog": 500, "rain": 500, "snow": 500}
"""Test images by condition, as released (arXiv 2104.13395, table 2)."""


class Submission:
    """Collects label maps in a folder beside the zip, and makes the zip when all are there.

    Args:
        path: the zip.
        samples: the test images.
        images: how many there have to be by condition.

    Raises:
        ReinError: images are missing, or too many.
    """

    def __init__(self, path: Path, samples: Sequence[Sample], images: Mapping[str, int] = IMAGES) -> None:
        self.path = path
        self.parts = path.with_name(f".{path.name}.parts")
        self.expected = [file_name(sample) for sample in samples]
        found = Counter(sample.domain for sample in samples)
        if found != Counter(images):
            there = ", ".join(f"{name} {found[name]} of {count}" for name, count in images.items())
            raise ReinError(
                f"The test images of ACDC are not complete: {there}.",
                "Get rgb_anon_trainvaltest.zip of ACDC again: rein prepare-data acdc --check",
            )
        if len(set(self.expected)) != len(self.expected):
            twice = [name for name, count in Counter(self.expected).items() if count > 1]
            raise ReinError(f"Two test images of ACDC have one name: {twice[0]}.", "Unpack the images anew.")

    def add(self, sample: Sample, prediction: np.ndarray) -> None:
        """Keep one label map; may be called in several threads and processes.

        Raises:
            ReinError: it is not 1920x1080.
        """
        if prediction.shape != SIZE:
            raise ReinError(
                f"The test image '{sample.image}' is {prediction.shape[1]}x{prediction.shape[0]}; the benchmark takes "
                f"{SIZE[1]}x{SIZE[0]} alone.",
                "Use the images as they were released.",
            )
        write_png(self.parts / file_name(sample), prediction)

    def finish(self) -> int:
        """Check all files against what is expected and write the zip, whole or not at all; the number of files.

        Raises:
            ReinError: a file is missing, left over, of another size, or holds what is no class.
        """
        there = sorted(path.name for path in self.parts.glob("*.png"))
        missing, extra = set(self.expected) - set(there), set(there) - set(self.expected)
        if missing or extra:
            named = ", ".join(sorted([*missing, *extra])[:3])
            raise ReinError(
                f"The submission would have {len(missing)} files missing and {len(extra)} that do not belong: {named}.",
                "Nothing was written. Evaluate again.",
            )
        for name in there:
            label = read_label(self.parts / name)
            if label.shape != SIZE or label.max() >= len(CITYSCAPES):
                raise ReinError(
                    f"'{name}' is {label.shape[1]}x{label.shape[0]} with values up to {label.max()}; expected "
                    f"{SIZE[1]}x{SIZE[0]} and 0 to {len(CITYSCAPES) - 1}."
                )
        with (
            replace_whole(self.path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            archive.comment = mark("eval").encode()
            for name in there:  # PNGs are compressed already
                archive.write(self.parts / name, name)
        self.discard()
        return len(there)

    def discard(self) -> None:
        """Remove what was collected."""
        shutil.rmtree(self.parts, ignore_errors=True)


def file_name(sample: Sample) -> str:
    """The name of an image's file in the zip: its own, without folders."""
    return PurePosixPath(sample.name).with_suffix(".png").name
