"""Labelled unknown objects: images in which each pixel is known (0), unknown (1), or left out (255).

A source is one of the benchmarks below, an own dataset of two classes (known, unknown) described in TOML, or any folder
with `images/` and `labels/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reincli.config import DataSettings
from reincli.data.index import list_files
from reincli.data.labels import IGNORE
from reincli.data.layouts import Folders
from reincli.data.loading import load_label
from reincli.data.sources import UNDECLARED, Sample, find_pairs, find_samples, label_table, parse_source, some
from reincli.errors import ReinError, nearest
from reincli.media import workers
from reincli.media.images import read_image_like
from reincli.ops.pooled import KNOWN, UNKNOWN

PLAIN = {0: KNOWN, 1: UNKNOWN, 255: IGNORE}
"""What stored values mean where nothing else is said."""
AS_DOWNLOADED = "Take the labels as they were downloaded."
IN_A_FOLDER = (
    "Write 0 for known, 1 for unknown and 255 for what is left out, or describe the set as an own dataset, whose "
    "`map` says what its values mean."
)
"""What to do about values that a label may not have."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Benchmark:
    """A published set: its folders as downloaded, what its stored values mean, and where it comes from.

    Attributes:
        folders: of images and labels; of several the first that gives labelled images.
        values: stored value -> 0, 1 or 255. home: where it is to be had.
    """

    folders: tuple[Folders, ...]
    values: dict[int, int]
    home: str


def _track(domain: str, *suffixes: str) -> tuple[Folders, ...]:
    """A track of SegmentMeIfYouCan; only its validation images have public labels."""
    return tuple(Folders("images", "labels_masks", s, ("_labels_semantic.png",), domain) for s in suffixes)


