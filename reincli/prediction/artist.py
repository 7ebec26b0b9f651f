"""From images to drawings by one model, or by two that are compared: what `rein visualize` does to every picture.

`see` runs the models and belongs into one thread; `draw` runs none and may run in several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from reincli.config import parse_size, test_size
from reincli.data.check import count_values, undeclared_values
from reincli.data.dataset import eval_size
from reincli.data.labels import CITYSCAPES, IGNORE
from reincli.data.sources import UNDECLARED, label_table
from reincli.data.stored import colors_of, read_values
from reincli.errors import ReinError
from reincli.media import paint
from reincli.prediction.predict import Prediction, Predictor

FAR = 2.2
"""Times its test size (root of the area) from which on a model is far from its scale: twice that size is usual."""


@dataclass(frozen=True)
class Seen:
    """Predictions on one image: label maps (H, W), and confidences where they are to be shown, one a model.

    `anomaly` is (H, W) float32 of the first model, where it is to be shown or written.
    """

    image: np.ndarray
    labels: list[np.ndarray]
    confidences: list[np.ndarray | None]
    anomaly: np.ndarray | None = None


@dataclass(frozen=True)
class Artist:
    """Predicts and draws.

    Attributes:
        predictors: one, or two to compare.
        titles: names of the two.
        look: how to draw. confidence: whether what is unsure is drawn faintly.
        anomaly: whether the anomaly is wanted beside what is drawn.
        abstain: pixels of less confidence (0-1) are left out: 255 in the label maps; None: none.
        size, mode: see `Predictor.predict`.
    """

    predictors: Sequence[Predictor]
    titles: Sequence[str] = ()
    look: paint.Look = field(default_factory=paint.Look)
    confidence: bool = False
    size: str = "native"
    mode: str | None = None
    anomaly: bool = False
    abstain: float | None = None
    told: set[str] = field(default_factory=set, repr=False)

    def remarks(self, shape: tuple[int, ...]) -> list[str]:
        """What is worth saying of the size at which an image of (H, W) is predicted, each once."""
        return [text for text in (self.far_from_scale(shape), self.size_used(shape)) if text]

    def far_from_scale(self, shape: tuple[int, ...]) -> str:
        """A remark where an image of (H, W) is predicted far larger than the model was tested; '' if not, or told."""
        settings = self.predictors[0].settings
        sizes = {test_size(settings, source.split(":")[0]) for source in settings.data.val}
        known = [size for text in sizes if (size := parse_size(text)) is not None]
        if self.size != "native" or not known or "scale" in self.told:
            return ""
        width, height = max(known)
        times = math.sqrt(shape[0] * shape[1] / (width * height))  # by area: a ratio of 4:3 has fewer columns
        if times < FAR:
            return ""
        self.told.add("scale")
        return (
            f"Images of {shape[1]}x{shape[0]} are {times:.1f} times as large as those the model was tested on "
            f"({width}x{height}): it sees things larger than it knows them. --size {width}x{height} fits it."
        )

    def size_used(self, shape: tuple[int, ...]) -> str:
        """A remark where an image of (H, W) is predicted at another size than was asked for; '' if not, or told."""
        asked = parse_size(self.size)
        if asked is None or "size" in self.told:
            return ""
        height, width = eval_size(shape[0], shape[1], self.size)
        if (width, height) == asked:
            return ""
        self.told.add("size")
        return (
            f"Images of {shape[1]}x{shape[0]} are predicted at {width}x{height}: their ratio is kept within "
            f"{self.size}. To the pixel: --size '{self.size}!'"
        )

    @property
    def classes(self) -> int:
        """K of the first model."""
        return len(self.predictors[0].classes)

    @property
    def scored(self) -> bool:
        """Whether labels alone do not tell what is wanted."""
        return self.confidence or self.anomaly or self.abstain is not None or self.look.style == "anomaly"

    @property
    def batch(self) -> int:
        """Images worth giving to `see` at a time."""
        return self.predictors[0].image_batch

    def see(self, images: Sequence[np.ndarray]) -> list[Seen]:
        """Predict images (H, W, 3) uint8 RGB."""
        by_model: list[list[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]] = []
        for predictor in self.predictors:
            found = predictor.predict(list(images), size=self.size, mode=self.mode, keep_scores=self.scored)
            # scores are large: only what is drawn of them goes on
            by_model.append([self._looked_at(each, first=not by_model) for each in found])
        return [
            Seen(image, [label for label, _, _ in each], [sure for _, sure, _ in each], each[0][2])
            for image, each in zip(images, zip(*by_model, strict=True), strict=True)
        ]

    def _looked_at(
        self, found: Prediction, first: bool
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Label map, and what is wanted of confidence and of the first model's anomaly."""
        strange = first and (self.anomaly or self.look.style == "anomaly")
        sure = found.confidence() if self.confidence or self.abstain is not None else None
        label = found.label
        if self.abstain is not None and sure is not None:
            label = np.where(sure < self.abstain, np.uint8(IGNORE), label)
        return label, sure if self.confidence else None, found.anomaly() if strange else None

    def draw(self, seen: Seen, truth: np.ndarray | None = None, *, every_class: bool = False) -> np.ndarray:
        """The drawing, (h, w, 3) uint8 RGB.

        Args:
            seen: of `see`.
            truth: (H, W) right labels, for the style `error` and for comparisons.
            every_class: the legend has a place for every class, so that all frames have one size.
        """
        classes = self.predictors[0].classes
        if truth is not None and self.abstain is not None:  # what is left out is no mistake
            truth = np.where(seen.labels[0] == IGNORE, np.uint8(IGNORE), truth)
        look = replace(self.look, every_class=every_class)
        if len(self.predictors) > 1:
            return paint.compare(seen.image, seen.labels, classes.palette(), self.titles, classes.names, look,
                                 truth=truth, confidences=seen.confidences)  # fmt: skip
        return paint.render(seen.image, seen.labels[0], classes.palette(), classes.names, look,
                            truth=truth, confidence=seen.confidences[0], anomaly=seen.anomaly)  # fmt: skip

    def truth(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        """The right labels of an image of (H, W): class indices as the model has them, 255 not labelled.

        Stored values are mapped as the model's own dataset says, where it was trained on one.

        Raises:
            ReinError: unreadable, of another size, or with values that are no class.
        """
        predictor = self.predictors[0]
        own = list(predictor.settings.data.own)
        colors = colors_of(predictor.settings.data.own[own[0]]) if len(own) == 1 else None
        stored = read_values(path, colors)
        if stored.shape != tuple(shape[:2]):
            raise ReinError(
                f"The label '{path}' is {stored.shape[1]}x{stored.shape[0]}, its image {shape[1]}x{shape[0]}.",
                "Labels have the size of their image.",
            )
        if len(own) == 1:
            table = label_table(own[0], predictor.settings.data)
        else:
            table = np.full(256, UNDECLARED, np.int16)
            table[: len(predictor.classes)] = np.arange(len(predictor.classes))
        if table[IGNORE] == UNDECLARED:
            table[IGNORE] = IGNORE
        wrong = undeclared_values(count_values(stored), table)
        if wrong:
            hint = "Expected class indices (trainIds), 255 for what is not labelled."
            if predictor.classes == CITYSCAPES:
                hint += " rein prepare-data writes them for the known datasets."
            raise ReinError(
                f"The label '{path}' has {'values' if len(wrong) > 1 else 'value'} "
                f"{', '.join(map(str, wrong[:6]))}; the model has {len(predictor.classes)} classes, from 0.",
                hint,
            )
        return np.where(table == UNDECLARED, IGNORE, table).astype(np.uint8)[stored]
