"""Draws of an adaptation: a labelled crop of the source, an unlabelled crop of the target, what is pasted and hidden.

As in training, a draw is decided by the run's seed and its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from reincli.config import AdaptSettings, AugmentSettings, BorderSettings
from reincli.data import transforms
from reincli.data.dataset import TrainDataset, to_tensor
from reincli.data.labels import IGNORE
from reincli.data.sources import Sample
from reincli.data.strong_colors import draw_strong_change, recolored
from reincli.media.images import read_image

COUNTED = 0
"""Marks pixels of a target image that may get a pseudo-label; 255 the others."""


def block_side(adapt: AdaptSettings, crop: int) -> int:
    """Side of a hidden block in pixels."""
    return adapt.masked_block or max(1, min(64, crop // 8))


def mixes(adapt: AdaptSettings) -> bool:
    """Whether labelled pixels are pasted onto the target: without labelled images there are none."""
    return adapt.mix and adapt.source


def counted_pixels(height: int, width: int, border: BorderSettings) -> np.ndarray:
    """(H, W) uint8: 0 where an image may get a pseudo-label, 255 on the borders that are left out."""
    marks = np.full((height, width), IGNORE, np.uint8)
    top, bottom, side = (
        round(border.top * height),
        round(border.bottom * height),
        round(border.sides * width),
    )
    marks[top : height - bottom, side : width - side] = COUNTED
    return marks


def pasted_classes(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the classes of a label, rounded up, at random: (n,) ascending (ClassMix, arXiv 2007.07936)."""
    present = np.unique(label)
    present = present[present != IGNORE]
    return np.sort(rng.choice(present, (len(present) + 1) // 2, replace=False))


class AdaptDataset(Dataset[dict[str, Any]]):
    """Items of an adaptation by the number of the draw in the whole run.

    Args:
        source: labelled crops, in the colours as photographed where strong colours are wanted; None: target alone.
        targets: images of the target; their labels, should they have any, are not touched.
        augment: sizes and probabilities, of both.
        adapt: which parts there are.
        seed: of the run.
    """

    def __init__(
        self,
        source: TrainDataset | None,
        targets: Sequence[Sample],
        augment: AugmentSettings,
        adapt: AdaptSettings,
        seed: int,
    ) -> None:
        if not targets:
            raise ValueError("no image to adapt to")
        self.source, self.targets, self.adapt, self.seed = source, list(targets), adapt, seed
        self.augment = augment.model_copy(update={"max_class_share": 1.0, "photometric": False})
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.intp))

    def __len__(self) -> int:
        """Target images in one pass; draws go on beyond it."""
        return len(self.targets)

    def target_of(self, draw: int) -> Sample:
        """The target image behind a draw: every pass over them is a new order."""
        epoch, place = divmod(draw, len(self.targets))
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, 4, epoch]).permutation(len(self.targets))
            self._order = (epoch, order)
        return self.targets[int(self._order[1][place])]

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """One item.

        Returns:
            target: (3, crop, crop) uint8 RGB. target_size: (2,) its height and width before padding.
            counted: (crop, crop) bool, where it may get a pseudo-label.
            name: of the source's sample, else of the target's.
            image, label, size: with a source, as `TrainDataset` gives them.
            paste: (crop, crop) bool, pixels of the source to paste, if any are.
            strong: (3, crop, crop) uint8, the target in strong colours, if nothing is pasted.
            hidden: (n, n) bool, blocks that are hidden, if any are.
        """
        rng = np.random.default_rng([self.seed, 6, draw])
        item = self._target(draw, rng)
        if self.source is not None:
            item |= self._source(draw, rng)
        if mixes(self.adapt):
            label = item["label"].numpy()
            item["paste"] = torch.from_numpy(np.isin(label, pasted_classes(label, rng)))
        if self.adapt.masked:
            count = -(-self.augment.crop // block_side(self.adapt, self.augment.crop))
            item["hidden"] = torch.from_numpy(rng.uniform(size=(count, count)) < self.adapt.masked_share)
        return item

    def _target(self, draw: int, rng: np.random.Generator) -> dict[str, Any]:
        sample, crop = self.target_of(draw), self.augment.crop
        stored = read_image(sample.image)
        height, width = stored.shape[:2]
        marks = counted_pixels(height, width, self.adapt.border)
        view = transforms.draw_view(
            (height, width), marks, self.augment, np.random.default_rng([self.seed, 5, draw])
        )
        image, marks = transforms.render(transforms.ArrayPixels(stored), view)
        item = {
            "target": to_tensor(transforms.pad(image, crop, 0)),
            "target_size": torch.tensor(image.shape[:2]),
            "counted": torch.from_numpy(transforms.pad(marks, crop, IGNORE) == COUNTED),
            "name": sample.name,
        }
        if not mixes(self.adapt):
            strong = recolored(image, draw_strong_change(rng)) if self.adapt.strong_colors else image
            item["strong"] = to_tensor(transforms.pad(strong, crop, 0))
        return item

    def _source(self, draw: int, rng: np.random.Generator) -> dict[str, Any]:
        assert self.source is not None
        item = self.source[draw]
        if self.adapt.strong_colors:
            height, width = item["size"].tolist()
            image = item["image"][:, :height, :width].numpy().transpose(1, 2, 0)
            changed = recolored(image, draw_strong_change(rng))
            item["image"] = to_tensor(transforms.pad(changed, self.augment.crop, 0))
        return item
