"""Training draws and test images as PyTorch datasets, and the check of label values before training.

A training item is decided by the run's seed and the number of the draw alone: neither the number of workers
nor an interruption changes what a run sees.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from reincli.config import AugmentSettings, Settings, is_exact, parse_size, test_size
from reincli.data import transforms
from reincli.data.check import FileReport, inspect_all, is_turned, require_pixels
from reincli.data.labels import IGNORE
from reincli.data.loading import complaint, load_label, open_pair, value_hint
from reincli.data.sampling import RareClasses
from reincli.data.sources import Sample
from reincli.errors import ReinError
from reincli.media.images import read_image, read_image_like

CHECK_LIMIT = 3
"""Files at fault after which a check stops reading."""


def init_worker(_worker: int) -> None:
    """For `DataLoader(worker_init_fn=…)`: one thread a process, else OpenCV's threads fight for the cores.

    Being asked to stop (Ctrl-C, a batch system) is for the process that trains: it needs its data until it has saved.
    So a worker ends when its parent tells it to, and for nobody else.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):  # a terminal that is closed sends it to all
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # tells who sent a signal, which a handler is not told; not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) uint8, contiguous."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy())  # of its own: an image read may not be writable


class TrainDataset(Dataset[dict[str, Any]]):
    """Augmented crops by the number of the draw in the whole run.

    Args:
        samples: images with labels, of all sources together.
        tables: label table by dataset (`sources.label_tables`).
        augment: sizes and probabilities.
        seed: of the run.
        rare: draws samples by their classes instead of one pass after the other (`sampling.rare_classes`).
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        tables: Mapping[str, np.ndarray],
        augment: AugmentSettings,
        seed: int,
        rare: RareClasses | None = None,
    ) -> None:
        if not samples:
            raise ValueError("no sample to train on")
        self.samples = list(samples)
        self.tables = dict(tables)
        self.augment = augment
        self.seed = seed
        self.rare = rare
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.intp))

    def __len__(self) -> int:
        """Samples in one pass; draws go on beyond it."""
        return len(self.samples)

    def drawn(self, draw: int) -> tuple[Sample, transforms.Wanted | None]:
        """The sample behind a draw, and what is wanted of it.

        Every pass over the data is a new order, unless rare classes are drawn first.
        """
        if self.rare is not None:
            number, wanted = self.rare.draw(np.random.default_rng([self.seed, 2, draw]))
            return self.samples[number], wanted
        epoch, place = divmod(draw, len(self.samples))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.samples)))
        return self.samples[int(self._order[1][place])], None

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """One augmented, padded crop.

        Returns:
            image: (3, crop, crop) uint8 RGB, 0 where padded (the model zeroes padding after normalisation).
            label: (crop, crop) uint8 class indices, 255 where ignored or padded.
            size: (2,) int64, height and width before padding.
            name: of the sample.
        """
        sample, wanted = self.drawn(draw)
        pair = open_pair(sample, self.tables[sample.dataset])
        rng = np.random.default_rng([self.seed, 1, draw])
        view = transforms.draw_view(pair.shape, pair.label, self.augment, rng, wanted)
        image, label = transforms.render(pair.pixels(view.size[0] / pair.shape[0]), view)
        crop = self.augment.crop
        return {
            "image": to_tensor(transforms.pad(image, crop, 0)),
            "label": torch.from_numpy(transforms.pad(label, crop, IGNORE)),
            "size": torch.tensor(image.shape[:2]),
            "name": sample.name,
        }


def eval_size(height: int, width: int, size: str) -> tuple[int, int]:
    """The (height, width) at which an image is predicted: `size` is 'WxH' (ratio kept), 'WxH!' (exact) or 'native'."""
    target = parse_size(size)
    if target is None:
        return height, width
    if is_exact(size):
        return target[1], target[0]
    return transforms.keep_ratio_size(height, width, max(target), min(target))


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) times `scale`, rounded, at least one pixel."""
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


