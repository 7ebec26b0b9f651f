"""Running tests of Triton kernels in a process of their own, and compiling kernels for a device that is not there.

Triton decides when it is imported whether kernels are interpreted (TRITON_INTERPRET=1), so such tests cannot share a
process with others. They live in files that pytest does not collect by itself, `kernels_of_*.py`; each runs in such a
process: under the interpreter on the CPU, and on a CUDA device where there is one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
"""Where the kernels of this process run."""
HOPPER = 90


def run_cases(name: str, interpreted: bool) -> None:
    """Run `tests/ops/<name>` by a pytest of its own; fail with what it printed."""
    pytest.importorskip("triton")
    if not interpreted and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tests = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TRITON_INTERPRET"))}
    environment |= {"OMP_NUM_THREADS": "1", **({"TRITON_INTERPRET": "1"} if interpreted else {})}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(tests / "ops" / name)],
        env=environment,
        cwd=tests.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative L2 error."""
    ours, reference = ours.detach().double(), reference.detach().double()
    return float((ours - reference).norm() / reference.norm())


def compile_for_hopper(kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int = 4) -> str:
    """PTX of a kernel for compute capability 9.0, assembled to machine code too; needs no device.

    Args:
        kernel: what `triton.jit` made.
        types: of its arguments, such as '*fp32'; those not named are 32-bit numbers.
        constants: its compile-time arguments.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("kernels are interpreted in this process, not compiled")
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name][0] == "*"
    }
    source = ASTSource(kernel, signature, constants, aligned)
    built = triton.compile(source, target=GPUTarget("cuda", HOPPER, 32), options={"num_warps": warps})
    assert built.asm["cubin"]
    return str(built.asm["ptx"])
