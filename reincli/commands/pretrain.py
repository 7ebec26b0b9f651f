"""`rein pretrain`: make the small backbone that `rein demo` starts from, or another one like it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from reincli.commands import console
from reincli.config import PretrainSettings
from reincli.engine.device import pick_device, pick_precision
from reincli.errors import ReinError
from reincli.media.outputs import Outputs, at_work_on
from reincli.training.pretrain import Pretraining, PretrainLog, pretrain, unfinished_of


def run(
    target: Path | None = None,
    *,
    steps: int | None = None,
    tokens: int | None = None,
    lights: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    force: bool = False,
) -> Path:
    """Train on generated worlds and write the backbone; an unfinished run of the same settings goes on.

    Args:
        target: `.safetensors` or `.pth`; None: `checkpoints/mini.safetensors`.
        steps, tokens, lights, seed: over the defaults, which made the file that is shipped.
        device, precision: as in `rein train`.
        force: write over a file that is there.

    Raises:
        ReinError: the file is there, its ending is unknown, or the unfinished run has other settings.
    """
    target = target or Path("checkpoints") / "mini.safetensors"
    if target.suffix not in (".safetensors", ".pth"):
        raise ReinError(
            f"'{target}' must end in .safetensors or .pth.",
            f"For example: {target.stem}.safetensors",
            usage=True,
        )
    if target.exists() and not force:
        raise ReinError(f"'{target}' is there already.", "Give another name, or --force.", usage=True)
    outputs = Outputs("pretrain", [])
    outputs.claim(target, replace=force)
    outputs.protect(target)  # an unfinished run that is a link to it
    outputs.claim(unfinished_of(target), replace=True)
    given = {"steps": steps, "tokens": tokens, "lights": lights, "seed": seed}
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = PretrainSettings(**chosen)  # type: ignore[arg-type]
    with at_work_on("pretrain", target):
        return pretrain_into(target, settings, device, precision)


def pretrain_into(target: Path, settings: PretrainSettings, device: str, precision: str) -> Path:
    """Go on with what lies unfinished beside the target, or begin."""
    place = pick_device(device)
    arithmetic = pick_precision(precision, place)
    if arithmetic == "fp16":
        if precision != "auto":
            raise ReinError(
                "Precision fp16 is not for pretraining: its gradients are not scaled, and vanish in fp16.",
                "Use --precision fp32, or bf16 on a GPU that has it.",
                usage=True,
            )
        arithmetic = "fp32"
    made = Pretraining(settings, place, arithmetic)
    unfinished = unfinished_of(target)
    if unfinished.exists():
        made.resume(unfinished)
        console.note(f"Going on at step {made.step_number} of {settings.steps} ('{unfinished}').")
    introduce(made)
    begun = time.perf_counter()
    with console.progress("Pretraining", total=settings.steps - made.step_number) as advance:
        try:
            pretrain(made, target, on_step=lambda: advance(1), on_log=lambda entry: console.note(line(entry)))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Saved at step {made.step_number}; the same command goes on from there."
            ) from None
    size = target.stat().st_size / 1e6
    console.result(f"{target} ({size:.1f} MB) after {console.duration(time.perf_counter() - begun)}")
    return target


def introduce(made: Pretraining) -> None:
    """What is about to be trained."""
    settings, backbone = made.settings, made.backbone
    count = sum(p.numel() for p in made.backbone.parameters())
    worlds = max(1, settings.tokens * settings.backbone.patch_size**2 // settings.side**2 // settings.lights)
    console.note(
        f"ViT of {count:,} parameters ({sum(backbone.banks)} blocks of {backbone.widths[0]}, "
        f"patches of {settings.backbone.patch_size}); "
        f"{settings.steps} steps of {4 * worlds} worlds of {settings.side // 2} pixels, at the end of {worlds} of "
        f"{settings.side}, each in {settings.lights} light(s); {made.device}, {made.precision}"
    )


def line(entry: PretrainLog) -> str:
    """One log line."""
    parts: dict[str, Any] = {name: f"{value:.3f}" for name, value in entry.parts.items() if name != "right"}
    shown = "  ".join(f"{name} {value}" for name, value in parts.items())
    return f"{entry.step:6d}  {shown}  neighbours right {100 * entry.parts['right']:.1f} %"
