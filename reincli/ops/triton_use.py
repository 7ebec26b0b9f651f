"""Whether Triton's kernels can run: on which devices, and why not elsewhere."""

from __future__ import annotations

import functools
from importlib import import_module

import torch

OLDEST = (3, 2)
"""Version of Triton that came with the oldest PyTorch of the supported range, 2.6."""
KINDS = {torch.float32: (7, 0), torch.float16: (7, 0), torch.bfloat16: (8, 0)}
"""Types of values that the kernels take, and the compute capability that each needs."""


@functools.cache  # what is installed and built in stays as it is while a process lives
def reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why plain PyTorch runs on a device and not the project's kernels, in a few words; None: the kernels run."""
    if device.type != "cuda":
        return f"the device is '{device.type}', and its kernels are for CUDA"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is not built for CUDA"
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if dtype not in KINDS:
        return f"its kernels take fp32, bf16 and fp16, not {str(dtype).removeprefix('torch.')}"
    if capability < KINDS[dtype]:
        have, need = (".".join(map(str, version)) for version in (capability, KINDS[dtype]))
        return f"{name} has compute capability {have}; {str(dtype).removeprefix('torch.')} needs {need}"
    return _unready()


def triton_version() -> str | None:
    """Version of the Triton that can be imported, None where there is none."""
    try:
        return str(import_module("triton").__version__)
    except ImportError:
        return None


def _unready() -> str | None:
    """What keeps Triton from building kernels here; None where it is ready."""
    version = triton_version()
    if version is None:
        return "Triton is not installed: pip install triton"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        return f"Triton {version} is too old: {'.'.join(map(str, OLDEST))} or newer is needed"
    try:  # it builds its link to the driver: that takes a C compiler and Python's headers, and slim images lack both
        import_module("triton.runtime").driver.active.get_current_target()
    except Exception as error:  # whatever a foreign compiler or driver says
        lines = str(error).strip().splitlines()
        return f"Triton {version} cannot start here: {lines[0] if lines else type(error).__name__}"
    return None
