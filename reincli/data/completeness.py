"""How many images each split has as released, and which pairs of a release are known to be bad."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from reincli.data.downloads import DOWNLOADS, names_for
from reincli.data.layouts import BDD_LONE, CONDITIONS, CORRUPTIONS

IMAGES: dict[str, dict[str, int]] = {
    "cityscapes": {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998, "train_coarse": 2975},
    "gta": {"train": 24966},
    "synthia": {"train": 9400},
    "urbansyn": {"train": 7539},
    "mapillary": {"train": 18000, "val": 2000},
    "bdd100k": {"train": 7000, "val": 1000, "test": 2000},
    "acdc": {"train": 1600, "val": 406, "test": 2000},
    "cityscapes-c": {
        name: 500 * len(CORRUPTIONS) for name in ("val", *(f"severity{n}" for n in range(1, 6)))
    },
}
"""Images by split, as the datasets' own pages and papers state them."""
ACDC: dict[str, Mapping[str, int]] = {
    "train": dict.fromkeys(CONDITIONS, 400),
    "val": {"night": 106, "fog": 100, "rain": 100, "snow": 100},
    "test": dict.fromkeys(CONDITIONS, 500),
}
"""Images of ACDC by split and condition (arXiv 2104.13395, table 2)."""
LABELS = {
    "cityscapes": "gtFine",
    "synthia": "GT/LABELS",
    "urbansyn": "ss",
    "mapillary": "training/v1.2/labels",
    "bdd100k": "labels/sem_seg/masks",
    "acdc": "gt",
}
"""A folder of each dataset's labels, by which their archives are known; of GTA the number of the image tells."""
GTA_PART = 2500
"""Images in each but the last of the ten parts of GTA, which are numbered through from 00001."""

OTHER_SIZE, ONE_COLOUR = "label of another size", "label of one colour"
KNOWN_BAD: dict[str, dict[str, str]] = {
    "gta": {f"{number:05}.png": OTHER_SIZE for number in range(20801, 20861)}
    | {"15188.png": ONE_COLOUR, "17705.png": ONE_COLOUR}
}
"""Pairs that are bad as released, by dataset and image name. The published recipes use them like all others."""


def remark(dataset: str, split: str, names: Sequence[str], domains: Iterable[str] = ()) -> str:
    """What a split lacks, as one sentence; '' where it is complete or its size is not known.

    Args:
        dataset: a built-in name.
        names: of its images that are there. domains: of these, one an image, for datasets that have several.
    """
    expected = IMAGES.get(dataset, {}).get(split)
    alone = len(BDD_LONE) if dataset == "bdd100k" else 0  # released without label, in part
    if expected is None or len(names) >= expected - alone:
        return ""
    found = f"{split}: {len(names):,} of {expected:,} images"
    if dataset == "gta":
        return f"{found}; {_missing_parts(names)}."
    if dataset == "acdc":
        there = list(domains)
        lacks = {name: n for name, n in ACDC[split].items() if there.count(name) < n}
        found += " (" + ", ".join(f"{name} {there.count(name)} of {n}" for name, n in lacks.items()) + ")"
    folder = _folder(dataset, split)
    return f"{found}; all are in {names_for(dataset, folder)}." if folder else f"{found}."


def label_archives(dataset: str, names: Sequence[str]) -> str:
    """The archives that bring the labels of these images, for people; '' where none is known."""
    if dataset != "gta":
        return names_for(dataset, LABELS[dataset]) if dataset in LABELS else ""
    series = DOWNLOADS["gta"][1].series
    numbers = [int(stem) for stem in (PurePosixPath(name).stem for name in names) if stem.isdecimal()]
    parts = sorted({min(max(number - 1, 0) // GTA_PART, len(series) - 1) for number in numbers})
    if len(parts) == len(series):
        return DOWNLOADS["gta"][1].shown()
    return ", ".join(series[part] for part in parts)


def _folder(dataset: str, split: str) -> str:
    """A folder of a split's images, by which its archives are known; '' for one that is made here."""
    return {
        "cityscapes": f"leftImg8bit/{split.replace('train_coarse', 'train')}",
        "synthia": "RGB",
        "urbansyn": "rgb",
        "mapillary": "training/images" if split == "train" else "validation/images",
        "bdd100k": f"images/10k/{split}",
        "acdc": f"rgb_anon/fog/{split}",
    }.get(dataset, "")


def _missing_parts(names: Sequence[str]) -> str:
    """Which of GTA's ten archives bring what is missing."""
    series = DOWNLOADS["gta"][0].series
    there = {PurePosixPath(name).stem for name in names}
    total = IMAGES["gta"]["train"]
    lacking = sorted({(n - 1) // GTA_PART for n in range(1, total + 1) if f"{n:05}" not in there})
    if len(lacking) == len(series):
        return f"all of {series[0]} to {series[-1]} bring some of the others"
    return f"the others are in {', '.join(series[part] for part in lacking)}"
