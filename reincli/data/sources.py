"""Finding the images and labels of a source, its classes, and what its stored label values mean.

A source is written NAME or NAME:SPLIT; the folders are in `layouts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reincli.config import DataSettings
from reincli.data.completeness import KNOWN_BAD
from reincli.data.index import list_files
from reincli.data.labels import CITYSCAPES, IGNORE, Classes
from reincli.data.layouts import DATASETS, TRAINING_ONLY, Folders, own_folders, split_folders
from reincli.data.missing import bring_images, bring_labels, command_for, hint, missing_folder, no_image
from reincli.data.stored import Colors
from reincli.errors import ReinError, nearest, typed

UNDECLARED = -1
"""Entry of a label table for stored values that must not occur."""


@dataclass(frozen=True)
class Sample:
    """One image and its label.

    Attributes:
        image: the image file.
        label: its label file, or None.
        dataset: name of the dataset, which decides its label table and test size.
        domain: name under which it is scored.
        name: posix path relative to the dataset's image folder.
        colors: in which its label may be painted, see `stored`.
    """

    image: Path
    label: Path | None
    dataset: str
    domain: str
    name: str
    colors: Colors | None = None


@dataclass(frozen=True)
class Pairs:
    """What lies in a pair of folders: samples (label None where missing), and names without a partner.

    `lone`: names known to be released without a partner; they are in none of the others.
    """

    samples: tuple[Sample, ...]
    without_label: tuple[str, ...]
    without_image: tuple[str, ...]
    lone: tuple[str, ...] = ()


# --- names and folders -------------------------------------------------------------------------------------


def dataset_root(dataset: str, data: DataSettings) -> Path:
    """The folder of a dataset: `<data.root>/<name>`, or what an own dataset's description says."""
    own = data.own.get(dataset)
    return Path(own.root) if own is not None and own.root else Path(data.root) / dataset


def splits_of(dataset: str, data: DataSettings) -> dict[str, tuple[Folders, ...]]:
    """The splits of a dataset. ReinError for a name that does not exist."""
    if dataset in data.own:
        return own_folders(data.own[dataset])
    if dataset not in DATASETS:
        near = f"{nearest(dataset, [*DATASETS, *data.own])} Own data: describe it in TOML."
        if dataset.endswith(".toml"):
            near = f"Give the file as --config {typed(dataset)}, and the name of a dataset that it describes here."
        raise ReinError(f"No dataset is named '{dataset}'.", near, usage=True)
    return split_folders(dataset, dataset_root(dataset, data))


def parse_source(source: str, data: DataSettings) -> tuple[str, str]:
    """'acdc:val' -> ('acdc', 'val'). Without a split: `train` of training-only sets, else `val`.

    Raises:
        ReinError: no such dataset or split; the nearest names are told.
    """
    dataset, colon, split = source.partition(":")
    splits = splits_of(dataset, data)
    if not colon:
        split = "train" if dataset in TRAINING_ONLY else "val"
        if split not in splits and len(splits) == 1:
            split = next(iter(splits))
    if split not in splits:
        near = f"{nearest(split, splits)} Write it as {dataset}:SPLIT."
        raise ReinError(f"Dataset '{dataset}' has no split '{split}'.", near, usage=True)
    return dataset, split


def prepare_command(sample: Sample) -> str:
    """How the dataset of a sample is prepared, with the folder in which it lies."""
    root, image = None, sample.image.as_posix()
    if sample.dataset in DATASETS:
        for folders in split_folders(sample.dataset, Path()).values():
            for each in folders:
                if f"/{each.images}/" in image:
                    root = Path(image.rpartition(f"/{each.images}/")[0])
    return command_for(sample.dataset, root)


# --- listing -----------------------------------------------------------------------------------------------


