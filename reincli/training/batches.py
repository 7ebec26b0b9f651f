"""Which images make which batch, and loading them ahead."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from reincli.config import Settings
from reincli.data.check import absent_classes
from reincli.data.dataset import TrainDataset, check_labels, init_worker
from reincli.data.sampling import rare_classes
from reincli.data.sources import Sample, classes_of, find_samples, label_tables
from reincli.engine.ranks import Rank
from reincli.errors import ReinError
from reincli.training.run import Run

FEWER_WORKERS = "Try fewer: --set data.workers=2   (0: none)"
"""What to do where loading takes more memory than there is."""


class WorkerLostError(ReinError):
    """A loader process is gone; what has been trained is not."""


class Told(Dataset[Any]):
    """A dataset whose expected errors are items: they come out of a loader process as they are, and in their order."""

    def __init__(self, dataset: Dataset[dict[str, Any]]) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: int) -> dict[str, Any] | ReinError:
        try:
            return self.dataset[draw]
        except ReinError as error:
            return error
        except MemoryError:
            return ReinError("Memory ran out while an image was loaded.", FEWER_WORKERS)
        except OSError as error:
            return ReinError(
                f"Cannot read '{error.filename}': {error.strerror}.", "Check disk and permission."
            )


def _collated(items: list[dict[str, Any] | ReinError]) -> Any:
    return next((item for item in items if isinstance(item, ReinError)), None) or default_collate(items)


class Draws(Sampler[int]):
    """The numbers of the draws still to come, of each batch the part that is this process's own."""

    def __init__(self, first: int, last: int, batch_size: int, rank: Rank) -> None:
        self.iterations = range(first, last)
        self.batch_size, self.rank = batch_size, rank
        self.own = batch_size // rank.world

    def __iter__(self) -> Iterator[int]:
        for iteration in self.iterations:
            start = iteration * self.batch_size + self.rank.rank * self.own
            yield from range(start, start + self.own)

    def __len__(self) -> int:
        return len(self.iterations) * self.own


def train_samples(settings: Settings, note: Callable[[str], None] = lambda text: None) -> list[Sample]:
    """All training images. Labels of own datasets are read through first: they may hold anything.

    `note` takes a remark on classes that none of them has.
    """
    samples = [sample for source in settings.data.train for sample in find_samples(source, settings.data)]
    own = [sample for sample in samples if sample.dataset in settings.data.own]
    if own:
        tables, classes = label_tables(settings.data.train, settings.data), classes_of(settings.data)
        counted = check_labels(own, tables)
        for dataset, stored in counted.items():
            absent = absent_classes(stored, tables[dataset], classes)
            if absent:
                note(f"In the training labels of '{dataset}' {absent}")
    return samples


def require_scorable(samples: Sequence[Sample], settings: Settings) -> None:
    """Read through the labels of own datasets that will be scored: hours of training end in no table of nothing.

    Raises:
        ReinError: a label is at fault, or of a domain no pixel is of any class.
    """
    domains: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if sample.dataset in settings.data.own and sample.label is not None:
            domains.setdefault((sample.dataset, sample.domain), []).append(sample)
    for own in domains.values():
        check_labels(own, label_tables(settings.data.val, settings.data))


def load_batches(samples: list[Sample], run: Run) -> Iterator[list[dict[str, Any]]]:
    """This process's part of each batch to come, as slices, see `slices_of`."""
    return slices_of(labelled_crops(samples, run.settings), run)


def labelled_crops(
    samples: list[Sample], settings: Settings, *, photometric: bool | None = None
) -> TrainDataset:
    """The training draws that settings describe; `photometric`: other than as they say."""
    tables = label_tables(settings.data.train, settings.data)
    augment = settings.data.augment
    if photometric is not None:
        augment = augment.model_copy(update={"photometric": photometric})
    return TrainDataset(samples, tables, augment, settings.train.seed, rare_classes(samples, settings.data))


def slices_of(dataset: Dataset[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """This process's part of each batch to come, as slices, of items that are had by the number of the draw.

    Raises:
        ReinError: an image or label cannot be used. WorkerLostError: a loader process ended.
    """
    settings, train = run.settings, run.settings.train
    workers = min(settings.data.workers, os.cpu_count() or 1)
    loader = DataLoader(
        Told(dataset),
        collate_fn=_collated,
        batch_size=run.slice_size,
        sampler=Draws(run.iteration, train.iterations, train.batch_size, run.rank),
        num_workers=workers,
        worker_init_fn=init_worker,
        pin_memory=run.device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )
    with _ends_told_between_batches():
        parts = iter(loader)
    while slices := _next(parts, train.accumulate):
        yield slices


def _next(parts: Iterator[Any], count: int) -> list[dict[str, Any]]:
    try:
        slices = list(islice(parts, count))
    except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
        # PyTorch has no class of its own for this; and tensors under way are asked of the process that made them, which
        # does not answer when it is gone (errors of files are items, see `Told`)
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise WorkerLostError(
            "A loader process ended: it was killed, or memory (or /dev/shm) ran out.", FEWER_WORKERS
        ) from None
    for each in slices:
        if isinstance(each, ReinError):
            raise each
    return slices


@contextmanager
def _ends_told_between_batches() -> Iterator[None]:
    """PyTorch raises wherever a step happens to be when a loader process ends; without that, at the next batch.

    Its handler is set by the first loader of a process, whichever that is, and never again.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if _is_pytorchs(signal.getsignal(signal.SIGCHLD)):
        kept = before if callable(before) and not _is_pytorchs(before) else signal.SIG_DFL
        signal.signal(signal.SIGCHLD, kept)


def _is_pytorchs(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).startswith("torch.")
