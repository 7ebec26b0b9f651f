"""From query masks to classes: in bands as at once, never all queries at full size; the kernel as the plain form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from triton_cases import compile_for_hopper, run_cases

from reincli.ops.output import band_rows, class_labels, class_scores, triton_reason


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return result


def masks(batch, queries, classes, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(batch, queries, height, width, generator=generator)
    return logits, (3 * torch.randn(batch, queries, classes + 1, generator=generator)).softmax(-1)[..., :-1]


def at_once(logits, shares, size):
    resized = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return torch.einsum("bqk,bqhw->bkhw", shares, resized.sigmoid())


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(2, 4), st.integers(1, 40), st.integers(1, 9),
    st.integers(1, 150), st.integers(1, 20), st.integers(0, 99),
)  # fmt: skip
def test_bands_equal_all_at_once(batch, queries, classes, height, width, rows, columns, seed):
    logits, shares = masks(batch, queries, classes, height, width, seed)
    expected = at_once(logits, shares, (rows, columns))
    scores = class_scores(logits, shares, (rows, columns))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    labels = class_labels(logits, shares, (rows, columns))
    best = expected.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-4
    assert torch.equal(labels[clear], expected.argmax(1)[clear].to(torch.uint8))


@pytest.mark.parametrize("form", [class_scores, class_labels])
def test_no_tensor_of_queries_times_image(form):
    logits, shares = masks(2, 20, 3, 64, 48)
    with Largest() as seen, torch.inference_mode():
        form(logits, shares, (256, 192))
    assert seen.elements <= 2 * 20 * 64 * 192  # a band of 64 rows


def test_bands_grow_lower_with_the_batch():
    logits = torch.empty(16, 100, 1, 1)
    rows = band_rows(logits, (512, 512))
    assert 1 <= rows < 64
    assert 16 * 100 * rows * 512 <= 2**24
    assert band_rows(logits, (10**6, 10**9)) == 1


def test_gradients_reach_masks_and_classes():
    logits, shares = masks(1, 3, 2, 4, 4)
    logits.requires_grad_()
    class_scores(logits, shares, (8, 8)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("interpreted", [True, False], ids=["interpreter", "device"])
def test_kernel_against_the_plain_form(interpreted):
    run_cases("kernels_of_output.py", interpreted)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_kernel_compiles_for_a_device_that_is_not_there(kind, labels, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from reincli.ops import output_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = {"logits": f"*{kind}", "shares": "*fp32", "out": "*u8" if labels else "*fp32", "scale_y": "fp32",
             "scale_x": "fp32"}  # fmt: skip
    constants = {"CLASSES": 19, "SLOTS": 32, "TILE_ROWS": 4, "TILE_COLUMNS": 16, "QUERIES": 16, "CHUNKS": 7,
                 "PRECISION": "tf32x3", "LABELS": labels}  # fmt: skip
    built = compile_for_hopper(output_triton.classify, types, constants)
    assert "tf32" in built  # the class product runs on tensor cores
    assert ".local" not in built


def test_too_many_classes_say_so():
    assert "257" in str(triton_reason(torch.device("cuda"), 257, torch.float32))