def find_pairs(
    folders: Folders,
    root: Path,
    dataset: str,
    *,
    with_labels: bool = True,
    labels_root: Path | None = None,
) -> Pairs:
    """List one pair of folders; nothing but a missing folder is an error.

    Args:
        folders: the pair.
        root: what their images, and labels, are relative to.
        dataset: name for samples and errors.
        with_labels: False: the label folder is not looked at.
        labels_root: what the labels are relative to, if not `root`.

    Raises:
        ReinError: a folder is missing; the hint says what brings it.
    """
    images = root / folders.images
    if not images.is_dir():
        raise missing_folder(folders.images, root, dataset)
    names = list_files(images, folders.image_suffix)
    if folders.labels == folders.images:  # in one folder the images' suffix may end the labels' names too
        own = folders.image_suffix
        longer = tuple(s for s in folders.label_suffixes if s != own and s.endswith(own))
        names = [name for name in names if not (longer and name.endswith(longer))]
    if folders.listed is not None:
        names = _only_listed(names, root / folders.listed, folders.image_suffix)
    labels_at = labels_root or root
    labels = _labels(folders, labels_at, dataset) if with_labels and folders.labels is not None else {}
    samples, without_label, lone = [], [], []
    keys = {name: _key(name, folders.image_suffix, folders.prefixes[0]) for name in names}
    base = str(images)
    label_base = str(labels_at / str(folders.labels))
    for name, key in keys.items():
        label = labels.get(key)
        if label is None and labels and key in folders.lone:
            lone.append(name)
            continue
        if label is None:
            without_label.append(name)
        path = None if label is None else Path(label_base + "/" + label)
        samples.append(
            Sample(
                Path(base + "/" + name), path, dataset, folders.domain, folders.base + name, folders.colors
            )
        )
    known = set(keys.values())
    without_image = [] if folders.listed else [label for key, label in labels.items() if key not in known]
    lone += [label for label in without_image if Path(label).stem.removesuffix("_train_id") in folders.lone]
    without_image = [label for label in without_image if label not in lone]
    return Pairs(tuple(samples), tuple(without_label), tuple(sorted(without_image)), tuple(lone))


def _key(name: str, suffix: str, prefix: str) -> str:
    """What image and label have in common: the path without suffix and prefix."""
    folder, slash, stem = name.removesuffix(suffix).rpartition("/")
    return folder + slash + (stem.removeprefix(prefix) if prefix else stem)


def _labels(folders: Folders, root: Path, dataset: str) -> dict[str, str]:
    """Labels by key; of two suffixes the first wins."""
    tree = root / str(folders.labels)
    if not tree.is_dir():
        raise missing_folder(str(folders.labels), root, dataset)
    found: dict[str, str] = {}
    for suffix in folders.label_suffixes:
        others = tuple(s for s in folders.label_suffixes if s != suffix and s.endswith(suffix))
        for name in list_files(tree, suffix):
            if not (others and name.endswith(others)):
                found.setdefault(_key(name, suffix, folders.prefixes[1]), name)
    return found


def _only_listed(names: list[str], listing: Path, suffix: str) -> list[str]:
    """The images that a list file names by stem or by relative path, one a line."""
    try:
        lines = [line.strip() for line in listing.read_text("utf-8").splitlines()]
    except OSError:
        form = "It holds one image a line: its name without suffix, or its path below the image folder."
        raise ReinError(f"There is no list of images at '{listing}'.", form) from None
    wanted = {line.removesuffix(suffix) for line in lines if line and not line.startswith("#")}
    taken = {}
    for name in names:
        stem = name.removesuffix(suffix)
        match = stem if stem in wanted else stem.rpartition("/")[2]
        if match in wanted:
            taken[name] = match
    missing = sorted(wanted - set(taken.values()))
    if missing:
        message = f"'{listing}' names {len(missing)} images that are not there: {some(missing)}."
        raise ReinError(message, "Mend the list, or bring the images.")
    return list(taken)


def some(names: Iterable[str]) -> str:
    """The first three names, and dots for more."""
    shown = list(names)
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")


