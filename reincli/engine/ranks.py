"""Sharing work among processes that `torchrun` has started; a process that was started alone has it all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Rank:
    """Which process this is: `rank` of `world`, `local` on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Every `world`-th item: of a sorted folder each process gets a like part."""
        return list(items[self.rank :: self.world])

    def device(self, name: str) -> str:
        """'auto', 'cuda' -> this process's own GPU of CUDA where there are several processes; else as it was.

        'cuda' by itself would be the first GPU for every process. Without a GPU of CUDA 'auto' is the CPU: several
        processes have nothing of a Mac's one GPU, as they cannot exchange what lies there.
        """
        if name not in ("auto", "cuda") or self.world == 1:
            return name
        import torch

        if not torch.cuda.is_available():
            return "cpu" if name == "auto" else name
        return f"cuda:{self.local % torch.cuda.device_count()}"

    def gather(self, value: T) -> list[T]:
        """The value of every process, by rank, once all have come here; may wait for a day."""
        if self.world == 1:
            return [value]
        import torch.distributed as distributed

        values: list[T | None] = [None] * self.world
        with self.group():
            distributed.all_gather_object(values, value)
        return [each for each in values if each is not None]

    @contextmanager
    def group(self, backend: str = "gloo", patience: timedelta = timedelta(days=1)) -> Iterator[None]:
        """The processes as a group that can exchange values; one that is there already is used and kept.

        Args:
            backend: of torch's process groups. patience: how long one waits for the others.
        """
        import torch.distributed as distributed

        if self.world == 1 or distributed.is_initialized():
            yield
            return
        distributed.init_process_group(backend, timeout=patience)
        try:
            yield
        finally:
            distributed.destroy_process_group()


def launched() -> bool:
    """Whether `torchrun` started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def this_rank() -> Rank:
    """From the environment that `torchrun` sets."""
    return Rank(*(int(os.environ.get(name, usual)) for name, usual in
                  (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))  # fmt: skip
