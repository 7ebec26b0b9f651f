"""Calls of one shape recorded once and replayed: a GPU then waits for no launches (CUDA graphs).

A recording reads one fixed input and writes one fixed output. What is given is copied into the input, what comes out is
copied from the output, so that no two calls share memory. All but the recording itself is the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from reincli.engine.cuda_graphs import MODE, recording_stream, stream_kept
from reincli.engine.device import is_out_of_memory

MOST = 8
"""Shapes that are recorded: each keeps memory; images of ever new sizes would take ever more."""


class Recording(Protocol):
    """A call that can be run again, with new numbers in `given`; `result` holds what comes out, until the next run."""

    given: Tensor
    result: Tensor

    def run(self) -> None:
        """Work `result` out of `given`."""


class Replay:
    """A function of one tensor. A shape that comes a second time is recorded, and replayed from then on.

    Its first call runs as it is: it warms what must not be recorded (compilation, choice of kernels, handles), and
    shapes that come once, such as the last windows of an image, are never recorded.

    Args:
        function: of one tensor, with no choice in it that hangs on numbers, and no wait for the device.
        record: makes a recording of the function for inputs of the form of an example; may raise RuntimeError.
        tell: called with one line where recording fails: from then on all calls run as they are.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        record: Callable[[Callable[[Tensor], Tensor], Tensor], Recording],
        tell: Callable[[str], None],
    ) -> None:
        self.function, self.record, self.tell = function, record, tell
        self.recordings: dict[tuple[tuple[int, ...], torch.dtype], Recording | None] = {}
        self.failed = False

    @torch.inference_mode()
    def __call__(self, given: Tensor) -> Tensor:
        """The function's value, in memory of its own."""
        form = (tuple(given.shape), given.dtype)
        if self.failed or (form not in self.recordings and len(self.recordings) >= MOST):
            return self.function(given)
        if form not in self.recordings:
            self.recordings[form] = None
            return self.function(given)
        recording = self.recordings[form] or self._recorded(given, form)
        if recording is None:
            return self.function(given)
        recording.given.copy_(given)
        recording.run()
        return recording.result.clone()

    def _recorded(self, given: Tensor, form: tuple[tuple[int, ...], torch.dtype]) -> Recording | None:
        try:
            recording = self.record(self.function, given)
        except RuntimeError as error:
            reason = "memory ran out" if is_out_of_memory(error) else str(error).splitlines()[0][:120]
        else:
            self.recordings[form] = recording
            return recording
        self.failed = True
        self.recordings.clear()
        self.tell(f"No CUDA graph of the model could be recorded ({reason}): it runs without.")
        return None


class CudaGraph:
    """A recording on the current GPU; see `record_cuda_graph`."""

    def __init__(self, function: Callable[[Tensor], Tensor], example: Tensor) -> None:
        self.given = example.clone()
        self.graph = torch.cuda.CUDAGraph()
        stream = recording_stream(example.device)
        with (
            torch.cuda.device(example.device),
            stream_kept(example.device),
            torch.cuda.graph(self.graph, stream=stream, capture_error_mode=MODE),
        ):
            self.result = function(self.given)

    def run(self) -> None:
        """Replay on the device's current stream."""
        with torch.cuda.device(self.given.device):
            self.graph.replay()


def record_cuda_graph(function: Callable[[Tensor], Tensor], example: Tensor) -> Recording:
    """Record a function's launches on a GPU. RuntimeError where it does what a graph cannot hold."""
    return CudaGraph(function, example)
