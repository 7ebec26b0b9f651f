"""Label maps as files: where each image's goes, what its pixels are, and threads that write them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from reincli.data.sources import Sample
from reincli.data.submission import to_label_ids
from reincli.errors import ReinError
from reincli.media.images import write_png
from reincli.media.outputs import mark
from reincli.media.workers import Threads, result_of

MAKER = "eval"
"""How files that this command writes are marked."""
WRITERS = 4
"""Threads that write label maps."""
QUEUED = 16
"""Label maps that wait to be written before the evaluation waits for them."""


def place(sample: Sample, domain: str) -> str:
    """Where an image's label map goes below `--out`: its own relative path, below its domain.

    Names of some datasets (ACDC, Cityscapes-C) begin with the domain; it stands there once. A colon, which parts
    dataset, split and domain, is no part of a folder's name everywhere.
    """
    domain = domain.replace(":", "-")
    own = PurePosixPath(sample.name).with_suffix(".png").as_posix()
    return own if own.startswith(f"{domain}/") else f"{domain}/{own}"


def places(samples: Sequence[Sample], domains: dict[tuple[str, str], str]) -> list[str]:
    """Where each image's label map goes; `domains` by dataset and domain, where it is shown by another name.

    Raises:
        ReinError: two would go to one file.
    """
    taken: dict[str, Path] = {}
    for sample in samples:
        where = place(sample, domains.get((sample.dataset, sample.domain), sample.domain))
        if where in taken:
            raise ReinError(
                f"The label maps of '{taken[where]}' and '{sample.image}' would both be '{where}'.",
                "Write them in two calls, each with its own --data and --out.",
                usage=True,
            )
        taken[where] = sample.image
    return list(taken)


def write_label_map(path: Path, prediction: np.ndarray, label_ids: bool) -> None:
    """Write class indices (H, W) uint8, or what they are as labelIds, as PNG."""
    write_png(path, to_label_ids(prediction) if label_ids else prediction, mark=mark(MAKER))


@contextmanager
def writers() -> Iterator[Callable[..., None]]:
    """`write(function, *arguments)` in threads; all is done at the end, and what failed is raised."""
    begun: deque[Future[Any]] = deque()
    with Threads(WRITERS) as pool:

        def write(function: Callable[..., object], *arguments: Any) -> None:
            begun.append(pool.submit(function, *arguments))
            while len(begun) > QUEUED:
                result_of(begun.popleft())

        yield write
        while begun:
            result_of(begun.popleft())
