"""Stages of a pipeline that run at the same time: each takes an iterator and is one.

    frames = ahead(video.read(span), depth=4)            # decoded in a thread
    seen = (see(group) for group in batched(frames, 4))  # the model, in the thread that asks
    drawn = mapped(draw, seen, workers=2, depth=3)       # drawn in threads
    for _ in mapped(write, drawn, workers=1, depth=2):   # encoded in a thread

Order is kept, every stage holds at most its depth of items, and an exception comes out where its item would have.

A stage closes the one it takes from when it ends. Whoever keeps a stage in a variable closes it too
(`contextlib.closing`): the traceback of an exception keeps variables alive, and a stage that is left to the garbage
collector waits for its threads wherever the collector happens to run, which may be under a lock that they need.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import TypeVar

from reincli.media.workers import POLL, Threads, interrupts_later, result_of

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], depth: int) -> Generator[T]:
    """The items, fetched in a thread that is up to `depth` of them ahead."""
    waiting: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    unwanted = threading.Event()

    def put(entry: tuple[bool, T | BaseException | None]) -> bool:
        while not unwanted.is_set():
            try:
                waiting.put(entry, timeout=POLL)
                return True
            except queue.Full:
                continue
        return False

    def fetch() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put((True, item)):
                    break
            put((False, None))
        except BaseException as error:
            put((False, error))
        finally:
            _close(iterator)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while True:
            with interrupts_later():
                try:
                    more, item = waiting.get(timeout=POLL)
                except queue.Empty:
                    continue
            if more:
                yield item  # type: ignore[misc]
            elif item is None:
                return
            else:
                raise item  # type: ignore[misc]
    finally:
        unwanted.set()
        thread.join()


def mapped(function: Callable[[T], R], items: Iterable[T], *, workers: int, depth: int) -> Generator[R]:
    """`function` of each item, in their order, worked out in threads; at most `depth` are begun and not taken.

    What has begun is finished even where the items, or who asks for the results, end by an exception.
    """
    pool = Threads(workers)
    begun: deque[Future[R]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            while len(begun) >= depth:
                yield result_of(begun.popleft())
        while begun:
            yield result_of(begun.popleft())
    finally:
        pool.shutdown(wait=True)
        _close(items)


def _close(items: Iterable[T]) -> None:
    if isinstance(items, Generator):
        items.close()


def batched(items: Iterable[T], size: int) -> Generator[list[T]]:
    """Lists of `size` items, the last one of what is left."""
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def each_of(function: Callable[[T], R], items: Iterable[T], workers: int, depth: int) -> Generator[R]:
    """As `mapped`; with 0 workers in the thread that asks, one after another."""
    yield from mapped(function, items, workers=workers, depth=depth) if workers else map(function, items)
