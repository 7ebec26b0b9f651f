"""Which part of the program is at work, told to whoever measures. Where nobody listens it costs nothing.

A context variable, as for the terminal: it belongs to the call that listens, and nothing is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """What is told when a part begins and ends; parts may lie within parts."""

    def begin(self, name: str) -> None:
        """A part begins: the time from here on is its own."""

    def end(self) -> None:
        """The innermost part is over."""


_listener: ContextVar[Listener | None] = ContextVar("rein_parts", default=None)


@contextmanager
def part(name: str) -> Iterator[None]:
    """What runs within is a part of this name."""
    listener = _listener.get()
    if listener is None:
        yield
        return
    listener.begin(name)
    try:
        yield
    finally:
        listener.end()


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """While it lasts, a listener hears of the parts."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
