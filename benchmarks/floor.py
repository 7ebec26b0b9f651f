"""How far the whole model is above the bare backbone: ours beside the backbone alone through timm, in one run.

    python benchmarks/floor.py                       # DINOv2-S and -L at 512
    python benchmarks/floor.py --only vit_s --precisions fp32,bf16 --threads 1,2 --runs 7
    python benchmarks/floor.py --json floor.json

Weights are random, images too. Both are compared in turns, call by call, so that what the machine does beside them
falls on both; seconds are those of the clock, the least of the runs and their median. The ratio is of the medians. On a
machine that others keep busy `--clock cpu` counts the processor's seconds of this process instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = {
    "vit_s": ("gta2citys-vit_s", "vit_small_patch14_dinov2"),
    "vit_b": ("gta2citys-vit_b", "vit_base_patch14_dinov2"),
    "vit_l": ("gta2citys", "vit_large_patch14_dinov2"),
}
"""Size -> preset, and timm's name of the backbone."""
SIDE, PATCH = 512, 16
Row = dict[str, Any]


def calls(size: str, precision: str) -> dict[str, Callable[[], object]]:
    """What is timed: the backbone through timm, and the whole model from pixels to labels."""
    import torch

    from reincli.data.labels import CITYSCAPES
    from reincli.engine.checkpoint import build_model
    from reincli.engine.device import autocast
    from reincli.model.timm_import import import_timm
    from reincli.prediction.predict import Predictor
    from reincli.settings_files import load_settings

    cpu, timm = torch.device("cpu"), import_timm()
    torch.manual_seed(0)
    preset, name = NAMES[size]
    settings = load_settings(preset, None)
    bare = timm.create_model(
        name, img_size=SIDE, patch_size=PATCH, num_classes=0, dynamic_img_size=False
    ).eval()
    model = build_model(settings, len(CITYSCAPES.names))
    predictor = Predictor(model, CITYSCAPES, settings, cpu, precision)
    images = torch.rand(1, 3, SIDE, SIDE)
    picture = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)

    def backbone() -> object:
        with torch.inference_mode(), autocast(precision, cpu):
            return bare.forward_features(images)

    return {"backbone": backbone, "model": lambda: predictor.labels_of([picture], "whole")}


def measured(size: str, precision: str, threads: int, runs: int, clock: Callable[[], float]) -> Row:
    """A row: each call `runs` times, in turns."""
    import torch

    torch.set_num_threads(threads)
    timed = calls(size, precision)
    found: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(runs + 1):
        for name, call in timed.items():
            begun = clock()
            call()
            if turn:  # the first builds what is kept
                found[name].append(clock() - begun)
    row: Row = {"size": size, "precision": precision, "threads": threads}
    for name, seconds in found.items():
        row |= {name: statistics.median(seconds), f"{name}_least": min(seconds)}
    return row | {"ratio": row["model"] / row["backbone"]}


def main() -> None:
    """Print the table as its rows come."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--only", default="vit_s,vit_l", help=f"of {', '.join(NAMES)}, separated by commas")
    asked.add_argument("--precisions", default="fp32")
    asked.add_argument("--threads", default="1")
    asked.add_argument("--runs", type=int, default=5)
    asked.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    asked.add_argument("--json", type=Path)
    args = asked.parse_args()
    import torch

    from reincli.bench.speed import describe

    clock = time.perf_counter if args.clock == "wall" else time.process_time
    print(describe(torch.device("cpu"))["name"].split(",")[0], torch.backends.cpu.get_cpu_capability())
    print("| DINOv2 at 512 | threads | backbone by timm, s | whole model, s | ratio | least of both, s |")
    print("|---|---|---|---|---|---|", flush=True)
    rows: list[Row] = []
    for size in args.only.split(","):
        for precision in args.precisions.split(","):
            for threads in args.threads.split(","):
                row = measured(size, precision, int(threads), args.runs, clock)
                rows.append(row)
                print(
                    f"| {size} {precision} | {threads} | {row['backbone']:.2f} | {row['model']:.2f} | "
                    f"{row['ratio']:.2f} | {row['backbone_least']:.2f}, {row['model_least']:.2f} |",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
