"""Speed and memory of inference and of a training step, as a share of what the machine multiplies at best.

    python benchmarks/model.py                    # S and L, every precision that makes sense here
    python benchmarks/model.py --only infer-s-fp32,train-s-fp32 --json figures.json

Weights are random (they do not change the work). Each row runs in a process of its own, so that its peak memory is
its own; the matrix rate is measured in the same process, right before. Medians after a warm-up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import rows  # in this folder

ROWS = [
    f"{work}-{size}-{precision}"
    for work, size in (("infer", "s"), ("infer", "l"), ("train", "s"))
    for precision in ("fp32", "bf16")
] + ["train-s-fp32-recompute", "deformable-plain", "deformable-sparse"]


def median_seconds(call: Callable[[], object], device: str, repeats: int) -> float:
    """Median time of a call after one warm-up, the device's queue emptied around each."""
    import torch

    def sync() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    call()
    times = []
    for _ in range(repeats):
        sync()
        start = time.perf_counter()
        call()
        sync()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matrix_rate(precision: str, device: str) -> float:
    """FLOP/s of a large square matrix product: what the machine can do at best."""
    import torch

    from reincli.engine.device import DTYPES

    side = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: left @ right, device, 5)


def model_row(row: str, device: str, repeats: int) -> dict[str, float | str]:
    """Inference of one 512x512 image, or one training step on one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from reincli.data.labels import CITYSCAPES
    from reincli.engine.checkpoint import build_model
    from reincli.engine.device import DTYPES, peak_memory
    from reincli.engine.optim import build_optimizer
    from reincli.engine.predict import Predictor
    from reincli.engine.run import Run
    from reincli.engine.train import train_step
    from reincli.model.weights import half_precision
    from reincli.settings_files import build_settings, read_preset

    work, size, precision, *rest = row.split("-")
    variant = rest[0] if rest else ""
    torch.manual_seed(0)
    settings = build_settings(read_preset(f"gta2citys{'-vit_s' if size == 's' else ''}"))
    model = build_model(settings, 19)
    rate = matrix_rate(precision, device)
    place = torch.device(device)
    if work == "infer":
        predictor = Predictor(model, CITYSCAPES, settings, place, precision)
        image = torch.randint(0, 256, (3, 512, 512), dtype=torch.uint8)

        def call() -> object:
            return predictor.class_maps(image, "whole").argmax(0).cpu()
    else:
        model.to(place).train()
        if precision != "fp32":
            half_precision(model.backbone, DTYPES[precision])
        scaler = torch.amp.GradScaler(device, enabled=False)
        optimizer = build_optimizer(model, settings.optim)
        model.recompute = variant == "recompute"
        run = Run(settings, Path(), model, model, CITYSCAPES, optimizer, scaler, place, precision, 1)
        batch = {
            "image": torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8),
            "label": torch.randint(0, 12, (1, 32, 32))
            .to(torch.uint8)
            .kron(torch.ones(16, 16, dtype=torch.uint8)),
            "size": torch.tensor([[512, 512]]),
        }

        def call() -> object:
            return train_step(run, [batch])

    with FlopCounterMode(display=False) as counter:
        call()
    seconds = median_seconds(call, device, repeats)
    flops = counter.get_total_flops()
    return {
        "row": row,
        "seconds": seconds,
        "gflop": flops / 1e9,
        "matrix_gflops": rate / 1e9,
        "share": flops / seconds / rate,
        "peak_gib": peak_memory(place) / 2**30,
    }


def deformable_row(row: str, device: str, repeats: int) -> dict[str, float | str]:
    """One layer's deformable attention, forward and backward, at the sizes of a 512x512 image."""
    import torch

    from reincli.ops import deformable

    form = {"plain": deformable.sample_plain, "sparse": deformable.sample_sparse}[row.split("-")[1]]
    shapes = [(16, 16), (32, 32), (64, 64)]
    value = torch.randn(1, 5376, 8, 32, device=device, requires_grad=True)
    locations = torch.rand(1, 5376, 8, 3, 4, 2, device=device).requires_grad_()
    weights = torch.rand(1, 5376, 8, 3, 4, device=device).requires_grad_()
    grad = torch.randn(1, 5376, 256, device=device)

    def call() -> object:
        return torch.autograd.grad(form(value, shapes, locations, weights), (value, locations, weights), grad)

    return {"row": row, "seconds": median_seconds(call, device, repeats)}


def measure(row: str, device: str, repeats: int) -> dict[str, float | str]:
    """One row, in this process."""
    return (deformable_row if row.startswith("deformable") else model_row)(row, device, repeats)


def line(figures: dict[str, float | str]) -> str:
    """A row of the table."""
    shown = f"{figures['row']:<22} {figures['seconds']:>7.3f}"
    if "share" in figures:
        shown += f" {figures['gflop']:>8.0f} {figures['matrix_gflops']:>16.0f} {figures['share']:>6.0%}"
        shown += f" {figures['peak_gib']:>9.2f}"
    return shown


def main() -> None:
    """Run rows and print a table."""
    parser = rows.options(__doc__, ROWS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    heading = f"{'row':<22} {'s':>7} {'GFLOP':>8} {'GFLOP/s at best':>16} {'share':>6} {'peak GiB':>9}"
    rows.run(given, ROWS, lambda row: measure(row, given.device, given.repeats), line, heading)


if __name__ == "__main__":
    main()
