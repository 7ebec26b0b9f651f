"""Processes and threads that work on files beside this one, and how they end.

A process of the pool has one thread, and its end comes from here alone.

Ctrl-C raises wherever the main thread happens to be. Within Python's own pools that may be between taking a lock and
noting that it was taken: nobody gives it back, the threads wait for it, and the main thread for them. So a pool is
asked with interrupts held back: `submit` and `shutdown` of these pools, and `result_of`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from itertools import islice
from multiprocessing import connection
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import cv2

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 10.0
"""Seconds within which a thread that has ended is gone, on however busy a machine."""

POLL = 0.1
"""Seconds for which an interrupt is held back at most while something is waited for."""


# --- interrupts --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the body has ended; a second one interrupts at once.

    Only the main thread is ever interrupted: in others this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    held: list[int] = []

    def act(number: int, frame: FrameType | None) -> None:
        answer = before[number]
        if callable(answer):
            answer(number, frame)

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)
        if len(held) > 1:
            act(number, frame)

    try:
        for number, answer in before.items():
            if callable(answer):  # neither ignored nor the system's
                signal.signal(number, hold)
        yield
    finally:
        for number, answer in reversed(before.items()):  # Ctrl-C last: from then on it may come at once
            if signal.getsignal(number) is hold:
                signal.signal(number, answer)
        if len(held) == 1:
            act(held[0], None)


def result_of(future: Future[R]) -> R:
    """What a future comes to, or its exception; Ctrl-C is heeded while it is waited for."""
    while True:
        with interrupts_later():
            if future.done() or wait([future], timeout=POLL).done:
                return future.result()


# --- pools -------------------------------------------------------------------------------------------------


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

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """As of every pool, with interrupts held back."""
        with interrupts_later():
            return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of every pool, and then until the system knows the threads no more."""
        try:
            with interrupts_later():
                super().shutdown(wait=False, cancel_futures=cancel_futures)
        finally:
            super().shutdown(wait)
        deadline = time.monotonic() + PATIENCE
        while wait and self._begun and time.monotonic() < deadline:
            # only Linux has this folder, and only there are loader processes forked
            self._begun -= {each for each in self._begun if not os.path.exists(f"/proc/self/task/{each}")}
            if self._begun:
                time.sleep(0.001)


class _Processes(ProcessPoolExecutor):
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        with interrupts_later():
            return super().submit(fn, *args, **kwargs)


@contextlib.contextmanager
def threads(count: int) -> Iterator[Threads]:
    """A pool that, at its end and on an error, finishes what it has begun and drops the rest."""
    pool = Threads(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that, at its end and on an error, finishes what it has begun and drops the rest.

    Ctrl-C, which a terminal sends to all processes, is for this one: it decides what is finished. A process whose
    starter was killed ends at once.
    """
    pool = _Processes(count, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        with _deaf():
            for _ in range(count):  # each starts one, none of them being idle yet
                pool.submit(_nothing)
        yield pool
    finally:
        with _deaf():  # interrupted here, the pool forgets to tell its processes, and Python waits for them
            pool.shutdown(wait=True, cancel_futures=True)


def in_order(pool: Executor, work: Callable[[T], R], things: Iterable[T], *, group: int = 1) -> Generator[R]:
    """`work` of each thing, in their order.

    Args:
        pool: of `threads` or `processes`.
        work: for processes, a function of a module.
        things: all of them are taken before the first result.
        group: things that a worker is given at a time.
    """
    rest = iter(things)
    begun = deque(pool.submit(_each, work, some) for some in iter(lambda: list(islice(rest, group)), []))
    while begun:
        yield from result_of(begun.popleft())


def _each(work: Callable[[T], R], things: list[T]) -> list[R]:
    return [work(thing) for thing in things]


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
        connection.wait([starter.sentinel])
        os._exit(1)


def _nothing() -> None:
    pass
