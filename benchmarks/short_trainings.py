"""Heads, or what trains in the backbone, on the demo's streets: scores and CPU time of short trainings.

    python benchmarks/short_trainings.py heads --out short/heads
    python benchmarks/short_trainings.py tunes --out short/tunes --val 32 --targets 24 --seeds 5

Generated streets of `rein demo` and its preset; `OMP_NUM_THREADS=1` for one thread. Each training is scored half-way
and at the end; a finished one is not trained again. Scores are mIoU in percent over the classes that occur, mean and
standard deviation over seeds. CPU seconds are of training with its data, in one process, without scoring.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

TARGETS = ("night", "fog", "rain", "snow")
PLAIN = ("model.head.kind=plain", "model.head.plain.heads=4")
HALF_RATE = ("optim.factors.backbone=0.5",)
COMPARED = {
    "heads": {
        "Mask2Former, 64 wide": ("model.head.kind=mask2former",),
        "plain, 64 wide": (*PLAIN, "model.head.plain.channels=64"),
        "plain, 192 wide (the backbone's)": PLAIN,
    },
    "tunes": {
        "head alone": ("model.tune=frozen",),
        "Rein": ("model.tune=rein",),
        "SoMA": ("model.tune=soma", *HALF_RATE),
        "RecycleLoRA": ("model.tune=recycle", *HALF_RATE, "optim.factors.sub=0.5"),
        "Rein and SoMA": ("model.tune=rein+soma", *HALF_RATE),
    },
}
"""Settings over those of the preset, by what they are called."""
STREETS = 72
"""To train on."""


def one(out: Path, name: str, sets: tuple[str, ...], seed: int, iterations: int) -> dict[str, Any]:
    """Train and score one model; what is done already is read from its folder."""
    from reincli.commands import demo, train

    folder = out / "work_dirs" / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}-{seed}-{iterations}"
    done, half = folder / "cpu.json", iterations // 2
    if not done.exists():
        if folder.exists():  # stopped on the way
            shutil.rmtree(folder)
        own = [f"train.seed={seed}", f"train.iterations={iterations}", f"train.checkpoint_every={half}"]
        begun = time.process_time()
        train.run(preset="demo", sets=[*sets, *own, "data.workers=0"], backbone=demo.backbone_file(out),
                  work_dir=folder, data_root=out / "data", device="cpu", precision="fp32")  # fmt: skip
        done.write_text(json.dumps(time.process_time() - begun))
    return {
        "cpu_s": json.loads(done.read_text()),
        "end": scored(out, folder / "last.pth"),
        "half": scored(out, folder / f"iter_{half}.pth"),
    }


def scored(out: Path, checkpoint: Path) -> dict[str, float]:
    """mIoU in fair weather, and the mean of the four targets."""
    from reincli.commands import evaluate
    from reincli.commands.demo_ladder import occurring

    done = checkpoint.with_suffix(".json")
    if not done.exists():
        found = evaluate.run(checkpoint, data_root=out / "data", device="cpu", precision="fp32")
        domains = {name: occurring(scores) for name, scores in found["domains"].items()}
        mean = statistics.fmean(domains[name] for name in TARGETS)
        done.write_text(json.dumps({"clear": domains["cityscapes"], "targets": mean}))
    return json.loads(done.read_text())


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """A Markdown table of what is there."""
    lines = [
        "| what differs | seeds | CPU s of a training | clear, half-way | clear, end | four targets, half-way | end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        if runs:
            scores = [
                [run[when][what] for run in runs] for what in ("clear", "targets") for when in ("half", "end")
            ]
            cells = [shown([run["cpu_s"] for run in runs], 0), *(shown(each, 1) for each in scores)]
            lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(values: list[float], digits: int) -> str:
    """'31.2 ± 0.8'."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def main() -> None:
    """Seed after seed all that are compared, the table after each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=list(COMPARED))
    parser.add_argument("--out", type=Path, required=True, help="folder of streets and trainings")
    parser.add_argument("--iterations", type=int, default=220)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--val", type=int, default=16, help="clear streets to score on")
    parser.add_argument("--targets", type=int, default=10, help="streets of each target to score on")
    parser.add_argument("--only", help="numbers of what is compared, 0 for the first: 0,2")
    given = parser.parse_args()

    from reincli.commands import demo

    demo.generate(given.out, train=STREETS, val=given.val, targets=given.targets)
    demo.convert(given.out, demo.demo_settings(given.out, given.iterations))
    names = list(COMPARED[given.what])
    chosen = [names[int(number)] for number in given.only.split(",")] if given.only else names
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for seed in range(given.seeds):
        for name in chosen:
            rows[name].append(one(given.out, name, COMPARED[given.what][name], seed, given.iterations))
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
