"""Threads and processes that work on files: their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from reincli.media.workers import Threads, in_order, interrupts_later, result_of, threads


def _resized(_: int) -> int:
    cv2.resize(np.zeros((64, 64, 3), np.uint8), (32, 32))
    return threading.get_native_id()


@pytest.mark.skipif(
    sys.platform != "linux", reason="threads are looked up in /proc; elsewhere nothing is forked"
)
def test_threads_are_gone_for_the_system_too_when_the_pool_has_ended():
    for _ in range(100):  # one of Python's own pools leaves one behind in most of these rounds
        with Threads(4) as pool:
            used = set(pool.map(_resized, range(8)))
        assert not [each for each in used if os.path.exists(f"/proc/self/task/{each}")]


def test_an_end_that_does_not_wait_comes_at_once():
    go = threading.Event()
    pool = Threads(1)
    waiting = pool.submit(go.wait)
    started = time.monotonic()
    pool.shutdown(wait=False)
    assert time.monotonic() - started < 2
    go.set()
    assert waiting.result()
    pool.shutdown()


INTERRUPTED = """
import faulthandler, signal, sys, threading, time

from reincli.media.workers import in_order, threads
from reincli.prediction.stream import ahead, mapped

faulthandler.dump_traceback_later(60, exit=True)  # locks that nobody gives back
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell began the tests in the background


def pooled():
    with threads(2) as pool:
        return list(in_order(pool, time.sleep, [0.001] * 6))


def streamed():
    return list(mapped(time.sleep, ahead(iter([0.001] * 6), depth=2), workers=2, depth=3))


def interrupt_at(moment):
    "Ctrl-C when the main thread has just taken a lock of Python's for the n-th time, as it may come any time."
    taken = 0

    def watch(frame, event, value):
        nonlocal taken
        if event == "return" and frame.f_code is threading.Condition.__enter__.__code__:
            taken += 1
            if taken == moment:
                signal.raise_signal(signal.SIGINT)

    return watch


for work in (pooled, streamed):
    interrupted = ended = 0
    for moment in range(1, 60):
        sys.setprofile(interrupt_at(moment))
        try:
            work()
            ended += 1
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.setprofile(None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print(work.__name__, interrupted >= 8)
"""


def test_an_interrupt_in_the_middle_of_a_pools_locks_does_not_leave_them_taken():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=110)
    assert (done.stdout, done.returncode) == ("pooled True\nstreamed True\n", 0), done.stderr[-2000:]


def test_held_interrupts_come_when_the_body_has_ended_and_a_second_one_at_once():
    reached = []

    def work(times: int) -> None:
        with interrupts_later():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            reached.append(times)
        reached.append("what follows")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work(times=1)
        with pytest.raises(KeyboardInterrupt):
            work(times=2)
        assert reached == [1]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_ignored_stays_ignored_and_other_threads_hold_nothing():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_later():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with Threads(1) as pool:
            assert result_of(pool.submit(_within)) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def _within() -> object:
    with interrupts_later():
        return signal.getsignal(signal.SIGINT)


def test_results_come_in_order_by_groups_and_an_error_where_it_belongs():
    def work(number: int) -> int:
        if number == 7:
            raise ValueError("seven")
        return number * 2

    with threads(3) as pool:
        assert list(in_order(pool, work, range(7), group=3)) == [0, 2, 4, 6, 8, 10, 12]
        results = in_order(pool, work, range(9))
        assert [next(results) for _ in range(7)] == [0, 2, 4, 6, 8, 10, 12]
        with pytest.raises(ValueError, match="seven"):
            next(results)


TWICE = """
import os, signal, threading, time

from reincli.media.workers import in_order, processes

signal.signal(signal.SIGINT, signal.default_int_handler)


def twice():
    begun.wait()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)


begun = threading.Event()
threading.Thread(target=twice, daemon=True).start()
with processes(2) as pool:
    for _ in in_order(pool, time.sleep, [0.25] * 60):
        begun.set()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal can be sent to oneself")
def test_two_interrupts_do_not_leave_a_pool_of_processes_waiting():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=40)
    assert done.returncode in (1, 130, -signal.SIGINT), done.stderr[-2000:]
    assert "KeyboardInterrupt" in done.stderr
