"""Seconds an image of `rein eval`, from files to counts, and how much of it is not the model.

    python benchmarks/evaluate.py                    # DINOv2-L, both recipes, the precision that auto picks
    python benchmarks/evaluate.py --only s-1024x512-512-341-fp32 --images 4

A row is MODEL-WxH-WINDOW-STRIDE-PRECISION, WxH being the test size. The images are generated streets, PNG of 2048x1024
as Cityscapes has them; weights are random, which changes no work. Each row runs in a process of its own, so that its
peak memory is its own; the matrix rate is measured there too, right before. "Outside" by the clock is the part of the
evaluation in which no window is in the model (reading and counting run beside it); "cores" is what all else takes of
the time of all cores, measured with the model's answers already at hand.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rows  # in this folder

ROWS = ("l-1024x512-512-341-auto", "l-2048x1024-1024-683-auto")
FILE_SIZE = (2048, 1024)


def timed(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds of a call: by the clock, and of all cores together."""
    import torch

    begun, start = time.process_time(), time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - begun


def write_streets(folder: Path, count: int) -> None:
    """Images and labels as Cityscapes keeps them."""
    from reincli.data.labels import IGNORE, LABEL_IDS, table_to_indices
    from reincli.generated.streets import generate
    from reincli.media.images import write_png

    table = table_to_indices(LABEL_IDS, other=IGNORE)
    for index in range(count):
        image, label = generate(index, "clear", FILE_SIZE)
        write_png(folder / f"cityscapes/leftImg8bit/val/a/a_{index}_leftImg8bit.png", image)
        write_png(folder / f"cityscapes/gtFine/val/a/a_{index}_gtFine_labelTrainIds.png", table[label])


def measure(row: str, device: str, images: int, batch: int | None) -> dict[str, Any]:
    """One row, in this process."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from reincli.bench.speed import matrix_rate
    from reincli.data.dataset import EvalDataset
    from reincli.data.labels import CITYSCAPES
    from reincli.data.sources import label_table
    from reincli.engine.checkpoint import build_model
    from reincli.engine.device import peak_memory, pick_precision
    from reincli.prediction.evaluate import evaluate, val_samples
    from reincli.prediction.predict import Predictor
    from reincli.settings_files import build_settings, read_preset

    size, test, window, stride, precision = row.split("-")
    place = torch.device(device)
    precision = pick_precision(precision, place)
    rate = matrix_rate(precision, place)
    torch.manual_seed(0)
    preset = {"s": "gta2citys-vit_s", "b": "gta2citys-vit_b", "l": "gta2citys"}[size]
    with tempfile.TemporaryDirectory() as name:
        write_streets(Path(name), images)
        options = {"test.window": int(window), "test.stride": int(stride), "test.window_batch": batch}
        options |= {"data.root": name, "data.val": ["cityscapes:val"], "test.sizes": {"cityscapes": test}}
        options["data.augment.crop"] = int(window)
        settings = build_settings(read_preset(preset), (), options)
        predictor = Predictor(build_model(settings, len(CITYSCAPES)), CITYSCAPES, settings, place, precision)
        samples = val_samples(settings)
        table = {"cityscapes": label_table("cityscapes", settings.data)}
        image = EvalDataset(samples, table, settings)[0]["images"][0]
        with FlopCounterMode(display=False) as counter:
            predictor.class_maps(image)  # warms, too
        forward, inside, kept = predictor._forward, [0.0], {}

        def watched(windows: torch.Tensor) -> torch.Tensor:
            def pass_through() -> None:
                kept[tuple(windows.shape)] = forward(windows)

            inside[0] += timed(pass_through, device)[0]
            return kept[tuple(windows.shape)]

        predictor._forward = watched  # type: ignore[method-assign]
        whole = timed(lambda: evaluate(predictor, samples), device)
        predictor._forward = lambda windows: kept[tuple(windows.shape)]  # type: ignore[method-assign]
        outside = timed(lambda: evaluate(predictor, samples), device)
    flops = counter.get_total_flops()
    return {
        "row": row.replace("auto", precision),
        "seconds": whole[0] / images,
        "model_seconds": inside[0] / images,
        "outside_clock": 1 - inside[0] / whole[0],
        "outside_cores": outside[1] / whole[1] if device == "cpu" else None,
        "gflop": flops / 1e9,
        "matrix_gflops": rate / 1e9,
        "share": flops / (whole[0] / images) / rate,
        "peak_gib": peak_memory(place) / 2**30,
    }


def line(figures: dict[str, Any]) -> str:
    """A row of the table."""
    cores = figures["outside_cores"]
    return (
        f"{figures['row']:<28} {figures['seconds']:>8.2f} {figures['model_seconds']:>8.2f} "
        f"{figures['outside_clock']:>8.1%} {'' if cores is None else f'{cores:.1%}':>6} {figures['gflop']:>7.0f} "
        f"{figures['matrix_gflops']:>16.0f} {figures['share']:>6.0%} {figures['peak_gib']:>9.2f}"
    )


def main() -> None:
    """Run rows and print a table."""
    parser = rows.options(__doc__, ROWS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--window-batch", type=int, help="windows in one pass; else by memory")
    given = parser.parse_args()
    heading = (
        f"{'row':<28} {'s/image':>8} {'model s':>8} {'outside':>8} {'cores':>6} {'GFLOP':>7} "
        f"{'GFLOP/s at best':>16} {'share':>6} {'peak GiB':>9}"
    )
    rows.run(
        given,
        ROWS,
        lambda row: measure(row, given.device, given.images, given.window_batch),
        line,
        heading,
    )


if __name__ == "__main__":
    main()