def find_samples(source: str, data: DataSettings, *, need_labels: bool = True) -> list[Sample]:
    """Images of a source with their labels, sorted by domain and path.

    Args:
        source: NAME or NAME:SPLIT.
        data: the data root and the own datasets.
        need_labels: False: labels are taken where they are, and nothing is said where they are not.

    Raises:
        ReinError: unknown source; folder missing or empty; images without label or labels without image.
    """
    dataset, split = parse_source(source, data)
    require_leave_out(data)
    root = dataset_root(dataset, data)
    samples: list[Sample] = []
    for folders in splits_of(dataset, data)[split]:
        has_labels = folders.labels is not None
        if need_labels and not has_labels:
            message = f"The split '{dataset}:{split}' has no labels."
            raise ReinError(message, "Choose a split with labels.", usage=True)
        present = has_labels and (need_labels or (root / str(folders.labels)).is_dir())
        pairs = find_pairs(folders, root, dataset, with_labels=present)
        if not pairs.samples:
            where = root / folders.images
            raise no_image(where, folders.image_suffix, dataset, hint(dataset, root, folders.images))
        pairs = leave_out(pairs, folders, dataset, data)
        if need_labels:
            _require_partners(pairs, folders, root, dataset)
        samples += pairs.samples
    return samples


def without_labels(dataset: str, root: Path) -> dict[str, list[Sample]]:
    """Images of the splits of a built-in dataset that are handed out without labels, of those that are there."""
    found: dict[str, list[Sample]] = {}
    for split, all_folders in split_folders(dataset, root).items():
        there = [f for f in all_folders if f.labels is None and (root / f.images).is_dir()]
        samples = [sample for folders in there for sample in find_pairs(folders, root, dataset).samples]
        if samples:
            found[split] = samples
    return found


def leave_out(pairs: Pairs, folders: Folders, dataset: str, data: DataSettings) -> Pairs:
    """Pairs of a dataset without those that `data.leave_out` names; an image left out needs no label."""
    named = {each.removeprefix(f"{dataset}/") for each in data.leave_out if each.startswith(f"{dataset}/")}
    if dataset in data.leave_out:
        named |= set(KNOWN_BAD.get(dataset, ()))
    if not named:
        return pairs
    return replace(
        pairs,
        samples=tuple(sample for sample in pairs.samples if sample.name not in named),
        without_label=tuple(name for name in pairs.without_label if folders.base + name not in named),
    )


def require_leave_out(data: DataSettings) -> None:
    """ReinError where an entry of `data.leave_out` names no dataset, or one without pairs that are known to be bad."""
    for entry in data.leave_out:
        dataset, slash, _ = entry.partition("/")
        splits_of(dataset, data)  # an unknown name is an error
        if not slash and dataset not in KNOWN_BAD:
            raise ReinError(
                f"data.leave_out names '{dataset}', of which no bad pairs are known; known of: {', '.join(KNOWN_BAD)}.",
                f"Name its images one by one: {dataset}/own/path.png",
                usage=True,
            )


def _require_partners(pairs: Pairs, folders: Folders, root: Path, dataset: str) -> None:
    where = root / str(folders.labels)
    if pairs.without_label:
        count, total = len(pairs.without_label), len(pairs.samples)
        message = f"{count} of {total} images of '{dataset}' have no label in '{where}'"
        names = f"{some(pairs.without_label)} (expected: *{folders.label_suffixes[-1]})"
        raise ReinError(f"{message}: {names}.", bring_labels(folders, root, dataset, pairs.without_label))
    if pairs.without_image:
        count = len(pairs.without_image)
        message = f"{count} labels in '{where}' have no image in '{root / folders.images}'"
        bring = bring_images(folders, root, pairs.without_image)
        raise ReinError(f"{message}: {some(pairs.without_image)}.", bring)


