"""Several processes that train as one: joining, agreeing on small numbers, gradients that stay or travel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from reincli.engine.ranks import Rank
from reincli.errors import ReinError

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others before it gives up."""


@contextmanager
def joined(rank: Rank, device: torch.device) -> Iterator[None]:
    """Be one of the processes that train while the body runs; nothing for a process that was started alone.

    Small numbers on the host go by gloo, tensors on a GPU by NCCL.

    Raises:
        ReinError: several processes on a device that can have but one.
    """
    if device.type == "mps" and rank.world > 1:
        raise ReinError(
            f"{rank.world} processes cannot train on one Apple GPU.", "Leave --gpus out.", usage=True
        )
    on_gpu = device.type == "cuda"
    if (
        on_gpu and device.index is not None
    ):  # events are recorded there, also where one process was told which GPU
        torch.cuda.set_device(device)
    with rank.group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", PATIENCE):
        yield


def mean_over_processes(numbers: Sequence[float]) -> list[float]:
    """Means of numbers that every process brings, exchanged on the host: no device is waited for."""
    if not distributed.is_initialized():
        return list(numbers)
    total = torch.tensor(numbers, dtype=torch.float64)
    distributed.all_reduce(total)
    return [float(number) for number in total / distributed.get_world_size()]


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if distributed.is_initialized():
        distributed.barrier()


def share_statistics(module: nn.Module, rank: Rank, device: torch.device) -> nn.Module:
    """The module with batch norms that count over the whole batch, as in one process. Only GPUs can."""
    if rank.world == 1 or device.type != "cuda":
        return module
    return nn.SyncBatchNorm.convert_sync_batchnorm(module)


def share_gradients(
    network: nn.Module, rank: Rank, device: torch.device, some_unread: bool = False
) -> nn.Module:
    """The network with its gradients averaged over all processes during the backward pass.

    `some_unread`: parameters train that no pass reads; else PyTorch waits for the gradient of each.
    """
    if rank.world == 1:
        return network
    ids = [device.index] if device.type == "cuda" and device.index is not None else None
    return DistributedDataParallel(
        network, device_ids=ids, gradient_as_bucket_view=True, find_unused_parameters=some_unread
    )


def gradients_stay(network: nn.Module, stay: bool) -> AbstractContextManager[object]:
    """While it lasts, gradients add up in this process alone: for all but the last slice of a batch."""
    if stay and isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


def slice_size(batch_size: int, rank: Rank, accumulate: int) -> int:
    """Images that a process computes at a time, where a batch is divided among processes and slices.

    Raises:
        ReinError: it does not divide.
    """
    slices = rank.world * accumulate
    if batch_size % slices:
        among = f"{rank.world} processes" + (f" times {accumulate} slices" if accumulate > 1 else "")
        fitting = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
        raise ReinError(
            f"train.batch_size {batch_size} does not divide among {among}.",
            f"It divides into {', '.join(map(str, fitting))}: change --gpus, train.accumulate or train.batch_size.",
            usage=True,
        )
    return batch_size // slices
