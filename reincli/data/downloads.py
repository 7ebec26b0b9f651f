"""The files in which the datasets are downloaded: their names, their addresses, and what each brings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

PARTIAL = (".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp", ".filepart", ".opdownload")
"""What browsers and download tools append to a name until all of the file is there."""


@dataclass(frozen=True)
class Download:
    """One archive, or a numbered series of archives of one kind.

    Attributes:
        names: what the file may be called, as patterns.
        brings: folders of the dataset that come out of it, and nothing else of it is unpacked.
        moved: leading folders inside of it -> what they are in the dataset.
        rar: it is a RAR archive, for which a program has to be installed.
    """

    names: tuple[str, ...]
    brings: tuple[str, ...]
    moved: tuple[tuple[str, str], ...] = ()
    rar: bool = False

    def target(self, member: str) -> str | None:
        """Where a member goes below the dataset's root; None where it is not needed."""
        for start, place in (*self.moved, ("", "")):
            if member.startswith(start):
                path = place + member[len(start) :]
                if any(path.startswith(f"{folder}/") for folder in self.brings):
                    return path
        return None

    def has_name(self, name: str) -> bool:
        """Whether a file is called like this download."""
        return any(fnmatch(name.lower(), pattern.lower()) for pattern in self.names)


def _either(stem: str) -> tuple[str, ...]:
    return f"{stem}.zip", f"{stem}.tar", f"{stem}.tar.gz", f"{stem}.tgz"


_SYNTHIA = ("RGB", "GT/LABELS"), (("SYNTHIA_RAND_CITYSCAPES/", ""), ("RAND_CITYSCAPES/", ""))

DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "cityscapes": (
        Download(_either("leftImg8bit_trainvaltest"), ("leftImg8bit",)),
        Download(_either("gtFine_trainvaltest"), ("gtFine",)),
    ),
    "gta": (
        Download(("[0-9][0-9]_images.zip", *_either("images")), ("images",)),
        Download(("[0-9][0-9]_labels.zip", *_either("labels")), ("labels",)),
    ),
    "synthia": (
        Download(("SYNTHIA_RAND_CITYSCAPES.rar", "RAND_CITYSCAPES.rar"), *_SYNTHIA, rar=True),
        Download((*_either("SYNTHIA_RAND_CITYSCAPES"), *_either("RAND_CITYSCAPES")), *_SYNTHIA),
    ),
    "urbansyn": (
        Download(_either("rgb"), ("rgb",), (("UrbanSyn/", ""),)),
        Download(_either("ss"), ("ss",), (("UrbanSyn/", ""),)),
        Download(_either("UrbanSyn*"), ("rgb", "ss"), (("UrbanSyn/", ""),)),
    ),
    "mapillary": (
        Download(
            (*_either("mapillary-vistas-dataset_public_v*"), "An_o5cmHOsS1VbLdaKx*.zip"),
            ("training/images", "training/v1.2/labels", "validation/images", "validation/v1.2/labels"),
            (("training/labels/", "training/v1.2/labels/"), ("validation/labels/", "validation/v1.2/labels/")),
        ),
    ),
    "bdd100k": (
        Download(_either("bdd100k_images_10k"), ("images/10k",), (("bdd100k/", ""), ("10k/", "images/10k/"))),
        Download(
            _either("bdd100k_sem_seg_labels_trainval"),
            ("labels/sem_seg/masks",),
            (("bdd100k/", ""), ("sem_seg/", "labels/sem_seg/")),
        ),
        Download(
            _either("bdd100k_seg"),
            ("images/10k", "labels/sem_seg/masks"),
            (("bdd100k/seg/images/", "images/10k/"), ("bdd100k/seg/labels/", "labels/sem_seg/masks/"),
             ("seg/images/", "images/10k/"), ("seg/labels/", "labels/sem_seg/masks/")),
        ),
    ),
    "acdc": (
        Download(_either("rgb_anon_trainvaltest"), ("rgb_anon",)),
        Download(_either("gt_trainval"), ("gt",)),
    ),
}  # fmt: skip


def names_for(dataset: str, folder: str) -> str:
    """The names of the archives that bring a folder, for people: 'gtFine_trainvaltest.zip'; '' where none is known."""
    found = [
        download.names[0]
        for download in DOWNLOADS.get(dataset, ())
        if any(PurePosixPath(folder).is_relative_to(brought) for brought in download.brings)
    ]
    return " or ".join(name.replace("[0-9][0-9]_", "01_").replace("v*", "v1.2") for name in found[:1])


def known_archives(dataset: str, root: Path) -> list[tuple[Path, Download]]:
    """Downloads of a dataset that lie in its folder, sorted by name."""
    found = []
    for path in _files(root):
        download = next((d for d in DOWNLOADS.get(dataset, ()) if d.has_name(path.name)), None)
        if download is not None:
            found.append((path, download))
    return found


def unfinished(dataset: str, root: Path) -> list[Path]:
    """Downloads of a dataset that a browser or tool has not finished yet, by their names."""
    found = []
    for path in _files(root):
        whole = next((path.name.removesuffix(end) for end in PARTIAL if path.name.endswith(end)), None)
        if whole is not None and any(d.has_name(whole) for d in DOWNLOADS.get(dataset, ())):
            found.append(path)
    return found


def _files(root: Path) -> Iterable[Path]:
    return sorted(path for path in root.iterdir() if path.is_file()) if root.is_dir() else []
