"""Unlabelled images of a target: a split of a dataset, folders, images, frames of videos. Labels are never opened."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from reincli.config import DataSettings
from reincli.data.layouts import DATASETS
from reincli.data.missing import hint, no_image
from reincli.data.sources import Sample, dataset_root, find_pairs, parse_source, splits_of
from reincli.errors import ReinError
from reincli.media.images import read_image
from reincli.media.inputs import find_inputs
from reincli.media.video import Video
from reincli.media.whole_files import write_bytes

LABEL_FOLDERS = {
    "label",
    "labels",
    "gt",
    "gtfine",
    "gtcoarse",
    "mask",
    "masks",
    "annotation",
    "annotations",
    "sem_seg",
}
"""Names of folders that hold labels."""
LABEL_NAME = re.compile(
    r"(_label|_labels|_labelids|_labeltrainids|_instanceids|_train_id|_gt|_mask|_color)\d*$", re.I
)
"""How the names of label files end."""
JPEG_QUALITY = 95
"""Of the frames that are drawn of a video."""
LOOKED_AT = 8
"""Images that are read before a run begins."""


@dataclass
class Found:
    """What was named as target.

    Attributes:
        samples: images, without labels. videos: whose frames are to be drawn. notes: remarks for the user.
    """

    samples: list[Sample] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_targets(named: Sequence[str], data: DataSettings) -> Found:
    """Images and videos behind what the user named, in its order.

    Args:
        named: NAME or NAME:SPLIT of a dataset, or paths as `media.inputs` takes them. What is there as a path is one.
        data: the data root and the own datasets.

    Raises:
        ReinError: nothing is there, or a camera was named.
    """
    found = Found()
    for text in named:
        if is_dataset(text, data):
            samples, labelled = _of_dataset(text, data)
            found.samples += samples
            if labelled:
                found.notes.append(f"Labels of '{text}' are not read: it is a target.")
        else:
            _add_files(text, found)
    first: dict[Path, Sample] = {}
    for sample in found.samples:
        first.setdefault(sample.image.resolve(), sample)
    found.samples = list(first.values())
    return found


def is_dataset(text: str, data: DataSettings) -> bool:
    """Whether a word names a dataset and no path that is there."""
    return not Path(text).exists() and text.partition(":")[0] in {*DATASETS, *data.own}


def _of_dataset(source: str, data: DataSettings) -> tuple[list[Sample], bool]:
    """Images of a source without their labels, and whether it is one that has labels."""
    dataset, split = parse_source(source, data)
    root, samples, labelled = dataset_root(dataset, data), list[Sample](), False
    for folders in splits_of(dataset, data)[split]:
        pairs = find_pairs(folders, root, dataset, with_labels=False)
        if not pairs.samples:
            where = root / folders.images
            raise no_image(where, folders.image_suffix, dataset, hint(dataset, root, folders.images))
        labelled = labelled or (folders.labels is not None and (root / folders.labels).is_dir())
        samples += pairs.samples
    return samples, labelled


def _add_files(text: str, found: Found) -> None:
    inputs = find_inputs([text], Path(text).parent / ".drawings")
    if inputs.cameras:
        raise ReinError(
            f"'{text}' is a camera: an adaptation needs images that stay.",
            "Record a video first.",
            usage=True,
        )
    images = [each for each in inputs.files if each.kind == "image"]
    above = Path(os.path.abspath(text)).name if Path(text).is_dir() else ""
    labels = {each.source for each in images if looks_like_label(above / each.name)}
    if labels:
        shown = sorted(each.name.as_posix() for each in images if each.source in labels)
        found.notes.append(
            f"{len(shown)} files below '{text}' are named as labels are ({shown[0]}, …): they are left out, "
            "labels of a target are not read."
        )
    if labels and len(labels) == len(inputs.files):
        raise ReinError(
            f"'{text}' holds labels alone ({len(labels)} files, by their names), no image to adapt to.",
            "Name the folder of the images; rename it or the files if they are images.",
            usage=True,
        )
    for each in images:
        if each.source not in labels:
            found.samples.append(Sample(each.source, None, "", "target", each.name.as_posix()))
    found.videos += [each.source for each in inputs.files if each.kind == "video"]


def looks_like_label(name: Path) -> bool:
    """Whether a file, by its path below what the user named, is a label."""
    in_folder = any(part.lower() in LABEL_FOLDERS for part in name.parts[:-1])
    return in_folder or LABEL_NAME.search(name.stem) is not None


def require_apart(named: Sequence[str], folder: Path) -> None:
    """A run writes pictures, which a target that holds its folder would bring as images when it goes on.

    Raises:
        ReinError: the run's folder is, or lies in, a folder that was named.
    """
    run = Path(os.path.realpath(folder))
    for text in named:
        walked = (
            Path(text) if Path(text).is_dir() else Path(text.partition("**")[0]) if "**" in text else None
        )
        within = walked is not None and Path(os.path.realpath(walked)) in (run, *run.parents)
        own = glob.has_magic(text) and Path(os.path.realpath(Path(text).parent)) == run
        if within or own:
            raise ReinError(
                f"The run's folder '{folder}' lies in the target '{text}': its own pictures would be adapted to.",
                "Choose a folder elsewhere: --work-dir DIR",
                usage=True,
            )


def require_targets(named: Sequence[str], data: DataSettings, least: int) -> list[str]:
    """Look at what was named as target; remarks for the user.

    Args:
        named, data: as `find_targets` has them.
        least: images that there must be; a video may bring any number.

    Raises:
        ReinError: nothing is there, too few images, or one of those looked at cannot be read.
    """
    found = find_targets(named, data)
    if len(found.samples) < least and not found.videos:
        images = f"{len(found.samples)} image{'s' * (len(found.samples) != 1)}"
        raise ReinError(
            f"The target ({', '.join(named)}) has {images}, fewer than a batch takes ({least}).",
            "Bring more images, the more the better, or take a smaller train.batch_size.",
            usage=True,
        )
    for video in found.videos:
        Video(video)
    return found.notes + readable(found.samples)


def readable(samples: Sequence[Sample]) -> list[str]:
    """Read a few of the images; remarks on what they are. ReinError where one cannot be read as a colour image."""
    step = max(1, len(samples) // LOOKED_AT)
    images = [read_image(sample.image) for sample in samples[::step][:LOOKED_AT]]
    grey = [bool((image[..., :1] == image).all()) for image in images]
    if images and all(grey):
        return ["The target's images are grey: they are taken as colour images without colour."]
    return []


def frames_folder(folder: Path, number: int, video: Path) -> Path:
    """Where the frames of the run's so-many-th video lie, within the run's folder."""
    return folder / "frames" / f"{number}_{video.stem}"


def draw_frames(video: Path, target: Path, most: int) -> None:
    """Write at most so many frames of a video, evenly over its length, as JPEGs; a folder that is there stays.

    The folder gets its name when all are written. One process at a time.

    Raises:
        ReinError: the video cannot be read, or has no frame.
    """
    if target.is_dir():
        return
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed here
    opened = Video(video)
    every, count = max(1, -(-opened.frames // most)), 0
    for number, frame in enumerate(opened.read(opened.span(every=every))):
        if number == most:
            break
        ok, data = cv2.imencode(
            ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        )
        assert ok
        write_bytes(temporary / f"{number * every:07d}.jpg", np.asarray(data).tobytes())
        count += 1
    if count == 0:
        raise ReinError(f"The video '{video}' has no frame that can be read.", "Check that it plays.")
    temporary.rename(target)


def frame_samples(folder: Path) -> list[Sample]:
    """The frames that were drawn into a folder, in order."""
    return [
        Sample(path, None, "", "target", f"{folder.name}/{path.name}")
        for path in sorted(folder.glob("*.jpg"))
    ]