class EvalDataset(Dataset[dict[str, Any]]):
    """Whole images at the test size of their dataset, with labels at their own size.

    Args:
        samples: images, with or without labels.
        tables: label table by dataset.
        settings: of the run; `config.test_size` gives the size for each dataset.
        size: one size, 'WxH' or 'native', for all of them instead.
        scales: multiples of the test size, one view of the image each.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        tables: Mapping[str, np.ndarray],
        settings: Settings,
        size: str | None = None,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        self.samples = list(samples)
        self.tables = dict(tables)
        self.scales = tuple(scales)
        self.sizes = {s.dataset: size or test_size(settings, s.dataset) for s in self.samples}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One test image.

        Returns:
            images: (3, H, W) uint8 RGB tensors, at each scale of the test size.
            label: (h, w) uint8 class indices (numpy) at the size of the label file, or None.
            original_size: (h, w) of the image file.
            size: (h, w) at which it is predicted, at scale 1.
            sample: the sample.
        """
        sample = self.samples[index]
        label = None if sample.label is None else load_label(sample, self.tables[sample.dataset])
        image = read_image(sample.image) if label is None else read_image_like(sample.image, label.shape)
        height, width = image.shape[:2]
        if label is not None and is_turned((height, width), label.shape):
            label = np.full((height, width), IGNORE, np.uint8)  # nothing of it can be scored
        whole = eval_size(height, width, self.sizes[sample.dataset])
        sizes = [scaled_size(whole, scale) for scale in self.scales]
        return {
            "images": [to_tensor(transforms.resize_image(image, size)) for size in sizes],
            "label": label,
            "original_size": (height, width),
            "size": whole,
            "sample": sample,
        }


def check_labels(
    samples: Sequence[Sample],
    tables: Mapping[str, np.ndarray],
    *,
    on_file: Callable[[], None] | None = None,
    threads: int = 4,
) -> dict[str, np.ndarray]:
    """Read all labels and raise for values that are not declared, sizes unlike the image's, unreadable files.

    Args:
        samples: with labels.
        tables: label table by dataset.
        on_file: called after every file, in this thread.
        threads: files read at a time (decoding runs outside of the interpreter's lock).

    Returns:
        (256,) int64 pixels by stored value, by dataset.

    Raises:
        ReinError: naming the first files at fault, or that there is no pixel of any class.
    """
    faults: list[str] = []
    pixels = {sample.dataset: np.zeros(256, np.int64) for sample in samples}
    hint = ""
    reports = inspect_all(samples, tables, threads=threads)
    for report in reports:
        fault = _fault(report, tables[report.sample.dataset])
        if fault:
            hint = hint or _hint(report)
            faults.append(fault)
        pixels[report.sample.dataset] += report.stored
        if on_file is not None:
            on_file()
        if len(faults) == CHECK_LIMIT:
            break
    reports.close()
    if faults:
        raise ReinError("; ".join(faults) + ".", hint)
    for dataset, stored in pixels.items():
        require_pixels(stored, tables[dataset], f"the {len(samples)} labels of '{dataset}'")
    return pixels


def _hint(report: FileReport) -> str:
    """What to do about a pair at fault."""
    if report.unreadable:
        return report.hint
    if report.undeclared:
        return value_hint(report.sample)
    return "Bring the label that belongs to the image, in its size, or take the pair out of both folders."


def _fault(report: FileReport, table: np.ndarray) -> str | None:
    """What is wrong with a pair, or None."""
    if report.unreadable:
        return report.unreadable
    if report.undeclared:
        return complaint(report.sample, report.undeclared, table)
    if report.mismatched or report.turned:
        (height, width), (label_height, label_width) = report.image_size, report.label_size
        return f"The label '{report.sample.label}' is {label_width}x{label_height}, its image is {width}x{height}"
    return None
