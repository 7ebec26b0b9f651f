"""Processes and threads that work on files beside this one, and how they end.

A process of the pool has one thread, and its end comes from here alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait

import cv2

PATIENCE = 10.0
"""Seconds within which a thread that has ended is gone, on however busy a machine."""


class Threads(ThreadPoolExecutor):
    """A pool whose threads are gone when `shutdown` has waited for them: a process may be forked then.

    Python calls a thread ended while it still clears up, for which it takes locks of libraries (OpenCV's, to free what
    was kept for the thread). In a process forked meanwhile, as a loader's is, nobody ever gives that lock back: it
    would wait at its first image for ever.
    """

    def __init__(self, count: int) -> None:
        begun: set[int] = set()
        self._begun = begun
        super().__init__(count, initializer=lambda: begun.add(threading.get_native_id()))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of every pool, and then until the system knows the threads no more."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        deadline = time.monotonic() + PATIENCE
        while wait and self._begun and time.monotonic() < deadline:
            # only Linux has this folder, and only there are loader processes forked
            self._begun -= {each for each in self._begun if not os.path.exists(f"/proc/self/task/{each}")}
            if self._begun:
                time.sleep(0.001)


@contextlib.contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that, at its end and on an error, finishes what it has begun and drops the rest.

    Ctrl-C, which a terminal sends to all processes, is for this one: it decides what is finished. A process whose
    starter was killed ends at once.
    """
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        with _deaf():
            for _ in range(count):  # each starts one, none of them being idle yet
                pool.submit(_nothing)
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C for a moment; what is started meanwhile ignores it for good."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's business
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin() -> None:
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with_the_starter, daemon=True).start()


def _end_with_the_starter() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        wait([starter.sentinel])
        os._exit(1)


def _nothing() -> None:
    pass
