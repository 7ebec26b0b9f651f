"""Threads and processes that work on files: their end."""

from __future__ import annotations

import os
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from reincli.media.workers import Threads


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
