"""Memory of this process, as each system tells it: in use now, and at most so far."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def in_use() -> int:
    """Bytes in physical memory now; the peak where only that can be told (macOS)."""
    if resource is None:
        return _windows()[0]
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return peak()
    return pages * resource.getpagesize()


def peak() -> int:
    """Most bytes in physical memory so far."""
    if resource is None:
        return _windows()[1]
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024  # bytes there, KiB elsewhere


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of Windows' psapi.h."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("working_set", ctypes.c_size_t),
        *((f"not_used_{index}", ctypes.c_size_t) for index in range(6)),
    ]


def _windows() -> tuple[int, int]:
    """Working set now and at most, in bytes; (0, 0) where the system does not tell."""
    library = getattr(ctypes, "WinDLL", None)
    if library is None:
        return 0, 0
    kernel = library("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p  # a handle: as an int it would be cut to 32 bits
    ask = kernel.K32GetProcessMemoryInfo
    ask.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Counters), ctypes.c_uint32]
    counters = _Counters(size=ctypes.sizeof(_Counters))
    if not ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size):
        return 0, 0
    return int(counters.working_set), int(counters.peak_working_set)
