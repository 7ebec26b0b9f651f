"""Devices and arithmetic."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import torch

from reincli.engine import process_memory
from reincli.errors import ReinError
from reincli.ops import deformable, output

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda', 'cuda:1' or 'mps' -> a device that is there.

    'auto' takes a GPU of CUDA, else Apple's ('mps'), else the CPU.

    Raises:
        ReinError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
        raise ReinError(f"No device is called '{name}'.", "Use auto, cpu, cuda, cuda:1 or mps.", usage=True)
    if kind == "mps":
        return _apple(name, index)
    if kind == "cuda" and not torch.cuda.is_available():
        raise ReinError(
            f"Device '{name}' was asked for, but PyTorch {torch.__version__} sees no CUDA device.",
            "Use --device cpu, or install a CUDA build of PyTorch and check nvidia-smi.",
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ReinError(
            f"Device '{name}' was asked for, but there are {torch.cuda.device_count()} CUDA devices (from 0).",
            "Name one of them, for example cuda:0.",
        )
    return torch.device(name)


def _apple(name: str, index: str) -> torch.device:
    if not torch.backends.mps.is_available():
        raise ReinError(
            f"Device '{name}' was asked for, but PyTorch {torch.__version__} sees no GPU of Apple's.",
            "That takes a Mac with Apple silicon, and macOS 14 or newer; elsewhere use --device auto, cpu or cuda.",
        )
    if index and int(index) > 0:
        raise ReinError(f"Device '{name}' was asked for, but a Mac has one GPU.", "Use --device mps.")
    return torch.device("mps")


def fast_bf16() -> str | None:
    """What multiplies bf16 on this CPU faster than fp32, or None: there bf16 is emulated, and slower.

    'AMX' (tiles: several times as fast), 'AVX512-BF16' (dot products: 1.4 to 1.7 times, whole models of this package),
    'Arm BF16'. By the processor's flags, since a measurement on a busy machine would choose by chance.
    """
    for name, probe in (("AMX", "_is_amx_tile_supported"), ("AVX512-BF16", "_is_avx512_bf16_supported")):
        ask = getattr(torch.cpu, probe, None)  # private, and younger than the oldest PyTorch of the range
        if ask is not None and ask():
            return name
    if platform.machine().lower() in ("aarch64", "arm64"):
        with suppress(AttributeError, RuntimeError):  # of a build without oneDNN
            return "Arm BF16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    return None


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' -> what the device does well: bf16 on CUDA (fp16 before Ampere) and on CPUs that have it, else fp32.

    Apple's GPUs: fp32 unless fp16 is asked for, which all of them know; bf16 they know from macOS 14 on, not faster.

    Raises:
        ReinError: the device cannot do what was asked for.
    """
    if name == "auto":
        if device.type == "cuda":
            # of this GPU: PyTorch's own question is about the current one
            ampere = torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0)
            return "bf16" if ampere else "fp16"
        return "bf16" if device.type == "cpu" and fast_bf16() else "fp32"
    if name not in DTYPES:
        raise ReinError(f"No precision is called '{name}'.", "Use auto, fp32, bf16 or fp16.", usage=True)
    if name == "bf16" and device.type == "mps":
        raise ReinError(
            "Precision bf16 is not for Apple's GPUs.", "Use --precision fp32 or fp16.", usage=True
        )
    if name == "fp16" and device.type == "cpu":
        raise ReinError("Precision fp16 needs a GPU.", "Use --precision bf16 or fp32 on the CPU.", usage=True)
    return name


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision around a forward pass; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def current(device: torch.device) -> AbstractContextManager[object]:
    """While it lasts, a GPU is the one that events are recorded on, whichever was asked for; nothing elsewhere."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


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
    """Largest memory use so far in bytes: of the device, or of this process on the CPU.

    Apple's GPUs count no peak: there it is what the driver holds, which grows until `release_cache`.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    return process_memory.peak()


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew, where that can be had: on GPUs and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "mps":
        torch.mps.empty_cache()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", "ascii")


def memory_in_use(device: torch.device) -> int:
    """Bytes in use now: of the device, or by this process on the CPU (the peak where that cannot be told)."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory())
    return process_memory.in_use()


def available_memory(device: torch.device) -> int | None:
    """Bytes that could still be taken; None where that cannot be told."""
    if device.type == "cuda":
        held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + held_back)
    if device.type == "mps":
        return max(int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()), 0)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def release_cache(device: torch.device) -> None:
    """Give back what PyTorch keeps of a GPU's memory for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def wait_for(device: torch.device) -> None:
    """Go on when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)  # CPU allocations and the GPU's libraries have no exception of their own
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in ("can't allocate memory", "out of memory", "_STATUS_ALLOC_FAILED", "bad_alloc")
    )
