"""Generated weights, images and labels of the reference figures, by the rule that made them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reincli.config import ModelSettings
from reincli.model.families import FAMILIES
from reincli.model.mask_decoder import MaskDecoder
from reincli.model.segmentor import Segmentor
from reincli.model.weights import backbone_to_ours, from_original, to_original


def normal(key: int | str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers from a name or a number, float32."""
    seed = zlib.crc32(key.encode()) if isinstance(key, str) else key
    rng = np.random.Generator(np.random.Philox(key=seed))
    return rng.standard_normal(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def weight(key: str, shape: tuple[int, ...], seed_key: str | None = None) -> torch.Tensor:
    """The generated value of a parameter by its original name; `seed_key` replaces the name as the seed."""
    draw = normal(seed_key or key, shape)
    if len(shape) >= 2 and "reins" in key and key.endswith(".merge.weight"):
        draw[:, 0::3] *= np.float32(0.25)
    offset, scale = _spread(key, shape)
    if key.endswith(".running_var"):
        draw = np.abs(draw)
    return torch.from_numpy(np.asarray(np.float32(offset) + np.float32(scale) * draw))


def _spread(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    parts = key.split(".")
    last, pair = parts[-1], ".".join(parts[-2:])
    fan = float(np.prod(shape[1:])) if len(shape) > 1 else 1.0
    decoder = "transformer_decoder." in key
    rows: list[tuple[bool, float, float]] = [
        (last == "running_mean", 0.0, 0.1),
        (last == "running_var", 1.0, 0.1),
        ("reins" in parts and last == "scale", 0.1, 0.02),
        (last in ("gamma", "gamma_1", "gamma_2"), 0.1, 0.02),
        (key.endswith("learnable_tokens_a"), 0.0, float(shape[-1]) ** -0.5 if shape else 0.0),
        (key.endswith(("learnable_tokens_b", "learnable_tokens")), 0.0, 1.0),
        (
            pair
            in ("level_embed.weight", "level_encoding.weight", "query_embed.weight", "query_feat.weight"),
            0.0,
            0.5,
        ),
        (
            last in ("pos_embed", "positional_embedding", "cls_token", "class_embedding", "mask_token"),
            0.0,
            0.2,
        ),
        (key.endswith("bias"), 0.0, 0.02),
        (len(shape) == 1 and key.endswith(".weight"), 1.0, 0.1),
        (decoder and key.endswith("attn.in_proj_weight"), 0.0, 2 * fan**-0.5),
        (decoder and key.endswith(("attn.out_proj.weight", "ffn.layers.1.weight")), 0.0, 0.1 * fan**-0.5),
        (key.endswith("cls_embed.weight"), 0.0, 4 * fan**-0.5),
        (len(shape) >= 2 and key.endswith((".weight", "in_proj_weight")), 0.0, fan**-0.5),
    ]
    return next(((offset, scale) for fits, offset, scale in rows if fits), (0.0, 0.02))


def image(height: int, width: int, key: int) -> torch.Tensor:
    """A generated picture, (3, H, W) uint8 RGB (the figures were made from its BGR form)."""
    rng = np.random.Generator(np.random.Philox(key=key))
    coarse = rng.integers(0, 256, size=(3, -(-height // 32), -(-width // 32)), dtype=np.uint8)
    base = coarse.repeat(32, 1).repeat(32, 2)[:, :height, :width].astype(np.uint16)
    noise = rng.integers(0, 256, size=(3, height, width), dtype=np.uint8)
    return torch.from_numpy(((3 * base + noise) // 4).astype(np.uint8)[::-1].copy())


def label(height: int, width: int, key: int, classes: int = 19) -> torch.Tensor:
    """A generated label map, (H, W) uint8 with 255 for about a tenth of it."""
    rng = np.random.Generator(np.random.Philox(key=key))
    rows, columns = -(-height // 16), -(-width // 16)
    subset = rng.permutation(classes)[:7]
    coarse = rng.integers(0, 7, size=(-(-rows // 4), -(-columns // 4)))
    fine = rng.integers(0, 7, size=(rows, columns))
    pick = rng.random((rows, columns), dtype=np.float32)
    chosen = np.where(pick < 0.7, coarse.repeat(4, 0).repeat(4, 1)[:rows, :columns], fine)
    values = np.where(pick > 0.9, 255, subset[chosen])
    return torch.from_numpy(values.repeat(16, 0).repeat(16, 1)[:height, :width].astype(np.uint8))


def points(base: int, batch: int, positives: bool) -> Callable[[str, int, tuple[int, ...]], torch.Tensor]:
    """The figures' random points: call number j of a step gives the numbers of Philox(base + j)."""
    calls = batch + (2 if positives else 0)  # a round: one call an image to match, then two for the losses

    def uniform(call: int, shape: tuple[int, ...]) -> torch.Tensor:
        rng = np.random.Generator(np.random.Philox(key=base + call))
        return torch.from_numpy(rng.random(int(np.prod(shape)), dtype=np.float32).reshape(shape))

    def draw(use: str, round_: int, shape: tuple[int, ...]) -> torch.Tensor:
        first = round_ * calls
        if use == "match":
            return torch.cat([uniform(first + image, (1, *shape[1:])) for image in range(batch)])
        return uniform(first + batch + (use == "fresh"), shape)

    return draw


def settings_of(variant: str) -> tuple[ModelSettings, int]:
    """Model settings and crop of a variant such as 'rein_dinov2_s_512' or 'rein_resnet50_512_released'."""
    tune, rest = variant.split("_", 1)
    family = next(name for name in sorted(FAMILIES, key=len, reverse=True) if rest.startswith(name))
    crop, _, form = rest.removeprefix(f"{family}_").partition("_")
    backbone: dict[str, Any] = {"name": family}
    if family.startswith("resnet") and form != "released":
        backbone["output_stride"] = 32  # the figures also have the undilated form
    adapter = {"link_features": family not in ("clip_l", "sam_h")}
    return ModelSettings.model_validate({"tune": tune, "backbone": backbone, "adapter": adapter}), int(crop)


def on_meta(variant: str) -> Segmentor:
    """A variant without numbers: names, shapes and settings alone."""
    settings, crop = settings_of(variant)
    with torch.device("meta"):
        return Segmentor(settings, 19, crop // 16)


def original_names(model: Segmentor) -> dict[str, str]:
    """Our names of parameters -> the original's."""
    names = {}
    for name, parameter in model.named_parameters():
        (names[name],) = to_original({name: parameter}, model.backbone.layout)
    return names


def build(variant: str) -> Segmentor:
    """A variant with its generated weights."""
    model = on_meta(variant)  # the weights come from the rule: initialising them first would be wasted
    if any(buffer.is_meta for name, buffer in model.named_buffers() if name not in model.state_dict()):
        settings, crop = settings_of(variant)  # tables that are computed and not stored: rotary positions
        model = Segmentor(settings, 19, crop // 16)
    original = to_original(model.state_dict(), model.backbone.layout)
    state = {}
    for key, value in original.items():
        counts = key.endswith("num_batches_tracked")
        state[key] = torch.tensor(0) if counts else weight(key, tuple(value.shape))
    model.load_state_dict(backbone_to_ours(from_original(state), model.backbone.layout), assign=True)
    model.freeze()
    return model


def load(folder: Path, name: str) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """The stored slices of a file of figures and the notes beside them."""
    return np.load(folder / f"{name}.npz"), json.loads((folder / f"{name}.json").read_text())


def cut(array: np.ndarray, text: str) -> np.ndarray:
    """The part of a tensor that the figures store: '[::1, ::17]'."""
    steps = [int(part.split("::")[1]) for part in text.strip("[]").split(",") if part.strip()]
    return array[tuple(slice(None, None, step) for step in steps)]


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Relative L2 distance."""
    difference = np.linalg.norm(np.asarray(ours, np.float64) - np.asarray(reference, np.float64))
    return float(difference / np.linalg.norm(np.asarray(reference, np.float64)))


class Ties:
    """Attention bits that hang on rounding: counted while the model runs, and turned round on request.

    A query may look where its mask logit is >= 0. A logit within rounding of 0 falls to either side with the order of
    a sum (the number of threads), and the figures hold one outcome. `settle` finds it: the figures must be met with
    every other bit as it is.

    Attributes:
        found: (call, flat position) of each near-zero logit of the last run -> its size.
        flipped: those that the next run turns round.
    """

    WITHIN = 1e-4
    """Logits are sums of 256 products of numbers up to ten, each known to about 1e-6."""
    MOST = 5
    """A tie that lowers the error by this factor explains it."""

    def __init__(self, monkeypatch: Any) -> None:
        self.found: dict[tuple[int, int], float] = {}
        self.flipped: frozenset[tuple[int, int]] = frozenset()
        self.calls = 0
        plain = MaskDecoder._where_to_look

        def where_to_look(embedding: torch.Tensor, small_features: torch.Tensor) -> torch.Tensor:
            sizes = (embedding.detach() @ small_features).abs().flatten()
            for position in (sizes < self.WITHIN).nonzero().flatten().tolist():
                self.found[self.calls, position] = float(sizes[position])
            allowed = plain(embedding, small_features)
            for call, position in self.flipped:
                if call == self.calls:
                    allowed.view(-1)[position] ^= True
            self.calls += 1
            return allowed

        monkeypatch.setattr(MaskDecoder, "_where_to_look", staticmethod(where_to_look))

    def settle(self, error: Callable[[], float], bound: float) -> float:
        """Turn round the ties that explain the error, one after another, until it is below a bound or none lowers it.

        Tried from the nearest to 0 on. One that explains most of the error is taken at once; else all are tried and
        the best is taken: a tie that lowers the error a little is mostly none that differs, and leads astray.

        Args:
            error: runs the model and compares. bound: where to end.

        Returns:
            The error at the end, of the last run.
        """

        def run(flipped: frozenset[tuple[int, int]]) -> float:
            self.found, self.calls, self.flipped = {}, 0, flipped
            return error()

        kept: frozenset[tuple[int, int]] = frozenset()
        best = run(kept)
        while best >= bound:
            # what was turned round changes which ties there are downstream: all are tried again
            found, lowest, chosen = self.found, best, None
            for tie in sorted(found.keys() - kept, key=found.__getitem__):
                if (changed := run(kept | {tie})) < lowest:
                    lowest, chosen = changed, tie
                if lowest < max(bound, best / self.MOST):
                    break
            if chosen is None:
                run(kept)
                break
            kept |= {chosen}
            best = lowest if self.flipped == kept else run(kept)
        self.flipped = kept
        return best
