"""Being asked to stop: Ctrl-C, SIGTERM as batch systems send it before they end a job, SIGHUP of a lost terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class StopRequest:
    """`asked` turns true at the first signal, `terminated` if that is SIGTERM; a second Ctrl-C interrupts at once."""

    asked: bool = False
    terminated: bool = False


@contextmanager
def stop_requests(insist: bool = True) -> Iterator[StopRequest]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a request while the body runs (in the main thread; else nothing).

    Args:
        insist: a second Ctrl-C interrupts at once. False under a launcher, which passes on what the terminal has
            sent to every process already.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: Any) -> None:
        if insist and request.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.terminated |= number == signal.SIGTERM and not request.asked
        request.asked = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # nohup has it ignored
        numbers.append(hangup)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
