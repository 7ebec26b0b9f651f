"""A small backbone learns to see from generated worlds: dense supervision, no photograph, no street of `streets`.

The pictures are lit and degraded at random (night, fog, rain, snow, noise, blur, colour), what is asked is not: depth,
normal, albedo, edges and which cells belong together are those of the world itself. So the features learn to look
through weather and light. What things are called is not asked: that is for the head and the adapters to learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reincli.config import PretrainSettings
from reincli.engine.device import autocast
from reincli.engine.weight_files import read_file, write_file
from reincli.errors import ReinError
from reincli.generated.world_light import Worlds, draw_worlds
from reincli.generated.world_parts import FAR
from reincli.model.backbones import build_backbone
from reincli.model.dense_heads import DenseHeads, DenseLosses, Truth
from reincli.model.segmentor import MEAN, STD
from reincli.training.optim import set_learning_rate

LATE = 0.75
"""Share of the steps on worlds of half the side; the rest sees the whole side."""
COMPARED = 128
"""Cells of a world that are told apart by their surfaces."""


@dataclass
class PretrainLog:
    """Means since the last log: loss parts, share of cells whose likest cell is of the same surface."""

    step: int
    parts: dict[str, float]


class Pretraining:
    """A run: backbone and read-outs, optimiser, generator of worlds, and at which step it stands.

    Args:
        settings: of the run. device, precision: where and how ('fp32', 'bf16').
    """

    def __init__(self, settings: PretrainSettings, device: torch.device, precision: str) -> None:
        self.settings, self.device, self.precision = settings, device, precision
        patch = settings.backbone.patch_size
        if settings.side % (2 * patch) or patch % settings.cells:
            raise ReinError(
                f"The side {settings.side} must be a multiple of twice the patch ({patch}), and the patch of "
                f"cells ({settings.cells}).",
                f"For example a side of {max(1, settings.side // (2 * patch)) * 2 * patch}.",
                usage=True,
            )
        torch.manual_seed(settings.seed)
        self.backbone = build_backbone(settings.backbone, settings.side // patch)
        self.heads = DenseHeads(self.backbone.widths[0], settings.cells)
        self.model = nn.ModuleDict({"backbone": self.backbone, "heads": self.heads}).to(device).train()
        decays = [p for p in self.model.parameters() if p.ndim > 1]
        spared = [p for p in self.model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decays, "weight_decay": settings.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=True)
        self.generator = torch.Generator(device).manual_seed(settings.seed)
        self.mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(STD, device=device).view(1, 3, 1, 1)
        self.step_number = 0

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to 0."""
        settings, step = self.settings, self.step_number
        if step < settings.warmup:
            return settings.lr * (step + 1) / settings.warmup
        share = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
        return settings.lr * 0.5 * (1 + math.cos(share * math.pi))

    def draw(self) -> Worlds:
        """The next batch: as many patches in every step."""
        settings = self.settings
        side = settings.side if self.step_number >= LATE * settings.steps else settings.side // 2
        batch = max(1, settings.tokens * settings.backbone.patch_size**2 // side**2)
        return draw_worlds(self.generator, max(1, batch // settings.lights), side, settings.lights)

    def step(self) -> DenseLosses:
        """One step of AdamW on the next worlds."""
        worlds = self.draw()
        settings = self.settings
        step = settings.backbone.patch_size // settings.cells
        truth = truth_of(worlds, step, self.generator, settings.lights)
        set_learning_rate(self.optimizer, self.learning_rate())
        with autocast(self.precision, self.device):
            maps = self.backbone((worlds.image - self.mean) / self.std)
            losses: DenseLosses = self.heads(maps, truth)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step_number += 1
        return losses

    # --- files ---------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Everything needed to go on."""
        write_file(path, {"step": self.step_number, "settings": self.settings.model_dump_json(),
                          "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                          "generator": self.generator.get_state()})  # fmt: skip

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            ReinError: the file belongs to another run.
        """
        state = read_file(path)
        if state.get("settings") != self.settings.model_dump_json():
            raise ReinError(
                f"'{path}' belongs to a pretraining with other settings.",
                "Ask for the same settings, or write to another file: it goes on from this one alone.",
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.step_number = state["step"]

    def export(self, path: Path) -> None:
        """Write the backbone alone, in half precision and in DINOv2's names."""
        state = {name: value.detach().half().cpu() for name, value in self.backbone.body.state_dict().items()}
        write_file(path, state)


def truth_of(worlds: Worlds, step: int, generator: torch.Generator, lights: int = 1) -> Truth:
    """What the read-outs are asked, at every `step`-th pixel; the generator picks the cells that are compared.

    Args:
        lights: as `draw_worlds` was given it.
    """
    start = step // 2
    surface = worlds.surface[:, start::step, start::step]
    edge = torch.zeros_like(surface, dtype=torch.float32)
    edge[:, :, :-1] = (surface[:, :, 1:] != surface[:, :, :-1]).float()
    edge[:, :-1] = edge[:, :-1].maximum((surface[:, 1:] != surface[:, :-1]).float())

    def thin(values: torch.Tensor) -> torch.Tensor:
        return values[..., start::step, start::step]

    depth = torch.log1p(thin(worlds.depth)) / math.log1p(FAR)
    cells = surface[0].numel()
    compared = torch.randint(cells, (min(COMPARED, cells),), generator=generator, device=surface.device)
    return Truth(
        surface, compared, depth[:, None], thin(worlds.normal), thin(worlds.albedo), edge[:, None], lights
    )


def pretrain(
    run: Pretraining, path: Path, *, log_every: int = 50, save_every: int = 250,
    on_step: Callable[[], None] | None = None, on_log: Callable[[PretrainLog], None] | None = None,
) -> None:  # fmt: skip
    """Train to the end, saving beside `path`, and export there.

    Args:
        run: new or resumed. path: of the backbone, `.safetensors` or `.pth`.
        log_every, save_every: steps.
        on_step: called after each step. on_log: called with the means since the last log.
    """
    unfinished = unfinished_of(path)
    names = [field.name for field in fields(DenseLosses)]
    sums = torch.zeros(len(names), device=run.device)
    try:
        while run.step_number < run.settings.steps:
            losses = run.step()
            sums += torch.stack([getattr(losses, name).detach() for name in names])
            if on_step is not None:
                on_step()
            if run.step_number % log_every == 0:
                means = dict(zip(names, (sums / log_every).tolist(), strict=True))
                if on_log is not None:
                    on_log(PretrainLog(run.step_number, means))
                sums.zero_()
            if run.step_number % save_every == 0:
                run.save(unfinished)
    except KeyboardInterrupt:
        run.save(unfinished)
        raise
    run.export(path)
    unfinished.unlink(missing_ok=True)


def unfinished_of(path: Path) -> Path:
    """Where the state of an unfinished run lies."""
    return path.with_name(f"{path.stem}.unfinished.pth")
