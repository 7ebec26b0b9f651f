"""The Triton kernels: are they right on this device, and how much faster than plain PyTorch are they.

    python benchmarks/kernels.py                      # build, check against the plain form, time
    python benchmarks/kernels.py --json figures.json
    python benchmarks/kernels.py --sweep              # other tile sizes and warps too

Times are medians by the device's own events after a warm-up: `eager` as Python launches them, `graph` replayed from a
CUDA graph, which is the time of the kernels alone. Without a CUDA device the kernels are checked under Triton's
interpreter at a tiny size, and nothing is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from torch import Tensor

HEADS, WIDTH, POINTS, QUERIES, CLASSES = 8, 32, 4, 100, 19
CROPS = [
    ("512 x 1", 1, 512),
    ("512 x 4", 4, 512),
    ("512 x 16", 16, 512),
    ("1024 x 2", 2, 1024),
    ("1024 x 3", 3, 1024),
]
"""Crops of a training batch and windows of an image (three of 1024 cover 2048x1024): name, images, side in pixels."""
BOUNDS = {"fp32": (1e-5, 1e-4), "bf16": (1e-2, 2e-2)}
"""Relative L2 of values and of gradients; bf16 rounds what comes out and the gradient that goes in."""
SAME = {"fp32": (1e-5, 1e-5, 1e-3), "bf16": (1e-3, 1e-4, 3e-2)}
"""Relative L2 of the scores, share of labels that differ where the best score is clear, and by how much it must be
ahead to be that. Masks of 16 bits are multiplied in TF32."""
Row = dict[str, Any]


# --- what goes in -------------------------------------------------------------------------------------------


def attention_inputs(
    batch: int, side: int, precision: str, device: str
) -> tuple[list[tuple[int, int]], list[Tensor]]:
    """Sizes of the levels, and values, locations (some outside), weights for one layer of the pixel decoder."""
    import torch

    from reincli.engine.device import DTYPES

    torch.manual_seed(0)
    shapes = [(side // stride, side // stride) for stride in (32, 16, 8)]
    total = sum(h * w for h, w in shapes)
    value = torch.randn(batch, total, HEADS, WIDTH, device=device).to(DTYPES[precision])
    # never on the edge between two pixels: there the slope jumps, and rounding alone would choose its side
    cells = torch.rand(batch, total, HEADS, len(shapes), POINTS, 2, device=device) * 1.2 - 0.1
    extent = torch.tensor(shapes, device=device).flip(1)[:, None]
    pixels = (cells * extent).floor() + 0.05 + 0.9 * torch.rand_like(cells)
    locations = (pixels + 0.5) / extent
    weights = torch.randn(batch, total, HEADS, len(shapes) * POINTS, device=device).softmax(-1)
    return shapes, [value, locations, weights.view(*locations.shape[:-1])]


def output_inputs(
    batch: int, side: int, precision: str, device: str
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Mask logits and class probabilities of one batch, and the size of the answer."""
    import torch

    from reincli.engine.device import DTYPES

    torch.manual_seed(0)
    logits = 4 * torch.randn(batch, QUERIES, side // 4, side // 4, device=device)
    shares = (3 * torch.randn(batch, QUERIES, CLASSES + 1, device=device)).softmax(-1)[..., :-1]
    return logits.to(DTYPES[precision]), shares, (side, side)


# --- right? -------------------------------------------------------------------------------------------------


def relative(ours: Tensor, reference: Tensor) -> float:
    """Relative L2 error."""
    ours, reference = ours.detach().double(), reference.detach().double()
    return float((ours - reference).norm() / reference.norm())


def check_attention(batch: int, side: int, precision: str, device: str) -> Row:
    """Errors of values and gradients against the plain form in fp32 on the same (rounded) values."""
    import torch

    from reincli.ops.deformable import sample_plain
    from reincli.ops.deformable_triton import attend

    shapes, tensors = attention_inputs(batch, side, precision, device)
    sides = [length for shape in shapes for length in shape]
    ours_in = [each.requires_grad_() for each in tensors]
    plain_in = [each.detach().float().requires_grad_() for each in tensors]
    ours = attend(ours_in[0], sides, *ours_in[1:])
    plain = sample_plain(plain_in[0], shapes, *plain_in[1:])
    grad = torch.randn_like(plain).to(ours.dtype)
    found = [ours, *torch.autograd.grad(ours, ours_in, grad)]
    wanted = [plain, *torch.autograd.grad(plain, plain_in, grad.float())]
    names = ("value", "d value", "d locations", "d weights")
    errors = {name: relative(a, b) for name, a, b in zip(names, found, wanted, strict=True)}
    value_bound, gradient_bound = BOUNDS[precision]
    right = errors["value"] <= value_bound and max(list(errors.values())[1:]) <= gradient_bound
    return {"kernel": "attention", "precision": precision, "errors": errors, "right": right}


def check_output(batch: int, side: int, precision: str, device: str) -> Row:
    """Error of the scores, and the share of clear pixels whose label differs."""
    from reincli.ops.output import scores_plain
    from reincli.ops.output_triton import labels, scores

    logits, shares, size = output_inputs(batch, side, precision, device)
    plain = scores_plain(logits, shares, size)
    best = plain.topk(2, dim=1)
    clear = best.values[:, 0] - best.values[:, 1] > SAME[precision][2]
    wrong = (labels(logits, shares, *size) != best.indices[:, 0]) & clear
    errors = {
        "scores": relative(scores(logits, shares, *size), plain),
        "labels": float(wrong.sum() / clear.sum()),
    }
    right = errors["scores"] <= SAME[precision][0] and errors["labels"] <= SAME[precision][1]
    return {"kernel": "output", "precision": precision, "errors": errors, "right": right}


def check(batch: int, side: int, device: str) -> list[Row]:
    """Check every kernel in both precisions, and print."""
    rows = []
    for form, precision in itertools.product((check_attention, check_output), ("fp32", "bf16")):
        row = form(batch, side, precision, device) | {"crops": f"{side} x {batch}"}
        said = ", ".join(f"{name} {error:.1e}" for name, error in row["errors"].items())
        print(f"{'right' if row['right'] else 'WRONG'}  {row['kernel']:<10} {precision}  {said}", flush=True)
        rows.append(row)
    return rows


# --- fast? --------------------------------------------------------------------------------------------------


def event_times(call: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call by CUDA events."""
    import torch

    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in marks:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks)


def milliseconds(call: Callable[[], object], repeats: int) -> dict[str, float | None]:
    """`eager`, and `graph` where the call can be recorded; None where memory ran out or it cannot."""
    import torch

    times: dict[str, float | None] = {"eager": None, "graph": None}
    with contextlib.suppress(torch.OutOfMemoryError):
        side_stream = torch.cuda.Stream()  # a graph wants its warm-up on the side
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(5):
                call()
        torch.cuda.current_stream().wait_stream(side_stream)
        times["eager"] = event_times(call, repeats)
        with contextlib.suppress(RuntimeError):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            times["graph"] = event_times(graph.replay, repeats)
    torch.cuda.empty_cache()
    return times


def attention_calls(
    batch: int, side: int, precision: str
) -> Iterator[tuple[str, str, Callable[[], object], int]]:
    """What is done, by which form, the call, and the bytes that must be moved at least."""
    import torch

    from reincli.ops.deformable import sample_plain
    from reincli.ops.deformable_triton import attend

    shapes, tensors = attention_inputs(batch, side, precision, "cuda")
    sides = [length for shape in shapes for length in shape]
    tracked = [each.detach().requires_grad_() for each in tensors]
    grad = torch.randn_like(tensors[0].flatten(2))
    once = sum(each.nbytes for each in tensors) + grad.nbytes
    forms = {
        "plain": lambda value, *rest: sample_plain(value, shapes, *rest),
        "triton": lambda value, *rest: attend(value, sides, *rest),
    }
    for name, form in forms.items():
        yield "forward", name, lambda form=form: form(*tensors), once
        both = lambda form=form: torch.autograd.grad(form(*tracked), tracked, grad)  # noqa: E731
        yield "forward and backward", name, both, 3 * once


def output_calls(
    batch: int, side: int, precision: str
) -> Iterator[tuple[str, str, Callable[[], object], int]]:
    """As `attention_calls`, for scores and labels; the class product in fp32 proper too."""
    from reincli.ops import output_triton
    from reincli.ops.output import labels_plain, scores_plain

    logits, shares, size = output_inputs(batch, side, precision, "cuda")
    pixels = batch * size[0] * size[1]
    amounts = {"scores": logits.nbytes + 4 * CLASSES * pixels, "labels": logits.nbytes + pixels}
    plain = {"scores": scores_plain, "labels": labels_plain}
    kernels = {"scores": output_triton.scores, "labels": output_triton.labels}

    def in_full(call: Callable[[], object]) -> object:
        with mock.patch.object(output_triton, "precision", return_value="ieee"):
            return call()

    for what, amount in amounts.items():
        yield what, "plain", lambda what=what: plain[what](logits, shares, size), amount
        fast = lambda what=what: kernels[what](logits, shares, *size)  # noqa: E731
        yield what, "triton", fast, amount
        yield what, "triton, fp32 product", lambda fast=fast: in_full(fast), amount


def time_all(repeats: int, crops: Sequence[tuple[str, int, int]] = tuple(CROPS)) -> list[Row]:
    """Time every kernel and its plain form, and print a table."""
    import torch

    print(
        f"\n{'crops':<9} {'precision':<9} {'what':<31} {'form':<21} {'eager ms':>9} {'graph ms':>9} {'GB/s':>6} gain"
    )
    rows: list[Row] = []
    for (name, batch, side), precision in itertools.product(crops, ("fp32", "bf16")):
        for kernel, calls in (("attention", attention_calls), ("output", output_calls)):
            plain: dict[str, float | None] = {}
            for what, form, call, amount in calls(batch, side, precision):
                with torch.inference_mode(kernel == "output"):
                    times = milliseconds(call, repeats)
                best = times["graph"] or times["eager"]
                if form == "plain":
                    plain[what] = best
                before = plain.get(what)
                row = {"crops": name, "precision": precision, "kernel": kernel, "what": what, "form": form, **times,
                       "gigabytes_per_second": amount / best / 1e6 if best else None,
                       "gain": before / best if before and best else None}  # fmt: skip
                rows.append(row)
                print(line(row), flush=True)
    return rows


def line(row: Row) -> str:
    """A row of the table."""
    eager, graph = (f"{row[key]:>9.3f}" if row[key] else f"{'-':>9}" for key in ("eager", "graph"))
    rate = f"{row['gigabytes_per_second']:>6.0f}" if row["gigabytes_per_second"] else "     -"
    gain = f"{row['gain']:.1f}x" if row["gain"] else "-"
    if row["eager"] is None:
        gain = "out of memory"
    what = f"{row['kernel']}, {row['what']}"
    return (
        f"{row['crops']:<9} {row['precision']:<9} {what:<31} {row['form']:<21} {eager} {graph} {rate} {gain}"
    )


def sweep(repeats: int) -> list[Row]:
    """Other tiles and warps at the sizes of a training batch of four crops of 512."""
    import torch

    from reincli.ops import deformable_triton, output_triton

    rows: list[Row] = []

    def add(kernel: str, calls: Any, module: Any, choice: dict[str, int]) -> None:
        with mock.patch.multiple(module, **choice), torch.inference_mode(kernel == "output"):
            for what, form, call, _ in calls(4, 512, "bf16"):
                if form == "triton":
                    times = milliseconds(call, repeats)
                    rows.append({"kernel": kernel, "what": what, **choice, **times})
                    graph = f"{times['graph']:.3f}" if times["graph"] else "-"
                    print(f"{kernel}, {what}: {choice} {graph} ms", flush=True)

    print("\nsweep, 512 x 4, bf16")
    for elements, warps in itertools.product((512, 1024, 2048, 4096), (2, 4, 8)):
        add("attention", attention_calls, deformable_triton, {"ELEMENTS": elements, "WARPS": warps})
    for pixels, chunk, warps, stages in itertools.product((64, 128, 256), (16, 32), (4, 8), (1, 2)):
        choice = {
            "PIXELS": pixels,
            "CHUNK": chunk,
            "WARPS": warps,
            "STAGES": stages,
            "ACCUMULATORS": 32 * pixels,
        }
        add("output", output_calls, output_triton, choice)
    return rows


def main() -> None:
    """Check, then time where there is a device. Exit code 1 where a kernel is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--sweep", action="store_true", help="time other tile sizes and warps too")
    parser.add_argument("--json", help="file to write")
    given = parser.parse_args()
    if importlib.util.find_spec("triton") is None:
        print("Triton is not installed: there is nothing to check or to time.")
        return
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
        print(
            "No CUDA device: the kernels are checked under Triton's interpreter at a tiny size, nothing is timed."
        )
        sys.exit(0 if all(row["right"] for row in check(1, 32, "cpu")) else 1)
    import triton

    from reincli.ops.deformable import triton_reason

    device = torch.device("cuda", torch.cuda.current_device())
    print(f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}, Triton {triton.__version__}")
    if reason := triton_reason(device, WIDTH, torch.bfloat16):
        print(f"The kernels do not run here: {reason}.")
        return
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        False  # the plain form is the judge
    )
    checked = [row for batch, side in ((3, 96), (4, 512), (1, 1024)) for row in check(batch, side, "cuda")]
    timed = time_all(given.repeats)
    swept = sweep(given.repeats) if given.sweep else []
    if given.json:
        about = {
            "device": torch.cuda.get_device_name(device),
            "torch": torch.__version__,
            "triton": triton.__version__,
        }
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({**about, "checked": checked, "timed": timed, "swept": swept}, file, indent=1)
    sys.exit(0 if all(row["right"] for row in checked) else 1)


if __name__ == "__main__":
    main()
