"""Drawing rare classes more often (rare class sampling of DAFormer, arXiv 2111.14887, section 3.4, eq. 5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reincli.config import DataSettings
from reincli.data.labels import CITYSCAPES
from reincli.data.missing import command_for
from reincli.data.sources import Sample, dataset_root, prepare_command
from reincli.data.statistics import COUNTED, read_statistics
from reincli.data.transforms import Wanted
from reincli.errors import ReinError


@dataclass(frozen=True)
class RareClasses:
    """A class is drawn first, then one of the samples that have it.

    Attributes:
        probabilities: (n,) of drawing each class; sum 1.
        classes: these classes.
        members: numbers of the samples that have enough of it, for each of these classes.
        least: pixels that are enough.
    """

    probabilities: np.ndarray
    classes: tuple[int, ...]
    members: tuple[np.ndarray, ...]
    least: int

    def draw(self, rng: np.random.Generator) -> tuple[int, Wanted]:
        """The number of a sample, and what a crop of it should show: the class, by half of what the image must have."""
        place = int(rng.choice(len(self.probabilities), p=self.probabilities))
        chosen = self.members[place]
        number = int(chosen[int(rng.integers(0, len(chosen)))])
        return number, Wanted(self.classes[place], max(self.least // 2, 1))


def class_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    """P(c) ~ exp((1 - f_c) / T), f_c the share of class c among all pixels; (n,) from (n,) pixel counts."""
    logits = (1 - pixels / pixels.sum()) / temperature
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def rare_classes(samples: Sequence[Sample], data: DataSettings) -> RareClasses | None:
    """The sampling that the settings ask for, None where they do not.

    Raises:
        ReinError: a dataset without statistics, or labels that its statistics do not know.
    """
    if not data.rare_class_sampling:
        return None
    known = {name: _statistics(name, data) for name in sorted({sample.dataset for sample in samples})}
    counts = np.zeros((len(samples), len(CITYSCAPES)), np.int64)
    for number, sample in enumerate(samples):
        file = "" if sample.label is None else sample.label.name
        if file not in known[sample.dataset]:
            message = f"The class statistics of '{sample.dataset}' do not know '{sample.label}'."
            raise ReinError(message, f"Count again: {prepare_command(sample)}")
        for index, pixels in known[sample.dataset][file].items():
            counts[number, index] = pixels
    return from_counts(counts, data.rare_class_temperature, data.rare_class_pixels)


def from_counts(counts: np.ndarray, temperature: float, least: int) -> RareClasses:
    """The sampling for (samples, classes) pixel counts; classes of which no image has `least` pixels are left out.

    Raises:
        ReinError: that leaves no class.
    """
    members = [np.flatnonzero(counts[:, index] >= least) for index in range(counts.shape[1])]
    usable = [index for index, found in enumerate(members) if found.size]
    if not usable:
        message = f"No training image has {least} pixels of a class (data.rare_class_pixels)."
        raise ReinError(message, "Give a smaller number: --set data.rare_class_pixels=1000")
    probabilities = class_probabilities(counts.sum(axis=0), temperature)[usable]
    return RareClasses(
        probabilities / probabilities.sum(), tuple(usable), tuple(members[index] for index in usable), least
    )


def _statistics(dataset: str, data: DataSettings) -> Mapping[str, Mapping[int, int]]:
    root = dataset_root(dataset, data)
    found = read_statistics(root) if dataset in COUNTED else {}
    if not found:
        message = (
            f"data.rare_class_sampling needs the class statistics of '{dataset}', which are not in '{root}'."
        )
        has_them = f"Count them: {command_for(dataset, root)}"
        cannot = f"There are statistics for {', '.join(COUNTED)} alone: train without it."
        raise ReinError(message, has_them if dataset in COUNTED else cannot)
    return found
