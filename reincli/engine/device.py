"""Devices and arithmetic."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import torch

from reincli.errors import ReinError
from reincli.ops import deformable, output

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda' or 'cuda:1' -> a device that is there.

    Raises:
        ReinError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ReinError(f"No device is called '{name}'.", "Use auto, cpu, cuda or cuda:1.", usage=True)
    if kind == "cuda" and not torch.cuda.is_available():
        raise ReinError(
            f"Device '{name}' was asked for, but PyTorch {torch.__version__} sees no CUDA device.",
            "Use --device cpu, or install a CUDA build of PyTorch and check nvidia-smi.",
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ReinError(
            f"Device '{name}' was asked for, but there are {torch.cuda.device_count()} CUDA devices (from 0)."
        )
    return torch.device(name)


def has_amx() -> bool:
    """Whether this CPU multiplies bf16 matrices in tiles (AMX): there bf16 is several times as fast as fp32."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe())


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' -> what the device does well: bf16 on CUDA (fp16 before Ampere) and on CPUs with AMX, else fp32.

    Raises:
        ReinError: the device cannot do what was asked for.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if has_amx() else "fp32"
    if name not in DTYPES:
        raise ReinError(f"No precision is called '{name}'.", "Use auto, fp32, bf16 or fp16.", usage=True)
    if name == "fp16" and device.type == "cpu":
        raise ReinError("Precision fp16 needs a GPU.", "Use --precision bf16 or fp32 on the CPU.", usage=True)
    return name


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision around a forward pass; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@contextmanager
def full_fp32(device: torch.device) -> Iterator[None]:
    """While it lasts, fp32 is fp32: unasked, cuDNN's convolutions on a GPU round their inputs to TF32 (10 bits)."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def kernel_notes(device: torch.device, precision: str, width: int | None, classes: int) -> list[str]:
    """Lines for the user where a GPU runs plain PyTorch and not the project's kernels; none elsewhere.

    Args:
        device, precision: as picked. width: channels of a deformable attention's head, None without. classes: K.
    """
    if device.type != "cuda":
        return []
    dtype = DTYPES[precision]
    reasons = {"the output": output.triton_reason(device, classes, dtype)}
    if width is not None:
        reasons = {"deformable attention": deformable.triton_reason(device, width, dtype), **reasons}
    by_reason: dict[str, list[str]] = {}
    for part, reason in reasons.items():
        if reason is not None:
            by_reason.setdefault(reason, []).append(part)
    return [f"Plain PyTorch for {' and '.join(parts)}: {reason}." for reason, parts in by_reason.items()]


def peak_memory(device: torch.device) -> int:
    """Largest memory use so far in bytes: of the device, or of this process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew, where that can be had: on GPUs and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def memory_in_use(device: torch.device) -> int:
    """Bytes in use now: of the device, or by this process on the CPU (the peak where that cannot be told)."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_memory(device)
    return pages * resource.getpagesize()


def available_memory(device: torch.device) -> int | None:
    """Bytes that could still be taken; None where that cannot be told."""
    if device.type == "cuda":
        held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + held_back)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)  # CPU allocations and the GPU's libraries have no exception of their own
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("can't allocate memory", "out of memory", "_STATUS_ALLOC_FAILED")
    )
