"""One line where a GPU runs plain PyTorch and not the kernels."""

from __future__ import annotations

import pytest
import torch

from reincli.commands import doctor
from reincli.engine.device import kernel_notes
from reincli.ops import triton_use

GPU = torch.device("cuda:0")


@pytest.fixture
def machine(monkeypatch):
    """What keeps the kernels from running on the GPU, None for nothing."""

    def describe(why):
        monkeypatch.setattr(triton_use, "reason", lambda device, dtype: why)
        monkeypatch.setattr(triton_use, "triton_version", lambda: "3.6.0")

    return describe


def test_nothing_to_say_where_the_kernels_run(machine):
    machine(None)
    assert kernel_notes(GPU, "bf16", 32, 19) == []
    assert doctor._kernels(GPU, "bf16") == "Triton 3.6.0"


def test_nothing_to_say_on_the_cpu():
    assert kernel_notes(torch.device("cpu"), "fp32", 24, 19) == []


def test_one_line_for_one_reason(machine):
    machine("Triton is not installed: pip install triton")
    assert kernel_notes(GPU, "bf16", 32, 19) == [
        "Plain PyTorch for deformable attention and the output: Triton is not installed: pip install triton."
    ]
    assert doctor._kernels(GPU, "bf16").startswith("plain PyTorch: Triton is not")


def test_a_head_that_does_not_fit_is_named(machine):
    machine(None)
    (line,) = kernel_notes(GPU, "bf16", 24, 19)
    assert line == (
        "Plain PyTorch for deformable attention: its kernels take heads of 8, 16, 32, 64 or 128 channels, not 24."
    )
