"""Time by part of the program, without making the host wait for the device while it runs.

A line of time is cut wherever a part begins or ends, by device events on CUDA and by the clock elsewhere (Apple's GPUs
are waited for at each cut). In the
backward pass the parts come back in reverse: the gradient of a part's output is ready when all behind it is done, so a
hook on it cuts the line there. What no part claims is 'other'; all together they are the whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reincli.engine.device import wait_for
from reincli.model.rein import Folded
from reincli.model.segmentor import Segmentor

OTHER = "other"
PARTS = {
    "backbone": "backbone",
    "neck": "neck",
    "rein": "adapters",
    "pixel_decoder": "pixel decoder",
    "mask_decoder": "mask decoder",
    "plain_decoder": "plain decoder",
}
"""Module of a `Segmentor` -> the part that it is."""


class Stopwatch:
    """Cuts time into parts; a `ops.parts.Listener`.

    Args:
        device: whose time it is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stack = [OTHER]
        self.cuts: list[tuple[str, Any]] = []

    def begin(self, name: str) -> None:
        """A part begins, within the one that runs."""
        self.stack.append(name)
        self.cut()

    def end(self) -> None:
        """The innermost part is over: the one around it goes on."""
        self.stack.pop()
        self.cut()

    def become(self, name: str) -> None:
        """The innermost part turns into another."""
        self.stack[-1] = name
        self.cut()

    def cut(self) -> None:
        """From here on time belongs to the innermost part."""
        if self.device.type == "cuda":
            stamp: Any = torch.cuda.Event(enable_timing=True)
            stamp.record()
        else:
            wait_for(self.device)
            stamp = time.perf_counter()
        self.cuts.append((self.stack[-1], stamp))

    def seconds(self) -> dict[str, float]:
        """Seconds of each part, from the first cut to the last; waits for the device."""
        wait_for(self.device)
        total: dict[str, float] = {}
        for (name, start), (_, stop) in zip(self.cuts, self.cuts[1:], strict=False):
            passed = start.elapsed_time(stop) / 1000 if self.device.type == "cuda" else stop - start
            total[name] = total.get(name, 0.0) + passed
        return total

    def on_gradient(self, value: Any, name: str) -> None:
        """When the backward pass comes to these tensors, time belongs to the part that made them."""
        for tensor in _tensors(value):
            if tensor.requires_grad:
                tensor.register_hook(lambda grad: self.become(name))

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function as a part; what it was given is the backbone's where it is the adapters'."""

        def call(*given: Any, **options: Any) -> Any:
            if name == PARTS["rein"]:
                self.on_gradient(given, PARTS["backbone"])
            self.begin(name)
            try:
                result = function(*given, **options)
            finally:
                self.end()
            handed_on = {id(each) for each in _tensors([*given, *options.values()])}  # not made here
            self.on_gradient([each for each in _tensors(result) if id(each) not in handed_on], name)
            return result

        return call


@dataclass(frozen=True)
class TimedAdapters:
    """Folded adapters that are timed; see `model.rein.FoldedRein`."""

    refine: Callable[..., Tensor]
    change: Callable[..., Tensor]
    queries: Callable[[], Tensor]

    def __call__(self, *given: Any) -> Tensor:
        """As the adapters."""
        return self.refine(*given)


def timed_adapters(folded: Folded | None, watch: Stopwatch) -> TimedAdapters | None:
    """Constants of adapters, as a part."""
    if folded is None:
        return None
    name = PARTS["rein"]
    return TimedAdapters(
        *(watch.timed(name, each) for each in (folded.__call__, folded.change, folded.queries))
    )


@contextmanager
def watching(model: Segmentor, watch: Stopwatch) -> Iterator[None]:
    """While it lasts, the model's modules are parts. It is left as it was."""
    with ExitStack() as stack:
        for attribute, name in PARTS.items():
            module = getattr(model, attribute)
            if module is not None:
                for method in ("forward", "tokens") if attribute == "backbone" else ("forward",):
                    if hasattr(module, method):
                        timed = watch.timed(name, getattr(module, method))
                        stack.enter_context(_replaced(module, method, timed))
        if model.rein is not None:
            queries = watch.timed(PARTS["rein"], model.rein.queries)
            stack.enter_context(_replaced(model.rein, "queries", queries))
        yield


@contextmanager
def _replaced(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """A method of one object, hidden by a function while it lasts."""
    before = module.__dict__.get(name)
    module.__dict__[name] = function
    try:
        yield
    finally:
        del module.__dict__[name]
        if before is not None:
            module.__dict__[name] = before


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif is_dataclass(value):
        yield from _tensors(list(vars(value).values()))
