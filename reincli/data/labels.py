"""Classes, their colours, and the tables from stored label values to class indices."""

from __future__ import annotations

from dataclasses import dataclass

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
