"""Being told to end (SIGTERM, as `kill`, `docker stop` and batch systems send it): clear up as after Ctrl-C, then end.

Python's own answer ends a process at once, with half-made files left beside good ones. A training has an answer of its
own while it runs: it saves first.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

from reincli.errors import Terminated


def clear_up_when_told() -> None:
    """From now on the first SIGTERM interrupts this process as Ctrl-C does; a second one ends it at once."""
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # somebody decided otherwise
        return
    signal.signal(signal.SIGTERM, _interrupt)
    if hasattr(os, "register_at_fork"):  # loader processes have nothing to clear up
        os.register_at_fork(after_in_child=_end_at_once)


def exit_code(interrupt: BaseException) -> int:
    """Of a command that was interrupted: 128 and the number of the signal, as shells have it.

    A command puts how far it came into an exception of its own; what interrupted it is that one's context.
    """
    cause: BaseException | None = interrupt
    while cause is not None:
        if isinstance(cause, Terminated):
            return 128 + signal.SIGTERM
        cause = cause.__context__
    return 128 + signal.SIGINT


def _interrupt(number: int, frame: FrameType | None) -> None:
    _end_at_once()
    raise Terminated


def _end_at_once() -> None:
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
