"""The zip that a benchmark takes for its test images: one PNG an image, under the image's own name.

ACDC and Cityscapes are one mechanism with two descriptions. Nothing is written that the server would refuse: the images
there are, the names, sizes and values are checked first.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from reincli.data.labels import CITYSCAPES, LABEL_IDS
from reincli.data.missing import command_for
from reincli.data.sources import Sample, prepare_command
from reincli.errors import ReinError
from reincli.media.images import read_label, write_png
from reincli.media.outputs import mark
from reincli.media.whole_files import replace_whole


@dataclass(frozen=True)
class Benchmark:
    """What a server takes.

    Attributes:
        title: its name, for people.
        source: the test images, as `--data` names them. archive: the download that brings them.
        images: how many there have to be, by the first folder of their names (a condition, a city).
        size: (height, width) of every image and so of every file.
        name: what the names of all images match.
        folder: what stands before each name in the zip.
        label_ids: whether pixels are labelIds of Cityscapes; else class indices (trainIds).
    """

    title: str
    source: str
    archive: str
    images: Mapping[str, int]
    size: tuple[int, int]
    name: str
    folder: str = ""
    label_ids: bool = False


ACDC = Benchmark(
    title="ACDC",
    source="acdc:test",
    archive="rgb_anon_trainvaltest.zip",
    images={"night": 500, "fog": 500, "rain": 500, "snow": 500},  # arXiv 2104.13395, table 2
    size=(1080, 1920),
    name=r"G[A-Z0-9]+_frame_\d{6}_rgb_anon\.png",  # of a camera: GOPR0475, or GP010475 where a drive goes on
    folder="labelTrainIds/",
)
CITYSCAPES_TEST = Benchmark(
    title="Cityscapes",
    source="cityscapes:test",
    archive="leftImg8bit_trainvaltest.zip",
    images={"berlin": 544, "bielefeld": 181, "bonn": 46, "leverkusen": 58, "mainz": 298, "munich": 398},
    size=(1024, 2048),
    name=r"[a-z]+_\d{6}_\d{6}_leftImg8bit\.png",  # the server looks for <city>_<sequence>_<frame>*.png
    label_ids=True,
)
BENCHMARKS = {each.source: each for each in (ACDC, CITYSCAPES_TEST)}
"""By source."""


def to_label_ids(prediction: np.ndarray) -> np.ndarray:
    """(H, W) uint8 class indices 0 to 18 as labelIds of Cityscapes."""
    return np.array(LABEL_IDS, np.uint8)[prediction]


class Submission:
    """Collects label maps in a folder beside the zip, and makes the zip when all are there.

    Args:
        path: the zip.
        samples: the test images.
        benchmark: what its server takes.

    Raises:
        ReinError: images are missing, or too many, or one has a name that the server does not know.
    """

    def __init__(self, path: Path, samples: Sequence[Sample], benchmark: Benchmark) -> None:
        self.path = path
        self.benchmark = benchmark
        self.parts = path.with_name(f".{path.name}.parts")
        self.expected = [file_name(sample) for sample in samples]
        again = f"Get {benchmark.archive} of {benchmark.title} again, then: " + (
            prepare_command(samples[0]) if samples else command_for(benchmark.source.split(":")[0], None)
        )
        images = benchmark.images
        found = Counter(PurePosixPath(sample.name).parts[0] for sample in samples)
        if found != Counter(images):
            there = ", ".join(f"{name} {found[name]} of {count}" for name, count in images.items())
            others = "".join(f", {name} {found[name]} of 0" for name in sorted(set(found) - set(images)))
            raise ReinError(
                f"The test images of {benchmark.title} are not complete: {there}{others}.",
                again,
            )
        strange = [name for name in self.expected if not re.fullmatch(benchmark.name, name)]
        if strange:
            raise ReinError(
                f"{len(strange)} test images of {benchmark.title} are not called as they were released: {strange[0]}.",
                f"The server looks for the names of the download. {again}",
            )
        if len(set(self.expected)) != len(self.expected):
            twice = [name for name, count in Counter(self.expected).items() if count > 1]
            message = f"Two test images of {benchmark.title} have one name: {twice[0]}."
            raise ReinError(message, "Unpack the images anew.")

    def add(self, sample: Sample, prediction: np.ndarray) -> None:
        """Keep one label map of class indices; may be called in several threads and processes.

        Raises:
            ReinError: it is not of the benchmark's size.
        """
        height, width = self.benchmark.size
        if prediction.shape != (height, width):
            raise ReinError(
                f"The test image '{sample.image}' is {prediction.shape[1]}x{prediction.shape[0]}; the benchmark takes "
                f"{width}x{height} alone.",
                "Use the images as they were released.",
            )
        label = to_label_ids(prediction) if self.benchmark.label_ids else prediction
        write_png(self.parts / file_name(sample), label)

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
            self._check(name)
        with (
            replace_whole(self.path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            archive.comment = mark("eval").encode()
            for name in there:  # PNGs are compressed already
                archive.write(self.parts / name, self.benchmark.folder + name)
        self.discard()
        return len(there)

    def _check(self, name: str) -> None:
        label = read_label(self.parts / name)
        height, width = self.benchmark.size
        allowed = LABEL_IDS if self.benchmark.label_ids else range(len(CITYSCAPES))
        strange = sorted(set(np.unique(label).tolist()) - set(allowed))
        if label.shape != (height, width) or strange:
            held = f" and holds {strange[0]}" if strange else ""
            kind = "labelIds of the 19 classes" if self.benchmark.label_ids else "0 to 18"
            raise ReinError(
                f"'{name}' is {label.shape[1]}x{label.shape[0]}{held}; expected {width}x{height} and {kind}.",
                "Nothing was written. Evaluate again.",
            )

    def collected(self) -> int:
        """How many label maps there are already, of all processes."""
        return len({path.name for path in self.parts.glob("*.png")} & set(self.expected))

    def discard(self) -> None:
        """Remove what was collected."""
        shutil.rmtree(self.parts, ignore_errors=True)


def file_name(sample: Sample) -> str:
    """The name of an image's file in the zip: its own, without folders."""
    return PurePosixPath(sample.name).with_suffix(".png").name
