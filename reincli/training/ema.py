"""Exponential moving average of what trains (Polyak averaging, as in arXiv 1703.01780, eq. 1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """A slow copy of parameters: after each step, copy = decay * copy + (1 - decay) * parameter.

    The decay starts low, min(decay, (1 + t) / (10 + t)) at step t, so that the random start is soon forgotten.

    Args:
        parameters: by name. decay: 0 to 1, for example 0.999.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters as they are after a step, counted from 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages as its parameters while the body runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """Averages by name."""
        return self.average

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Go back to averages that `state` gave."""
        for name, value in self.average.items():
            value.copy_(state[name])
