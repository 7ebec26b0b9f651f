"""Exponential moving average of what trains (Polyak averaging, as in arXiv 1703.01780, eq. 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def soon_forgetting(step: int) -> float:
    """A decay that starts low, (1 + t) / (10 + t) at step t, so that a random start is soon forgotten."""
    return (1 + step) / (10 + step)


def even(step: int) -> float:
    """The decay with which the average after step t, counted from 0, is the plain mean of all t + 2 weights so far.

    With n = t + 1 steps done it is 1 - 1 / (n + 1), as for the teacher of an adaptation (arXiv 2503.10685).
    """
    return 1 - 1 / (step + 2)


class Ema:
    """A slow copy of parameters: after each step, copy = decay * copy + (1 - decay) * parameter.

    The decay is min(decay, ramp(t)) at step t; or, with `begin`, the copy is the parameters until that step, and the
    decay is the same from then on, as in SoMA.

    Args:
        parameters: by name. decay: 0 to 1, for example 0.999. begin: first step that is averaged, or None.
        ramp: the most that the decay may be at a step; None: no limit.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        decay: float,
        begin: int | None = None,
        ramp: Callable[[int], float] | None = soon_forgetting,
    ) -> None:
        self.parameters, self.decay, self.begin, self.ramp = parameters, decay, begin, ramp
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters as they are after a step, counted from 0."""
        now: list[Tensor] = list(self.parameters.values())
        if self.begin is not None and step < max(self.begin, 1):  # nothing is there to average before
            torch._foreach_copy_(list(self.average.values()), now)
            return
        warm = self.ramp(step) if self.begin is None and self.ramp is not None else 1.0
        torch._foreach_lerp_(list(self.average.values()), now, 1 - min(self.decay, warm))

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
        there: list[Tensor] = list(self.parameters.values())
        average = list(self.average.values())
        kept = [parameter.clone() for parameter in there]
        torch._foreach_copy_(there, average)
        torch._foreach_copy_(average, kept)

    def state(self) -> dict[str, Tensor]:
        """Averages by name."""
        return self.average

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Go back to averages that `state` gave."""
        for name, value in self.average.items():
            value.copy_(state[name])
