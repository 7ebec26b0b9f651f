"""Where the time of training goes, with data and all: images a second, memory, share outside the model.

    python benchmarks/training.py                          # the demo's model on the demo's data, CPU
    python benchmarks/training.py --gpu --json figures.json  # L at 512 x 4 and 1024 x 2 on a CUDA GPU

The first form makes the generated streets of `rein demo`, trains on them with the real loader, and tells the share of
time that is spent neither in the model nor in the losses nor in the optimiser (waiting for data, copying, logging). The
second trains on random crops in memory: bf16 against fp32, compiled or not, activations kept or worked out again.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import rows  # in this folder

GPU_ROWS = [
    f"{crop}-{batch}-{precision}-{form}"
    for crop, batch in ((512, 4), (1024, 2))
    for precision, form in (
        ("fp32", "plain"), ("bf16", "plain"), ("bf16", "recompute"), ("bf16", "compile"),
    )
]  # fmt: skip


def demo_row(steps: int) -> dict[str, Any]:
    """The demo's training with its loader: seconds a step, and the share of time outside `train_step`."""
    import torch

    from reincli.commands.demo import backbone_file, convert, demo_settings
    from reincli.data.prepare import prepare
    from reincli.data.scenes import write_scenes
    from reincli.engine import train as engine
    from reincli.engine.run import prepare_run
    from reincli.engine.run_folder import start_folder

    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        settings = demo_settings(out, steps)
        write_scenes(out / "data", train=40, val=1, targets=1, seed=0, workers=2)
        for dataset in ("cityscapes", "acdc"):
            prepare(dataset, out / "data" / dataset)
        convert(out, settings)
        start_folder(out / "run", settings)
        run = prepare_run(
            settings, out / "run", device=torch.device("cpu"), precision="fp32", backbone=backbone_file(out)
        )
        inside, step = 0.0, engine.train_step

        def timed(*given: Any) -> Any:
            nonlocal inside
            begun = time.perf_counter()
            result = step(*given)
            inside += time.perf_counter() - begun
            return result

        engine.train_step = timed
        begun = time.perf_counter()
        engine.train(run)
        passed = time.perf_counter() - begun
    return {"row": "demo-cpu", "step_s": passed / steps, "outside": 1 - inside / passed}


def gpu_row(row: str, steps: int) -> dict[str, Any]:
    """Images a second and peak memory of DINOv2-L on random crops."""
    import torch

    from reincli.data.labels import CITYSCAPES
    from reincli.engine.checkpoint import build_model
    from reincli.engine.device import DTYPES
    from reincli.engine.optim import build_optimizer
    from reincli.engine.run import Run
    from reincli.engine.train import train_step
    from reincli.model.weights import half_precision
    from reincli.settings_files import build_settings, read_preset

    crop, batch, precision, form = row.split("-")
    size, count, device = int(crop), int(batch), torch.device("cuda")
    preset = "gta2citys" if size == 512 else "citys2acdc"
    settings = build_settings(read_preset(preset), ["model.backbone.weights='random'"])
    torch.manual_seed(0)
    model = build_model(settings, 19).to(device).train()
    model.recompute = form == "recompute"
    if precision != "fp32":
        half_precision(model.backbone, DTYPES[precision])
    network = torch.compile(model, dynamic=False) if form == "compile" else model
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    optimizer = build_optimizer(model, settings.optim)
    run = Run(settings, Path(), model, network, CITYSCAPES, optimizer, scaler, device, precision, count)  # type: ignore[arg-type]
    blocks = torch.randint(0, 12, (count, size // 32, size // 32), dtype=torch.uint8)
    slices = [
        {
            "image": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8).pin_memory(),
            "label": blocks.repeat_interleave(32, 1).repeat_interleave(32, 2).contiguous().pin_memory(),
            "size": torch.tensor([[size, size]] * count),
        }
    ]
    for _ in range(5):
        train_step(run, slices)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    for _ in range(steps):
        train_step(run, slices)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - begun) / steps
    return {
        "row": row,
        "step_s": seconds,
        "images_per_s": count / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def line(figures: dict[str, Any]) -> str:
    """What was measured, by name."""
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in figures.items())


def main() -> None:
    """Run the rows and print a line each."""
    parser = rows.options(__doc__, GPU_ROWS)
    parser.add_argument("--gpu", action="store_true", help="DINOv2-L on a CUDA GPU instead of the demo")
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()

    def measure(row: str) -> dict[str, Any]:
        return demo_row(given.steps) if row == "demo-cpu" else gpu_row(row, given.steps)

    rows.run(given, GPU_ROWS if given.gpu else ["demo-cpu"], measure, line)


if __name__ == "__main__":
    main()
