"""Recording CUDA graphs beside other threads, and what PyTorch leaves behind where a recording breaks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

MODE = "thread_local"
"""What a recording forbids, it forbids its own thread alone: others pin memory, read images and draw meanwhile, which
would break the recording, and them."""


@functools.cache  # cuBLAS keeps memory for each stream that it has seen
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU to record on: PyTorch's own belongs to whichever GPU recorded first."""
    return torch.cuda.Stream(device)


@contextmanager
def stream_kept(device: torch.device) -> Iterator[None]:
    """Afterwards the current stream is what it was: PyTorch leaves the recording's where a recording breaks."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.current_stream(device)):
        yield


class _Beside(torch.cuda.graph):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **{**options, "capture_error_mode": MODE})


@contextmanager
def beside_others() -> Iterator[None]:
    """While it lasts, all recordings are in `MODE`: `make_graphed_callables` of many a PyTorch cannot be told."""
    before = torch.cuda.graph
    torch.cuda.graph = _Beside  # type: ignore[misc]
    try:
        yield
    finally:
        torch.cuda.graph = before  # type: ignore[misc]
