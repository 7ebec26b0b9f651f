"""Tiny settings, models and files for tests of logic: seconds, not minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from reincli.config import Settings
from reincli.data.sources import classes_of
from reincli.engine.checkpoint import build_model, checkpoint_content
from reincli.engine.weight_files import write_file
from reincli.media.images import write_png
from reincli.model.segmentor import Segmentor
from reincli.settings_files import build_settings

RAW: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "backbone": {"name": "vit", "width": 32, "depth": 4, "heads": 2},
        "adapter": {"tokens": 12, "rank": 4},
        "head": {"queries": 12, "channels": 32, "heads": 4, "points": 2, "pixel_layers": 1, "pixel_ffn": 32,
                 "decoder_layers": 3, "decoder_ffn": 32},
    },
    "data": {"augment": {"crop": 64, "short_side": 64, "long_side_max": 256}, "workers": 0},
    "train": {"iterations": 6, "batch_size": 2, "log_every": 2, "checkpoint_every": 3, "validate_every": 100,
              "precision": "fp32", "points": 256},
    "test": {"window": 64, "stride": 43},
}  # fmt: skip

COLORS = [[128, 64, 128], [70, 130, 180], [70, 70, 70]]


def settings(*sets: str, data: dict[str, Any] | None = None) -> Settings:
    """Tiny settings, changed by 'KEY=VALUE' pairs."""
    raw = {**RAW, "data": {**RAW["data"], **(data or {})}}
    return build_settings(raw, sets)


def own_data(root: Path, splits: tuple[str, ...] = ("train", "val")) -> dict[str, Any]:
    """The `data` table of an own dataset of three classes under `root`."""
    return {
        "root": str(root),
        "train": [f"toy:{splits[0]}"],
        "val": [f"toy:{split}" for split in splits[1:]],
        "own": {
            "toy": {
                "root": str(root),
                "classes": [
                    {"name": n, "color": c} for n, c in zip(["road", "sky", "wall"], COLORS, strict=True)
                ],
                "splits": {
                    split: {"images": f"images/{split}", "labels": f"labels/{split}"} for split in splits
                },
            }
        },
    }


def write_toy(
    root: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 3, size: tuple[int, int] = (64, 96)
) -> None:
    """Pictures of three classes: sky above, road below, a wall somewhere."""
    rng = np.random.default_rng(0)
    for split in splits:
        for index in range(count):
            label = np.full(size, 1, np.uint8)
            label[size[0] // 2 :] = 0
            left = int(rng.integers(0, size[1] // 2))
            label[size[0] // 4 : size[0] * 3 // 4, left : left + size[1] // 4] = 2
            image = np.asarray(COLORS, np.uint8)[label] // 2 + rng.integers(0, 120, (*size, 3), np.uint8)
            write_png(root / "images" / split / f"{index}.png", image)
            write_png(root / "labels" / split / f"{index}.png", label)


def model(chosen: Settings) -> Segmentor:
    """A model with seeded random weights."""
    torch.manual_seed(0)
    return build_model(chosen, len(classes_of(chosen.data)))


def write_backbone(path: Path, chosen: Settings, prefix: str = "") -> None:
    """The backbone's weights as a raw file."""
    state = model(chosen).backbone.body.state_dict()
    write_file(path, {prefix + name: value for name, value in state.items()})


def write_checkpoint(path: Path, chosen: Settings) -> None:
    """A checkpoint of adapters and head."""
    write_file(path, checkpoint_content(model(chosen), chosen, classes_of(chosen.data), 0, None))
