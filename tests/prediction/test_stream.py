"""Pipeline stages: order, bounds, errors in their place, nothing left running."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reincli.engine.ranks import Rank
from reincli.prediction.stream import ahead, batched, mapped


def count(taken, until):
    for number in range(until):
        taken.append(number)
        yield number


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
def test_stages_keep_order(length, workers, depth, size):
    stages = mapped(
        lambda group: sum(group), batched(ahead(range(length), depth), size), workers=workers, depth=depth
    )
    assert list(stages) == [sum(range(length)[i : i + size]) for i in range(0, length, size)]


def test_a_slow_taker_bounds_what_is_begun():
    taken: list[int] = []
    stage = ahead(count(taken, 100), depth=3)
    next(stage)
    time.sleep(0.2)
    assert len(taken) <= 5
    stage.close()
    begun: list[int] = []
    results = mapped(lambda n: n, count(begun, 100), workers=2, depth=4)
    next(results)
    assert len(begun) == 4
    results.close()


def test_stages_overlap():
    def slow(number):
        time.sleep(0.03)
        return number

    start = time.perf_counter()
    stage = mapped(slow, (slow(n) for n in ahead((slow(n) for n in range(10)), 2)), workers=1, depth=2)
    assert list(stage) == list(range(10))
    assert time.perf_counter() - start < 0.03 * 30 * 0.75


def test_errors_come_out_in_their_place():
    def broken():
        yield 1
        raise OSError("gone")

    stage = ahead(broken(), 4)
    assert next(stage) == 1
    with pytest.raises(OSError, match="gone"):
        next(stage)

    results = mapped(lambda n: 1 // n, [1, 1, 0, 1], workers=2, depth=2)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_has_begun_is_finished_when_the_items_end_badly():
    finished = []

    def work(number):
        time.sleep(0.05)
        finished.append(number)

    def items():
        yield from range(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(mapped(work, items(), workers=1, depth=5))
    assert finished == [0, 1, 2]


def test_no_thread_is_left():
    before = threading.active_count()
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    stage = ahead(items(), 2)
    next(stage)
    stage.close()
    assert closed == [True]
    assert threading.active_count() == before


def test_no_thread_waits_for_the_garbage_collector():
    """The traceback keeps the variables of every stage alive; their threads must be gone all the same."""
    before = threading.active_count()

    def broken(stage):
        with closing(mapped(str, count([], 50), workers=2, depth=4)) as items:
            for group in batched(items, 3):
                if stage == "in the middle":
                    raise KeyboardInterrupt
                yield group

    def work(group):
        if stage == "behind":
            raise OSError("full")
        return group

    for stage in ("in the middle", "behind", "at the end"):
        with pytest.raises((KeyboardInterrupt, OSError)) as kept:  # noqa: PT012
            for _ in mapped(work, ahead(broken(stage), 2), workers=2, depth=3):
                raise OSError("who asks is at fault")
        assert kept.tb is not None
        assert threading.active_count() == before


@given(st.integers(1, 6), st.lists(st.integers(), max_size=30, unique=True))
def test_every_item_belongs_to_one_process(world, items):
    shares = [Rank(rank, world, rank).share(items) for rank in range(world)]
    assert sorted(x for share in shares for x in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
