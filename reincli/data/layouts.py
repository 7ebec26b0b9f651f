"""The folders of each dataset, by split, and the domain under which the images of a folder are scored.

They are those of the downloads (and of the original implementation); labels are class indices as
`rein prepare-data` leaves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reincli.config import OwnDataset
from reincli.data.stored import Colors, colors_of

DATASETS = ("cityscapes", "gta", "synthia", "urbansyn", "mapillary", "bdd100k", "acdc", "cityscapes-c")
"""Names of the built-in datasets."""
NO_CONVERSION = ("bdd100k", "urbansyn")
"""Those whose labels come as class indices."""
TRAINING_ONLY = ("gta", "synthia", "urbansyn")
DRAWN = "drawn_labels"
"""Folder of an own dataset in which labels lie that were drawn from objects, one folder a split."""
CONDITIONS = ("night", "fog", "rain", "snow")
"""Conditions of ACDC, in the order in which they are reported."""
CORRUPTIONS = (
    "motion_blur", "defocus_blur", "glass_blur", "gaussian_blur",
    "gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise",
    "brightness", "contrast", "saturate", "jpeg_compression",
    "snow", "spatter", "fog", "frost",
)  # fmt: skip

HOMES = {
    "cityscapes": "https://www.cityscapes-dataset.com",
    "gta": "https://download.visinf.tu-darmstadt.de/data/from_games/",
    "synthia": "https://synthia-dataset.net/downloads/ (SYNTHIA-RAND-CITYSCAPES)",
    "urbansyn": "https://www.urbansyn.org",
    "mapillary": "https://www.mapillary.com/dataset/vistas (version 1.2)",
    "bdd100k": "http://bdd-data.berkeley.edu (10K Images, Semantic Segmentation)",
    "acdc": "https://acdc.vision.ee.ethz.ch",
}


BDD_LONE = frozenset({
    "3d581db5-2564fb7e", "52e3fd10-c205dec2", "781756b0-61e0a182", "78ac84ba-07bd30c2",
    "80a9e37d-e4548ac1", "9342e334-33d167eb",
    "fee92217-63b3f87f", "ff1e4d6d-f4d85cfd", "ff3d3536-04986e25", "ff3da814-c3463a43",
    "ff55861e-a06b953c", "ff7b98c7-3cb964ac",
})  # fmt: skip
"""Images of BDD100K that some of its releases have no label for, and labels without image (its issue 103)."""


BDD_IMAGES = ("images/10k", "10k", "seg/images")
"""Where images of BDD100K lie: as handed out now, without the folder around, and in the older archive."""
BDD_LABELS = ("labels/sem_seg/masks", "sem_seg/masks", "bdd100k_seg_maps/labels", "seg/labels")


@dataclass(frozen=True)
class Folders:
    """One pair of folders of a split, relative to the dataset's root.

    Attributes:
        images, labels: the two trees; a label lies where its image lies. labels None: there are none.
        image_suffix: what every image's name ends with.
        label_suffixes: what takes its place in the label's name; the first that exists counts.
        domain: name under which the images are scored.
        prefixes: what the names of images and of labels begin with, where that differs.
        base: leading part of `images` that is kept in the names of the samples.
        listed: a text file of image names a line; only those are taken.
        lone: names without suffix that were released without a partner; they are passed over.
        colors: in which labels may be painted, with the stored values they stand for; None: none.
        extra: nothing is amiss where its labels are not there.
    """

    images: str
    labels: str | None
    image_suffix: str
    label_suffixes: tuple[str, ...]
    domain: str
    prefixes: tuple[str, str] = ("", "")
    base: str = ""
    listed: str | None = None
    lone: frozenset[str] = frozenset()
    colors: Colors | None = None
    extra: bool = False


def split_folders(dataset: str, root: Path) -> dict[str, tuple[Folders, ...]]:
    """Folders of a built-in dataset by split.

    Args:
        dataset: one of `DATASETS`.
        root: its folder: Mapillary may have a half-size copy there, BDD100K lie in several ways.
    """
    train_ids = ("_labelTrainIds.png",)
    if dataset == "cityscapes":
        return _cityscapes()
    if dataset == "gta":
        return {"train": (Folders("images", "labels", ".png", train_ids, "gta"),)}
    if dataset == "synthia":
        return {"train": (Folders("RGB", "GT/LABELS", ".png", train_ids, "synthia"),)}
    if dataset == "urbansyn":
        pair = Folders("rgb", "ss", ".png", (".png",), "urbansyn", prefixes=("rgb_", "ss_"))
        return {"train": (pair,)}
    if dataset == "mapillary":
        return _mapillary(root)
    if dataset == "bdd100k":
        return {split: _bdd(root, split) for split in ("train", "val", "test")}
    if dataset == "acdc":
        return {split: _acdc(split) for split in ("train", "val", "test")}
    severities = {f"severity{n}": _corrupted(n) for n in range(1, 6)}
    return {"val": _corrupted(5)} | severities


def _cityscapes() -> dict[str, tuple[Folders, ...]]:
    """The fine splits; coarse labels of the images of `train` and of 19,998 others."""

    def pair(split: str, kind: str | None = "gtFine", listed: str | None = None) -> tuple[Folders, ...]:
        labels = kind and f"{kind}/{split}"
        suffixes = "_leftImg8bit.png", (f"_{kind}_labelTrainIds.png",)
        extra = kind == "gtCoarse"
        return (Folders(f"leftImg8bit/{split}", labels, *suffixes, "cityscapes", listed=listed, extra=extra),)

    return {
        "train": pair("train"),
        "val": pair("val"),
        "test": pair("test", None),
        "train_16th": pair("train", listed="train_16th.txt"),
        "train_extra": pair("train_extra", "gtCoarse"),
        "train_coarse": pair("train", "gtCoarse"),
    }


def _mapillary(root: Path) -> dict[str, tuple[Folders, ...]]:
    """Validation is on the half-size copy, where there is one."""

    def pair(images: str, labels: str) -> tuple[Folders, ...]:
        return (Folders(images, labels, ".jpg", (".png",), "mapillary"),)

    trained = "cityscapes_trainIdLabel"
    half = (root / "half" / "val_img").is_dir()
    return {
        "train": pair("training/images", f"{trained}/train/label"),
        "val": pair("half/val_img", "half/val_label")
        if half
        else pair("validation/images", f"{trained}/val/label"),
    }


def _bdd(root: Path, split: str) -> tuple[Folders, ...]:
    images = _first(root, BDD_IMAGES, split)
    labels = None if split == "test" else _first(root, BDD_LABELS, split)
    return (Folders(images, labels, ".jpg", ("_train_id.png", ".png"), "bdd100k", lone=BDD_LONE),)


def _first(root: Path, places: tuple[str, ...], split: str) -> str:
    """The first place that is there, in the root or in folders of archives below it; else the usual one.

    Archives may have been unpacked side by side, each in a folder of its own name: up to two folders stand before.
    """
    for place in places:
        if (root / place / split).is_dir():
            return f"{place}/{split}"
    for place in places:
        for around in ("*", "*/*"):
            found = sorted(root.glob(f"{around}/{place}/{split}")) if root.is_dir() else []
            if found:
                return found[0].relative_to(root).as_posix()
    return f"{places[0]}/{split}"


def _acdc(split: str) -> tuple[Folders, ...]:
    return tuple(
        Folders(
            f"rgb_anon/{condition}/{split}",
            None if split == "test" else f"gt/{condition}/{split}",
            "_rgb_anon.png",
            ("_gt_labelTrainIds.png",),
            condition,
            base=f"{condition}/{split}/",
        )
        for condition in CONDITIONS
    )


def _corrupted(severity: int) -> tuple[Folders, ...]:
    return tuple(
        Folders(
            f"{corruption}/{severity}",
            "../cityscapes/gtFine/val",
            "_leftImg8bit.png",
            ("_gtFine_labelTrainIds.png",),
            corrupted_domain(corruption, severity),
            base=f"{corruption}/{severity}/",
        )
        for corruption in CORRUPTIONS
    )


def corrupted_domain(corruption: str, severity: int) -> str:
    """The domain of images of Cityscapes-C: 'fog', 5 -> 'fog/5'."""
    return f"{corruption}/{severity}"


def corruption_of(domain: str) -> tuple[str, int] | None:
    """Corruption and severity of a domain of Cityscapes-C; None for every other domain."""
    corruption, _, severity = domain.partition("/")
    return (corruption, int(severity)) if corruption in CORRUPTIONS and severity.isdecimal() else None


def own_folders(own: OwnDataset) -> dict[str, tuple[Folders, ...]]:
    """Folders of a dataset described in TOML, by split."""
    return {
        split: (
            Folders(
                s.images,
                s.labels if s.format == "png" else f"{DRAWN}/{split}",
                s.image_suffix,
                (s.label_suffix if s.format == "png" else ".png",),
                s.domain or split,
                colors=colors_of(own),
            ),
        )
        for split, s in own.splits.items()
    }
