"""The rate of a device, the time of calls, and how many products they take."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from reincli.engine.device import DTYPES, full_fp32, wait_for

SIDE, PRODUCTS = {"cuda": 8192, "mps": 4096, "cpu": 1024}, {"cuda": 20, "mps": 10, "cpu": 5}
"""Side of the matrices whose product is the rate, and how often it is taken."""


def timings(call: Callable[[], object], device: torch.device, runs: int, seconds: float) -> list[float]:
    """Seconds of each of up to `runs` calls, at least one; each is waited for before the next begins."""
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < runs and (not found or time.perf_counter() - begun < seconds):
        if device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            stop.synchronize()
            found.append(start.elapsed_time(stop) / 1000)
        else:
            wait_for(device)
            start_s = time.perf_counter()
            call()
            wait_for(device)
            found.append(time.perf_counter() - start_s)
    return found


def matrix_rate(precision: str, device: torch.device) -> float:
    """FLOP/s of a large square product of random matrices: what the device does at best.

    On a CPU the better of the two libraries that PyTorch multiplies by: which one that is depends on the processor.
    """
    side = SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(left)
    with full_fp32(device):
        calls: list[Callable[[], object]] = [lambda: torch.mm(left, right, out=out)]
        packed = packed_product(left, right) if device.type == "cpu" else None
        if packed is not None:
            calls.append(packed)
        medians = []
        for call in calls:
            for _ in range(3):
                call()
            medians.append(statistics.median(timings(call, device, PRODUCTS[device.type], 10.0)))
    return 2 * side**3 / min(medians)


def packed_product(left: torch.Tensor, right: torch.Tensor) -> Callable[[], torch.Tensor] | None:
    """(m, k) times (k, n) by oneDNN, the right side packed beforehand; None where this build has no such operator."""
    operators = torch.ops.mkldnn
    try:
        weight = operators._reorder_linear_weight(right.t().contiguous(), len(left))
        operators._linear_pointwise(left, weight, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return lambda: operators._linear_pointwise(left, weight, None, "none", [], "")


def count_flops(call: Callable[[], object]) -> int:
    """FLOPs of a call by torch's counter, which sees nothing of what is compiled."""
    with _counter() as counter:
        call()
    return int(counter.get_total_flops())


def _counter() -> FlopCounterMode:
    """The counter, with the CPU's fused attention, which it does not know by itself, and without sparse products."""
    aten = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
        return int(
            sdpa_flop_count(query, key, value) * 5 // 2
        )  # five products where the forward pass has two

    def nothing(*rest: Any, **options: Any) -> int:
        return 0  # the sparse product is of deformable attention's sampling, which is not counted

    own: dict[Any, Any] = {aten.sparse_sampled_addmm: nothing}
    own[aten._scaled_dot_product_flash_attention_for_cpu] = forward
    own[aten._scaled_dot_product_flash_attention_for_cpu_backward] = backward
    apple = getattr(aten, "_scaled_dot_product_attention_math_for_mps", None)
    if apple is not None:
        own[apple] = forward
    return FlopCounterMode(display=False, custom_mapping=own)


def describe(device: torch.device) -> dict[str, str]:
    """What runs here: device, torch, CUDA."""
    if device.type == "cuda":
        name = torch.cuda.get_device_properties(device).name
    elif device.type == "mps":
        name = f"Apple GPU ({_processor()})"
    else:
        count = torch.get_num_threads()
        name = f"{_processor()}, {count} thread{'s'[: count > 1]}"
    return {"device": str(device), "name": name, "torch": torch.__version__, "cuda": torch.version.cuda or ""}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