def each_once(parts: Sequence[tuple[str, Sequence[Sample]]], data: DataSettings) -> list[Sample]:
    """Images of several sources, each image once, however often it is named.

    Where two splits of a dataset would be one domain, each is a domain of its own, `cityscapes:train`.

    Args:
        parts: (source, its images). data: of the settings.
    """
    seen: set[Path] = set()
    splits: dict[tuple[str, str], set[str]] = {}
    kept: list[tuple[str, Sample]] = []
    for source, samples in parts:
        split = parse_source(source, data)[1]
        for sample in samples:
            if sample.image not in seen:
                seen.add(sample.image)
                kept.append((split, sample))
                splits.setdefault((sample.dataset, sample.domain), set()).add(split)
    return [
        replace(sample, domain=f"{sample.domain}:{split}")
        if len(splits[sample.dataset, sample.domain]) > 1
        else sample
        for split, sample in kept
    ]


def scorable_samples(source: str, data: DataSettings) -> tuple[list[Sample], list[str]]:
    """What there is to score of a source that is not complete.

    Returns:
        the images that have a label, and the names of images without label and of labels without image.

    Raises:
        ReinError: unknown source; no labels at all; a folder is missing.
    """
    dataset, split = parse_source(source, data)
    require_leave_out(data)
    root = dataset_root(dataset, data)
    pairs = []
    for folders in splits_of(dataset, data)[split]:
        if folders.labels is None:
            message = f"The split '{dataset}:{split}' has no labels."
            raise ReinError(message, "Choose a split with labels.", usage=True)
        pairs.append(leave_out(find_pairs(folders, root, dataset), folders, dataset, data))
    whole = [sample for each in pairs for sample in each.samples if sample.label is not None]
    if not whole:
        raise ReinError(f"No image of '{source}' in '{root}' has a label.", hint(dataset, root, prepare=True))
    return whole, [name for each in pairs for name in (*each.without_label, *each.without_image)]


# --- classes and label values ------------------------------------------------------------------------------


def classes_of(data: DataSettings) -> Classes:
    """The classes of a run: those of its own datasets if it uses any, else the 19 of Cityscapes.

    Raises:
        ReinError: an own dataset is mixed with a built-in one of other classes.
    """
    used = [parse_source(source, data)[0] for source in (*data.train, *data.val)]
    own = next((data.own[name] for name in used if name in data.own), None)
    if own is None:
        return CITYSCAPES
    classes = Classes(tuple(c.name for c in own.classes), tuple(c.color for c in own.classes))
    builtin = next((name for name in used if name not in data.own), None)
    if builtin is not None and classes.names != CITYSCAPES.names:
        message = f"'{builtin}' has the 19 Cityscapes classes, the own dataset has {len(classes)} others."
        raise ReinError(message, "Train and validate on datasets of the same classes.", usage=True)
    return classes


def label_table(dataset: str, data: DataSettings) -> np.ndarray:
    """(256,) int16 from a stored value to its class index; 255 ignored, -1 a value that must not occur."""
    table = np.full(256, UNDECLARED, np.int16)
    if dataset not in data.own:
        splits_of(dataset, data)  # an unknown name is an error here too
        table[: len(CITYSCAPES)] = np.arange(len(CITYSCAPES))
        if dataset == "urbansyn":
            table[19] = IGNORE
        table[IGNORE] = IGNORE
        return table
    own = data.own[dataset]
    table[own.ignore] = IGNORE
    if not own.map:
        indices = [i for i in range(len(own.classes)) if i != own.ignore]
        table[indices] = indices
    for stored, index in own.map.items():  # after `ignore`: masks of 0 and 255 may map 255 to a class
        if not (stored.isdecimal() and int(stored) <= 255):
            message = f"data.own.{dataset}.map has the stored value '{stored}'; expected 0 to 255."
            near = 'For example: map = { "7" = 0 }'
            if stored.isdigit():
                near = "Labels hold 8 bits: write them anew with smaller values."
            raise ReinError(message, near, usage=True)
        table[int(stored)] = index
    return table


def label_tables(sources: Iterable[str], data: DataSettings) -> Mapping[str, np.ndarray]:
    """The label table of every dataset among the sources, by its name."""
    names = {parse_source(source, data)[0] for source in sources}
    return {name: label_table(name, data) for name in sorted(names)}
