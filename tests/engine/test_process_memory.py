"""Memory of this process: real on this system, right by the papers of the others."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from reincli.engine import process_memory


def test_a_large_array_is_seen():
    if process_memory.in_use() == 0:
        pytest.skip("this system does not tell")
    before = process_memory.in_use()
    held = np.ones(50 << 20, np.uint8)
    assert process_memory.peak() >= before + (30 << 20)
    assert process_memory.in_use() <= process_memory.peak() + (1 << 20)
    del held


@pytest.mark.parametrize(("system", "expected"), [("linux", 7 * 1024), ("darwin", 7)])
def test_the_unit_of_the_peak_is_the_systems(monkeypatch, system, expected):
    told = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=7))
    monkeypatch.setattr(process_memory, "resource", told)
    monkeypatch.setattr(sys, "platform", system)
    assert process_memory.peak() == expected


def test_windows_is_asked_by_its_own_call(monkeypatch):
    """A stand-in for kernel32 that fills in the structure as Windows does, at its offsets on 64 bits."""

    class Ask:
        def __call__(self, handle, pointer, size):
            assert (handle, size) == (-1, 72 if sys.maxsize > 2**32 else 40)
            counters = pointer._obj
            counters.peak_working_set, counters.working_set = 900, 500
            return 1

    kernel = SimpleNamespace(GetCurrentProcess=lambda: -1, K32GetProcessMemoryInfo=Ask())
    kernel.GetCurrentProcess = type("Call", (), {"__call__": lambda self: -1})()
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: kernel, raising=False)
    monkeypatch.setattr(process_memory, "resource", None)
    assert process_memory.in_use() == 500
    assert process_memory.peak() == 900
    kernel.K32GetProcessMemoryInfo = type("No", (), {"__call__": lambda self, *given: 0})()
    assert process_memory.in_use() == 0


def test_without_either_nothing_is_told(monkeypatch):
    monkeypatch.setattr(process_memory, "resource", None)
    monkeypatch.delattr(ctypes, "WinDLL", raising=False)
    assert (process_memory.in_use(), process_memory.peak()) == (0, 0)
