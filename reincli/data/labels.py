"""Classes, their colours, and the tables from stored label values to class indices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

IGNORE = 255
"""The index of pixels that are neither trained on nor scored."""


@dataclass(frozen=True)
class Classes:
    """Names and colours of the classes, in the order of their indices.

    Attributes:
        names: one name a class; index in this tuple = class index (trainId).
        colors: RGB 0-255, one a class.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(f"{len(self.names)} class names but {len(self.colors)} colours")

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> np.ndarray:
        """(256, 3) uint8 RGB lookup table; every index without a class is black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = np.asarray(self.colors, np.uint8)
        return table


# Names, colours and ids are those of the Cityscapes benchmark (labels of its development kit).
CITYSCAPES = Classes(
    names=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    ),
    colors=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
        (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
        (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
        (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip

# labelIds of the Cityscapes benchmark (GTA and ACDC use the same), by class index.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# Synthia's own ids, by class index; terrain, truck and train do not occur in it.
SYNTHIA_IDS = (3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11)

# Names of Mapillary Vistas 1.2, in the order of its ids, each with its Cityscapes class index.
MAPILLARY = (
    ("Bird", 255),
    ("Ground Animal", 255),
    ("Curb", 1),
    ("Fence", 4),
    ("Guard Rail", 255),
    ("Barrier", 255),
    ("Wall", 3),
    ("Bike Lane", 0),
    ("Crosswalk - Plain", 0),
    ("Curb Cut", 1),
    ("Parking", 0),
    ("Pedestrian Area", 1),
    ("Rail Track", 255),
    ("Road", 0),
    ("Service Lane", 0),
    ("Sidewalk", 1),
    ("Bridge", 255),
    ("Building", 2),
    ("Tunnel", 255),
    ("Person", 11),
    ("Bicyclist", 12),
    ("Motorcyclist", 12),
    ("Other Rider", 12),
    ("Lane Marking - Crosswalk", 0),
    ("Lane Marking - General", 0),
    ("Mountain", 255),
    ("Sand", 255),
    ("Sky", 10),
    ("Snow", 255),
    ("Terrain", 9),
    ("Vegetation", 8),
    ("Water", 255),
    ("Banner", 255),
    ("Bench", 255),
    ("Bike Rack", 255),
    ("Billboard", 255),
    ("Catch Basin", 255),
    ("CCTV Camera", 255),
    ("Fire Hydrant", 255),
    ("Junction Box", 255),
    ("Mailbox", 255),
    ("Manhole", 255),
    ("Phone Booth", 255),
    ("Pothole", 255),
    ("Street Light", 5),
    ("Pole", 5),
    ("Traffic Sign Frame", 7),
    ("Utility Pole", 5),
    ("Traffic Light", 6),
    ("Traffic Sign (Back)", 7),
    ("Traffic Sign (Front)", 7),
    ("Trash Can", 255),
    ("Bicycle", 18),
    ("Boat", 255),
    ("Bus", 15),
    ("Car", 13),
    ("Caravan", 255),
    ("Motorcycle", 17),
    ("On Rails", 16),
    ("Other Vehicle", 255),
    ("Trailer", 255),
    ("Truck", 14),
    ("Wheeled Slow", 255),
    ("Car Mount", 255),
    ("Ego Vehicle", 255),
    ("Unlabeled", 255),
)

# Every name in the polygon files of Cityscapes with its labelId; a "group" is drawn as its members.
POLYGON_IDS = {
    "unlabeled": 0, "ego vehicle": 1, "rectification border": 2, "out of roi": 3, "static": 4,
    "dynamic": 5, "ground": 6, "road": 7, "sidewalk": 8, "parking": 9, "rail track": 10, "building": 11,
    "wall": 12, "fence": 13, "guard rail": 14, "bridge": 15, "tunnel": 16, "pole": 17, "polegroup": 18,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24,
    "rider": 25, "car": 26, "truck": 27, "bus": 28, "caravan": 29, "trailer": 30, "train": 31,
    "motorcycle": 32, "bicycle": 33, "license plate": -1,
}  # fmt: skip


def table_to_indices(ids: Iterable[int], *, other: int = IGNORE) -> np.ndarray:
    """(256,) uint8 from a stored id to its class index; `ids` by class index, every other id -> `other`."""
    table = np.full(256, other, np.uint8)
    for index, stored in enumerate(ids):
        table[stored] = index
    return table


def mapillary_table() -> np.ndarray:
    """(256,) uint8 from a Mapillary 1.2 id to a Cityscapes class index; ids without a class -> 255."""
    table = np.full(256, IGNORE, np.uint8)
    table[: len(MAPILLARY)] = [index for _, index in MAPILLARY]
    return table


def count_values(stored: np.ndarray) -> np.ndarray:
    """(256,) int64: how many pixels of a (H, W) uint8 map have each value."""
    if stored.size >= 1 << 24:  # OpenCV counts in single precision: exact below this many
        return np.bincount(stored.ravel(), minlength=256)
    return np.rint(cv2.calcHist([stored], [0], None, [256], [0, 256]).ravel()).astype(np.int64)
