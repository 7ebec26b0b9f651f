"""Deformable attention as Triton kernels: right under the interpreter, built for the device, chosen where they fit."""

from __future__ import annotations

import pytest
import torch
from triton_cases import compile_for_hopper, run_cases

from reincli.ops import triton_use
from reincli.ops.deformable import deformable_attention, sample_plain, triton_reason

CONSTANTS = {
    "HEADS": 8,
    "WIDTH": 32,
    "ENTRIES": 12,
    "FIRST": 0,
    "LEVELS": 3,
    "POINTS": 4,
    "BLOCK": 32,
}


@pytest.mark.slow
@pytest.mark.parametrize("interpreted", [True, False], ids=["interpreter", "device"])
def test_against_the_plain_form(interpreted):
    run_cases("kernels_of_deformable.py", interpreted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_kernels_compile_for_a_device_that_is_not_there(kind, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from reincli.ops import deformable_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = dict.fromkeys(("value", "out", "grad"), f"*{kind}")
    places = ("locations", "weights", "grad_value", "grad_locations", "grad_weights")
    types |= dict.fromkeys(places, "*fp32")
    forward = compile_for_hopper(deformable_triton.attention_forward, types, CONSTANTS)
    backward = compile_for_hopper(deformable_triton.attention_backward, types, CONSTANTS)
    assert "ld.global.v4.b32" in forward  # 16 bytes at once
    assert "relaxed.add.v4.f32" in backward  # four channels by one addition in memory
    assert ".local" not in forward + backward  # nothing spills out of the registers


# --- the choice ---------------------------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch):
    """A CUDA device as torch would describe it."""

    def describe(capability=(9, 0), cuda="13.0"):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda which: "GPU X")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda which: capability)
        monkeypatch.setattr(triton_use, "_unready", lambda: None)
        triton_use.reason.cache_clear()
        return torch.device("cuda:0")

    yield describe
    triton_use.reason.cache_clear()


def test_a_hopper_takes_the_kernels(device):
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        assert triton_reason(device(), 32, kind) is None


@pytest.mark.parametrize(
    ("capability", "cuda", "width", "kind", "said"),
    [
        ((9, 0), "13.0", 24, torch.float32, "not 24"),
        ((9, 0), "13.0", 256, torch.float32, "not 256"),
        ((9, 0), "13.0", 32, torch.float64, "not float64"),
        ((7, 5), "13.0", 32, torch.bfloat16, "GPU X has compute capability 7.5; bfloat16 needs 8.0"),
        ((6, 1), "13.0", 32, torch.float32, "6.1"),
        ((9, 0), None, 32, torch.float32, "not built for CUDA"),
    ],
)
def test_what_does_not_fit_says_so_in_one_line(device, capability, cuda, width, kind, said):
    reason = triton_reason(device(capability, cuda), width, kind)
    assert said in reason
    assert "\n" not in reason


def test_a_turing_takes_the_kernels_in_fp16(device):
    assert triton_reason(device((7, 5)), 32, torch.float16) is None


def test_the_cpu_keeps_its_own_form():
    assert "cpu" in triton_reason(torch.device("cpu"), 32, torch.float32)


@pytest.mark.parametrize(("version", "said"), [(None, "not installed"), ("3.1.0", "3.2 or newer")])
def test_a_triton_that_is_missing_or_old(monkeypatch, version, said):
    monkeypatch.setattr(triton_use, "triton_version", lambda: version)
    assert said in triton_use._unready()


def test_a_triton_that_cannot_build(monkeypatch):
    class Driver:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler. Please specify via CC.\nmore")

    class Runtime:
        driver = Driver()

    monkeypatch.setattr(triton_use, "triton_version", lambda: "3.6.0+git")
    monkeypatch.setattr(triton_use, "import_module", lambda name: Runtime)
    assert triton_use._unready() == (
        "Triton 3.6.0+git cannot start here: Failed to find C compiler. Please specify via CC."
    )


def test_the_plain_form_finds_places_in_fp32_whatever_the_values_are():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, 64 * 64, 1, 8, generator=generator).bfloat16()
    locations = torch.rand(1, 50, 1, 1, 1, 2, generator=generator)
    weights = torch.ones(1, 50, 1, 1, 1)
    exact = sample_plain(value.float(), [(64, 64)], locations, weights)
    ours = sample_plain(value, [(64, 64)], locations, weights)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), exact, rtol=2**-8, atol=1e-3)


def test_the_choice_is_no_break_for_the_compiler():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, 6, 1, 8, generator=generator)
    locations = torch.rand(1, 5, 1, 1, 3, 2, generator=generator)
    weights = torch.rand(1, 5, 1, 1, 3, generator=generator)
    form = torch.compile(deformable_attention, fullgraph=True, backend="eager")
    expected = sample_plain(value, [(2, 3)], locations, weights)
    torch.testing.assert_close(form(value, [(2, 3)], locations, weights), expected)
