"""Where the time of training goes, with data and all: seconds a step, share outside the model.

    python benchmarks/training.py

Makes the generated streets of `rein demo`, trains on them with the real loader on the CPU, and tells the share of time
that is spent neither in the model nor in the losses nor in the optimiser (waiting for data, copying, logging). Training
from memory, part by part: `rein bench --what training`; on a GPU: `benchmarks/gpu.py`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import rows  # in this folder

ROW = "demo-cpu"


def demo_row(steps: int) -> dict[str, Any]:
    """The demo's training with its loader: seconds a step, and the share of time outside `train_step`."""
    import torch

    from reincli.commands.demo import backbone_file, convert, demo_settings, generate
    from reincli.training import train as engine
    from reincli.training.run import prepare_run
    from reincli.training.run_folder import start_folder

    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        settings = demo_settings(out, steps)
        generate(out, train=40, val=1, targets=1)
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
    return {"row": ROW, "step_s": passed / steps, "outside": 1 - inside / passed}


def line(figures: dict[str, Any]) -> str:
    """What was measured, by name."""
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in figures.items())


def main() -> None:
    """Run the row and print a line."""
    parser = rows.options(__doc__, [ROW])
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    rows.run(given, [ROW], lambda row: demo_row(given.steps), line)


if __name__ == "__main__":
    main()