BENCHMARKS = {
    "road_anomaly": Benchmark(
        (Folders("frames", "frames", ".jpg", (".labels/labels_semantic.png",), "road_anomaly"),),
        {0: KNOWN, 1: UNKNOWN, 2: UNKNOWN, 255: IGNORE},  # 2 counts as 1 in the published figures
        "https://www.epfl.ch/labs/cvlab/data/road-anomaly/",
    ),
    "lost_and_found": Benchmark(
        (
            Folders("leftImg8bit/test", "gtCoarse/test", "_leftImg8bit.png", ("_gtCoarse_labelTrainIds.png",),
                    "lost_and_found"),
        ),
        {0: KNOWN, 1: KNOWN, 2: UNKNOWN, 255: IGNORE},
        "the page of Lost and Found (leftImg8bit and gtCoarse)",
    ),
    "fishyscapes_laf": Benchmark(
        (
            Folders("laf_images", "fishyscapes_lostandfound", "_leftImg8bit.png", ("_labels.png",),
                    "fishyscapes_laf"),
        ),
        PLAIN,
        "https://fishyscapes.com (fishyscapes_lostandfound), with the images of Lost and Found in laf_images or "
        "leftImg8bit,",
    ),
    "anomaly_track": Benchmark(
        _track("anomaly_track", ".jpg", ".png"), PLAIN,
        "https://segmentmeifyoucan.com/datasets (dataset_AnomalyTrack)",
    ),
    "obstacle_track": Benchmark(
        _track("obstacle_track", ".webp", ".png", ".jpg"), PLAIN,
        "https://segmentmeifyoucan.com/datasets (dataset_ObstacleTrack)",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Unknowns:
    """One source: its name, images with labels, and the (256,) int16 table from stored value to 0, 1 or 255.

    `hint` says what to do about other values; None: what own datasets are told.
    """

    name: str
    samples: tuple[Sample, ...]
    table: np.ndarray
    hint: str | None = None


# --- finding -----------------------------------------------------------------------------------------------


def find_unknowns(source: str, data: DataSettings) -> Unknowns:
    """The labelled images of a source.

    Args:
        source: a benchmark's name, NAME or NAME:SPLIT of an own dataset, or a folder.
        data: the data root and the own datasets.

    Raises:
        ReinError: no such source; a folder is missing or empty; an image or label without its partner; own data of
            other classes.
    """
    name = source.partition(":")[0]
    if name in data.own:
        return _own(source, data)
    if source in BENCHMARKS:
        return _benchmark(source, Path(data.root) / source)
    if Path(source).is_dir():
        return _folder(Path(source))
    raise ReinError(
        f"'{source}' is no set of labelled unknown objects, and no folder.",
        f"{nearest(name, [*BENCHMARKS, *data.own])} Or give a folder with images/ and labels/ (0 known, 1 unknown, 255 "
        "left out).",
        usage=True,
    )


def sources_of(names: Sequence[str], data: DataSettings) -> list[Unknowns]:
    """Every source once, see `find_unknowns`. ReinError where two have one name."""
    found: dict[str, tuple[str, Unknowns]] = {}
    for source in dict.fromkeys(names):
        each = find_unknowns(source, data)
        if each.name in found:
            raise ReinError(
                f"Two sources are named '{each.name}': {found[each.name][0]} and {source}.",
                "Score them in two commands, or rename a folder.",
                usage=True,
            )
        found[each.name] = source, each
    return [each for _, each in found.values()]


def _own(source: str, data: DataSettings) -> Unknowns:
    dataset, _ = parse_source(source, data)
    own = data.own[dataset]
    if len(own.classes) != 2:
        raise ReinError(
            f"The own dataset '{dataset}' has {len(own.classes)} classes; unknown objects need two: known and unknown.",
            "Describe it with these two, in this order, and `map` for its stored values.",
            usage=True,
        )
    return Unknowns(dataset, tuple(find_samples(source, data)), label_table(dataset, data))


def _benchmark(name: str, root: Path) -> Unknowns:
    known = BENCHMARKS[name]
    bring = f"Bring it from {known.home} into '{root}'."
    if not root.is_dir():
        raise ReinError(f"There is no folder '{root}'.", bring)
    if name == "fishyscapes_laf":
        return Unknowns(name, _fishyscapes(name, root, bring), _table(known.values), AS_DOWNLOADED)
    for folders in known.folders:
        for folder in (folders.images, str(folders.labels)):
            if not (root / folder).is_dir():
                raise ReinError(f"There is no folder '{root / folder}'.", bring)
        # images of the test split have no public labels: they are passed over
        pairs = (
            _beside(folders, root, name)
            if name == "road_anomaly"
            else find_pairs(folders, root, name).samples
        )
        labelled = tuple(each for each in pairs if each.label is not None)
        if labelled:
            return Unknowns(name, labelled, _table(known.values), AS_DOWNLOADED)
    endings = " or ".join(f"*{each.image_suffix}" for each in known.folders)
    raise ReinError(f"No image ({endings}) under '{root}' has a label.", bring)


def _beside(folders: Folders, root: Path, name: str) -> list[Sample]:
    """Labels that lie in a folder beside each image, named after it: a.jpg, a.labels/labels_semantic.png."""
    tree, (ending,) = root / folders.images, folders.label_suffixes
    samples = []
    for image in list_files(tree, folders.image_suffix):
        label = tree / (image.removesuffix(folders.image_suffix) + ending)
        samples.append(Sample(tree / image, label if label.is_file() else None, name, name, image))
    return samples


def _fishyscapes(name: str, root: Path, bring: str) -> tuple[Sample, ...]:
    """Labels are NNNN_IMAGE_labels.png; the images are those of Lost and Found, in one folder or as downloaded."""
    folders = BENCHMARKS[name].folders[0]
    (ending,) = folders.label_suffixes
    labels = root / str(folders.labels)
    if not labels.is_dir():
        raise ReinError(f"There is no folder '{labels}'.", bring)
    images: dict[str, Path] = {}
    for tree in (root / folders.images, root / "leftImg8bit"):
        for path in list_files(tree, folders.image_suffix) if tree.is_dir() else ():
            images.setdefault(path.rpartition("/")[2], tree / path)
    samples, alone = [], []
    for label in list_files(labels, ending):
        number, _, stem = label.rpartition("/")[2].removesuffix(ending).partition("_")
        image = images.get(stem + folders.image_suffix) if number.isdecimal() else None
        if image is None:
            alone.append(label)
        else:
            samples.append(Sample(image, labels / label, name, name, stem + folders.image_suffix))
    if alone:
        raise ReinError(f"{len(alone)} labels in '{labels}' have no image: {some(alone)}.", bring)
    if not samples:
        raise ReinError(f"There is no label in '{labels}'.", bring)
    return tuple(samples)


def _folder(folder: Path) -> Unknowns:
    """`images/` and `labels/` with like names; the images of any usual kind."""
    name = folder.resolve().name
    form = "Expected: images/NAME.png (or .jpg, ...) and labels/NAME.png, 0 known, 1 unknown, 255 left out."
    if not (folder / "images").is_dir() or not (folder / "labels").is_dir():
        raise ReinError(f"'{folder}' has no images/ and labels/.", form, usage=True)
    samples = [
        each
        for suffix in PICTURES
        for each in find_pairs(Folders("images", "labels", suffix, (".png",), name), folder, name).samples
    ]
    if not samples:
        raise ReinError(f"There is no image in '{folder / 'images'}'.", form)
    without = [each.name for each in samples if each.label is None]
    taken = {str(each.label) for each in samples}
    labels = list_files(folder / "labels", ".png")
    lonely = [each for each in labels if str(folder / "labels" / each) not in taken]
    if without or lonely:
        what = "images have no label" if without else "labels have no image"
        raise ReinError(f"{len(without or lonely)} {what} in '{folder}': {some(without or lonely)}.", form)
    return Unknowns(name, tuple(sorted(samples, key=lambda each: each.name)), _table(PLAIN), IN_A_FOLDER)


def _table(values: dict[int, int]) -> np.ndarray:
    table = np.full(256, UNDECLARED, np.int16)
    table[list(values)] = list(values.values())
    return table


# --- looking -----------------------------------------------------------------------------------------------


def require_unknowns(found: Unknowns, threads: int = 4) -> None:
    """Read all labels, and of images the size, before anything is predicted.

    Raises:
        ReinError: a label that cannot be read, has other values or another size than its image; no unknown, or no
            known pixel in all of them.
    """

    def look(sample: Sample) -> np.ndarray:
        label = load_label(sample, found.table, found.hint)
        size = read_image_like(sample.image, label.shape).shape[:2]
        if label.shape != size:
            raise ReinError(
                f"The label '{sample.label}' is {label.shape[1]}x{label.shape[0]}, but its image is "
                f"{size[1]}x{size[0]}.",
                f"Bring the label that belongs to the image '{sample.image}', of its size.",
            )
        return np.bincount(label.ravel(), minlength=256)

    pixels = np.zeros(256, np.int64)
    with workers.threads(threads) as pool:
        for each in workers.in_order(pool, look, found.samples):
            pixels += each
    for kind, word in ((UNKNOWN, "an unknown"), (KNOWN, "a known")):
        if not pixels[kind]:
            stored = ", ".join(str(value) for value in np.flatnonzero(found.table == kind))
            raise ReinError(
                f"None of the {len(found.samples)} labels of '{found.name}' has {word} pixel (value {stored}): "
                "there is nothing to tell apart.",
                "Add images that have some; single images may be without.",
            )
