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
CONDITIONS = ("night", "fog", "rain", "snow")
"""Conditions of ACDC, in the order in which they are reported."""
CORRUPTIONS = (
    "motion_blur", "defocus_blur", "glass_blur", "gaussian_blur",
    "gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise",
    "brightness", "contrast", "saturate", "jpeg_compression",
    "snow", "spatter", "fog", "frost",
)  # fmt: skip

HOMES = {
    "cityscapes": "https://www.cityscapes-dataset.com (leftImg8bit_ and gtFine_trainvaltest.zip)",
    "gta": "https://download.visinf.tu-darmstadt.de/data/from_games/",
    "synthia": "https://synthia-dataset.net/downloads/ (SYNTHIA-RAND-CITYSCAPES)",
    "urbansyn": "https://www.urbansyn.org",
    "mapillary": "https://www.mapillary.com/dataset/vistas (version 1.2)",
    "bdd100k": "http://bdd-data.berkeley.edu (10K Images, Segmentation)",
    "acdc": "https://acdc.vision.ee.ethz.ch (rgb_anon_trainvaltest.zip, gt_trainval.zip)",
}


BDD_LONE = frozenset({
    "3d581db5-2564fb7e", "52e3fd10-c205dec2", "781756b0-61e0a182", "78ac84ba-07bd30c2",
    "80a9e37d-e4548ac1", "9342e334-33d167eb",
    "fee92217-63b3f87f", "ff1e4d6d-f4d85cfd", "ff3d3536-04986e25", "ff3da814-c3463a43",
    "ff55861e-a06b953c", "ff7b98c7-3cb964ac",
})  # fmt: skip
"""Images of BDD100K that some of its releases have no label for, and labels without image (its issue 103)."""


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


def split_folders(root: Path) -> dict[str, dict[str, tuple[Folders, ...]]]:
    """Folders by dataset and split; `root` is the dataset's own (Mapillary may have a half-size copy)."""
    train_ids = ("_labelTrainIds.png",)
    return {
        "cityscapes": {s: _cityscapes(s) for s in ("train", "val", "test")}
        | {"train_16th": _cityscapes("train", "train_16th.txt")},
        "gta": {"train": (Folders("images", "labels", ".png", train_ids, "gta"),)},
        "synthia": {"train": (Folders("RGB", "GT/LABELS", ".png", train_ids, "synthia"),)},
        "urbansyn": {
            "train": (Folders("rgb", "ss", ".png", (".png",), "urbansyn", prefixes=("rgb_", "ss_")),)
        },
        "mapillary": _mapillary(root),
        "bdd100k": {s: _bdd(s) for s in ("train", "val", "test")},
        "acdc": {s: _acdc(s) for s in ("train", "val", "test")},
        "cityscapes-c": {"val": _corrupted(5)} | {f"severity{n}": _corrupted(n) for n in range(1, 6)},
    }


def _cityscapes(split: str, listed: str | None = None) -> tuple[Folders, ...]:
    images, labels = f"leftImg8bit/{split}", None if split == "test" else f"gtFine/{split}"
    suffixes = "_leftImg8bit.png", ("_gtFine_labelTrainIds.png",)
    return (Folders(images, labels, *suffixes, "cityscapes", listed=listed),)


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


def _bdd(split: str) -> tuple[Folders, ...]:
    images, labels = f"images/10k/{split}", None if split == "test" else f"labels/sem_seg/masks/{split}"
    return (Folders(images, labels, ".jpg", ("_train_id.png", ".png"), "bdd100k", lone=BDD_LONE),)


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
    return (corruption, int(severity)) if corruption in CORRUPTIONS and severity.isdigit() else None


def own_folders(own: OwnDataset) -> dict[str, tuple[Folders, ...]]:
    """Folders of a dataset described in TOML, by split."""
    return {
        split: (
            Folders(
                s.images,
                s.labels,
                s.image_suffix,
                (s.label_suffix,),
                s.domain or split,
                colors=colors_of(own),
            ),
        )
        for split, s in own.splits.items()
    }
