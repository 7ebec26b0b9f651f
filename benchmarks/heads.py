"""Both heads on the same backbones, by part of the model: CPU seconds, on generated weights.

    OMP_NUM_THREADS=1 python benchmarks/heads.py --out heads.json
    OMP_NUM_THREADS=1 python benchmarks/heads.py --rows S-512,L-512 --what training
    python benchmarks/heads.py --what operations

A row is a backbone (DINOv2 S, B, L with Rein) and the side of one square image, fp32. The plain head is as wide
as the backbone and projected to 256. Time is that of the process, not of the clock, so that other work on the machine
counts little; the least of `--runs` after one to warm up. What is measured stays in `--out`; further rows join it.
`operations` counts matrix products, convolutions and attention of an image, as `rein bench` does.
On a GPU, and by the clock: `rein bench --set model.head.kind=plain`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from reincli.bench.measure import Inference, Plan, Row, Training
from reincli.bench.speed import count_flops
from reincli.bench.stopwatch import Stopwatch, timed_adapters, watching
from reincli.config import Settings
from reincli.model.segmentor import Segmentor
from reincli.ops.parts import heard_by
from reincli.settings_files import build_settings, read_preset

CPU = torch.device("cpu")
CLASSES = 19
ROWS = ("S-512", "B-512", "L-512", "S-1024", "B-1024", "L-1024")
HEADS = {
    "Mask2Former": (),
    "plain": ("model.head.kind=plain",),
    "plain, 256 wide": ("model.head.kind=plain", "model.head.plain.channels=256"),
}
DECODERS = ("pixel decoder", "mask decoder", "plain decoder")


class CpuWatch(Stopwatch):
    """Cuts the CPU time of this process, of one thread if it has one."""

    def cut(self) -> None:
        """From here on time belongs to the innermost part."""
        self.cuts.append((self.stack[-1], time.process_time()))


def once(work: Inference | Training) -> dict[str, float]:
    """CPU seconds by part of one call."""
    inference = isinstance(work, Inference)
    model = work.predictor.model if inference else work.run.model
    watch = CpuWatch(CPU)
    if inference:
        folded = work.predictor.folded
        work.predictor.folded = timed_adapters(folded, watch)  # type: ignore[assignment]  # it has their form
    with watching(model, watch), heard_by(watch):
        watch.cut()
        work.call()
        watch.cut()
    if inference:
        work.predictor.folded = folded
    return watch.seconds()


def settings_of(row: str, head: str) -> Settings:
    """Of a backbone and size with one head."""
    letter, _, side = row.partition("-")
    backbone = (f"model.backbone.name=dinov2_{letter.lower()}", f"data.augment.crop={side}")
    sets = (*backbone, f"test.window={side}", f"test.stride={side}", *HEADS[head])
    return build_settings(read_preset("gta2citys"), sets)


def counted(row: str, head: str) -> dict[str, Any]:
    """Operations of one image and parameters of the head, by shapes alone: nothing is computed."""
    settings = settings_of(row, head)
    side = settings.data.augment.crop
    with torch.device("meta"):
        model = Segmentor(settings.model, CLASSES, side // settings.model.backbone.patch_size)
        model.eval().requires_grad_(False)
        images = torch.zeros(1, 3, side, side)
        read = model.backbone.tokens if model.plain_decoder is not None else model.backbone
        whole, backbone = count_flops(lambda: model(images)), count_flops(lambda: read(images, model.rein))
    parts = [part for name, part in model.trained_modules().items() if name.endswith("_decoder")]
    return {
        "row": row, "head": head, "what": "operations", "backbone": backbone, "decoder": whole - backbone,
        "parameters": sum(each.numel() for part in parts for each in part.parameters()),
    }  # fmt: skip


def measured(row: str, head: str, what: str, runs: int) -> dict[str, Any]:
    """Figures of one backbone and size with one head."""
    settings = settings_of(row, head)
    side = settings.data.augment.crop
    plan = Plan(settings, CPU, (what,), (1,), ("fp32",), (side, side), runs, 600.0)
    work = (Training if what == "training" else Inference)(plan, Row(what, 1, "fp32", f"{side}x{side}"))
    work.call()
    least = min((once(work) for _ in range(runs)), key=lambda found: sum(found.values()))
    return {"row": row, "head": head, "what": what, "parts_s": least}


def table(figures: list[dict[str, Any]]) -> str:
    """Markdown: a line for each row and head."""
    if figures[0]["what"] == "operations":
        columns = ["backbone, GFLOP", "head, GFLOP", "head, million parameters"]
        cells = [
            [each["backbone"] / 1e9, each["decoder"] / 1e9, each["parameters"] / 1e6] for each in figures
        ]
    else:
        names = ("backbone", "adapters", *DECODERS, "matching", "losses", "optimiser", "output", "other")
        used = [name for name in names if any(name in each["parts_s"] for each in figures)]
        columns = [*used, "head alone", "whole"]
        cells = []
        for parts in (each["parts_s"] for each in figures):
            head = sum(parts.get(name, 0.0) for name in DECODERS)
            cells.append([*(parts.get(name) for name in used), head, sum(parts.values())])
    digits = 1 if figures[0]["what"] == "operations" else 2
    lines = [f"| backbone, side | head | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for each, values in zip(figures, cells, strict=True):
        text = " | ".join("" if value is None else f"{value:.{digits}f}" for value in values)
        lines.append(f"| {each['row'].replace('-', ', ')} | {each['head']} | {text} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--what", choices=("inference", "training", "operations"), default="inference")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON of figures, kept and added to")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    if given.out is not None and given.out.exists():
        found = json.loads(given.out.read_text())
    for row in given.rows.split(","):
        for head in HEADS:
            if any((each["row"], each["head"], each["what"]) == (row, head, given.what) for each in found):
                continue
            operations = given.what == "operations"
            found.append(counted(row, head) if operations else measured(row, head, given.what, given.runs))
            if given.out is not None:
                given.out.write_text(json.dumps(found, indent=1))
    print(table([each for each in found if each["what"] == given.what]))


if __name__ == "__main__":
    main()
