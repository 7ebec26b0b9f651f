"""The files in which the datasets are downloaded: their names, and what each brings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

PARTIAL = (".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp", ".filepart", ".opdownload")
"""What browsers and download tools append to a name until all of the file is there."""
NOTE = ".unpacked.json"
"""File that says which archives were unpacked beside it, and what came out of them."""
_AGAIN = re.compile(r"( ?\(\d+\))(?=(\.tar)?\.\w+$)|(?<=\.\w{3})\.\d+$")
"""What a browser (`NAME (1).zip`) or wget (`NAME.zip.1`) puts into the name of a file that it fetches again."""
_FIREFOX = re.compile(r"\.[\w-]{8}(?=(\.tar)?\.\w+$)")
"""What Firefox puts into the name until all is there (`NAME.x1B2c3D4.zip.part`), beside an empty `NAME.zip`."""
FEW = 2
"""Archives of a series up to which each is named."""
WRAPPED = 2
"""Folders around the content of an archive that are taken off, however they are called."""


@dataclass(frozen=True)
class Download:
    """One archive, or a numbered series of archives of one kind.

    Attributes:
        names: what the file may be called, as patterns; the first one is the usual one.
        brings: folders of the dataset that come out of it, and nothing else of it is unpacked.
        moved: leading folders inside of it -> what they are in the dataset.
        only: ends of the names of files that are needed; empty: all in the folders.
        series: every name of a numbered series.
        extra: no setting reads it unless it is asked for.
        old: stands for others where it is there, and is no longer handed out.
        rar: it is a RAR archive, for which a program has to be installed.
        lies: address of the folder from which everybody may fetch it; empty: there is none.
    """

    names: tuple[str, ...]
    brings: tuple[str, ...]
    moved: tuple[tuple[str, str], ...] = ()
    only: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    extra: bool = False
    old: bool = False
    rar: bool = False
    lies: str = ""

    def target(self, member: str) -> str | None:
        """Where a member goes below the dataset's root; None where it is not needed."""
        if self.only and not member.endswith(self.only):
            return None
        parts = member.split("/")
        for around in range(min(WRAPPED, len(parts) - 1) + 1):
            inner = "/".join(parts[around:])
            for start, place in (*self.moved, ("", "")):
                path = place + inner[len(start) :]
                if inner.startswith(start) and any(path.startswith(f"{folder}/") for folder in self.brings):
                    return path
        return None

    def has_name(self, name: str) -> bool:
        """Whether a file is called like this download, also where it was fetched a second time."""
        plain = plain_name(name).lower()
        return any(fnmatch(plain, pattern.lower()) for pattern in self.names)

    def files(self) -> tuple[str, ...]:
        """Names of its files."""
        return self.series or self.names[:1]

    def shown(self) -> str:
        """Its name, for people: of a long series the first and the last one."""
        if len(self.series) > FEW:
            return f"{self.series[0]} to {self.series[-1]}"
        return " and ".join(self.series) or self.names[0]


def plain_name(name: str) -> str:
    """The name under which a file was offered: 'gt_trainval (1).zip' -> 'gt_trainval.zip'."""
    return _AGAIN.sub("", name)


def _either(stem: str) -> tuple[str, ...]:
    return f"{stem}.zip", f"{stem}.tar", f"{stem}.tar.gz", f"{stem}.tgz"


def _numbered(kind: str) -> tuple[str, ...]:
    return tuple(f"{number:02}_{kind}.zip" for number in range(1, 11))


def _bare(kind: str) -> tuple[tuple[str, str], ...]:
    """Pictures of UrbanSyn that lie in their archive without a folder: 'rgb_0001.png' -> 'rgb/rgb_0001.png'."""
    return tuple((f"{kind}_{digit}", f"{kind}/{kind}_{digit}") for digit in range(10))


def _ten_k(split: str, *, extra: bool = False) -> Download:
    """The images of a split of BDD100K."""
    return Download(
        _either(f"10k_images_{split}"),
        (f"images/10k/{split}",),
        (("10k/", "images/10k/"),),
        extra=extra,
    )


def _vistas(version: str) -> tuple[Download, ...]:
    """Mapillary Vistas, with the labels of a version; the first download of 1.2 has them without one."""
    labels = tuple(f"{folder}/{version}/labels" for folder in ("training", "validation"))
    flat = tuple((f"{folder}/labels/", f"{folder}/v1.2/labels/") for folder in ("training", "validation"))
    names = (
        f"mapillary-vistas-dataset_public_{version}.zip", *_either("mapillary-vistas-dataset_public_v*"),
        "An_o5cmHOsS1VbLdaKx*.zip", "An-ZjB1Zm61y*.zip",
    )  # fmt: skip
    images = ("training/images", "validation/images")
    return (Download(names, (*images, *labels), flat if version == "v1.2" else ()),)


_GTA = "https://download.visinf.tu-darmstadt.de/data/from_games/data/"
_ACDC = "https://acdc.vision.ee.ethz.ch/"
_SYNTHIA = "RGB", "GT/LABELS"
_MASKS = "labels/sem_seg/masks"

DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "cityscapes": (
        Download(
            _either("leftImg8bit_trainvaltest"),
            ("leftImg8bit/train", "leftImg8bit/val", "leftImg8bit/test"),
        ),
        Download(_either("gtFine_trainvaltest"), ("gtFine",)),
        Download(_either("leftImg8bit_trainextra"), ("leftImg8bit/train_extra",), extra=True),
        Download(_either("gtCoarse"), ("gtCoarse/train", "gtCoarse/train_extra"), extra=True),
    ),
    "gta": (
        Download(("[0-9][0-9]_images.zip", *_either("images")), ("images",), series=_numbered("images"), lies=_GTA),
        Download(("[0-9][0-9]_labels.zip", *_either("labels")), ("labels",), series=_numbered("labels"), lies=_GTA),
    ),
    "synthia": (
        Download(("SYNTHIA_RAND_CITYSCAPES.rar", "RAND_CITYSCAPES.rar"), _SYNTHIA, rar=True),
        Download((*_either("SYNTHIA_RAND_CITYSCAPES"), *_either("RAND_CITYSCAPES")), _SYNTHIA, old=True),
    ),
    "urbansyn": (
        Download(_either("rgb"), ("rgb",), _bare("rgb")),
        Download(_either("ss"), ("ss",), _bare("ss")),
        Download(_either("UrbanSyn*"), ("rgb", "ss"), old=True),
    ),
    "mapillary": _vistas("v1.2"),
    "bdd100k": (
        _ten_k("train"),
        _ten_k("val"),
        _ten_k("test", extra=True),
        Download(
            ("10k_images_*.zip", *_either("bdd100k_images_10k*")),
            ("images/10k",),
            (("10k/", "images/10k/"),),
            old=True,
        ),
        Download(
            _either("bdd100k_sem_seg_labels_trainval"), (_MASKS,), (("sem_seg/", "labels/sem_seg/"),)
        ),
        Download(
            _either("bdd100k_seg_maps"),
            (_MASKS,),
            tuple((f"labels/{split}/", f"{_MASKS}/{split}/") for split in ("train", "val")),
            only=("_train_id.png",),
            old=True,
        ),
        Download(
            _either("bdd100k_seg"),
            ("images/10k", _MASKS),
            (("seg/images/", "images/10k/"), ("seg/labels/", f"{_MASKS}/")),
            old=True,
        ),
    ),
    "acdc": (
        # beside these lie pictures of the same places in fair weather, colours, and inverse labels
        Download(_either("rgb_anon_trainvaltest"), ("rgb_anon",), only=("_rgb_anon.png",), lies=_ACDC),
        Download(_either("gt_trainval"), ("gt",), only=("_gt_labelIds.png", "_gt_labelTrainIds.png"), lies=_ACDC),
    ),
}  # fmt: skip


def downloads_of(dataset: str, version: str = "") -> tuple[Download, ...]:
    """The downloads of a dataset; of Mapillary those of a version ('' is 1.2)."""
    if dataset == "mapillary" and version:
        return _vistas(version)
    return DOWNLOADS.get(dataset, ())


def names_for(dataset: str, folder: str = "") -> str:
    """The names of all archives that bring a folder, for people; '' where none is known.

    Without a folder: of all that the dataset needs.
    """
    if folder:
        found = [each for each in DOWNLOADS.get(dataset, ()) if not each.old and brings(each, folder)]
    else:
        found = needed(dataset)
    return " and ".join(each.shown() for each in found)


def needed(dataset: str) -> list[Download]:
    """The downloads that a dataset needs, as they are handed out now."""
    return [each for each in DOWNLOADS.get(dataset, ()) if not each.old and not each.extra]


def is_open(dataset: str) -> bool:
    """Whether everybody may fetch a dataset, without an account: `rein download` brings it."""
    return dataset == "urbansyn" or any(each.lies for each in needed(dataset))


def known_archives(dataset: str, root: Path, version: str = "") -> list[tuple[Path, Download]]:
    """Downloads of a dataset that lie in its folder, sorted by name."""
    found = []
    for path in _files(root):
        download = next((d for d in downloads_of(dataset, version) if d.has_name(path.name)), None)
        if download is not None:
            found.append((path, download))
    return found


def not_unpacked(dataset: str, root: Path) -> list[tuple[Path, Download]]:
    """Downloads of a dataset that lie in its folder and were not unpacked there to their end."""
    notes = read_notes(root)
    return [(path, what) for path, what in known_archives(dataset, root) if not notes.get(path.name)]


def brings(download: Download, folder: str) -> bool:
    """Whether a folder of the dataset, or one around it, comes out of a download; '' is any."""
    asked = PurePosixPath(folder)
    return not folder or any(asked.is_relative_to(each) for each in download.brings)


def read_notes(into: Path) -> dict[str, dict[str, object]]:
    """What was unpacked in a folder, by name of the archive; see `prepare.archives`."""
    try:
        notes = json.loads((into / NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(notes, dict):
        return {}
    return {name: facts for name, facts in notes.items() if isinstance(facts, dict)}


def unfinished(dataset: str, root: Path, version: str = "") -> list[tuple[Path, Download]]:
    """Downloads of a dataset that a browser or tool has not finished yet, by their names."""
    found = []
    for path in _files(root):
        whole = whole_name(path.name)
        if whole != path.name:
            what = next((d for d in downloads_of(dataset, version) if d.has_name(whole)), None)
            found += [(path, what)] if what is not None else []
    return found


def whole_name(name: str) -> str:
    """The name that an unfinished download gets when it is there: 'gtFine.zip.part' -> 'gtFine.zip'."""
    whole = next((name.removesuffix(end) for end in PARTIAL if name.endswith(end)), name)
    return name if whole == name else _FIREFOX.sub("", whole)


def _files(root: Path) -> Iterable[Path]:
    return sorted(path for path in root.iterdir() if path.is_file()) if root.is_dir() else []
