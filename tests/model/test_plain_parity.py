"""The plain mask decoder against its reference figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference
import torch

from reincli.model.layouts import LAYOUTS
from reincli.model.mask_decoder import Predictions
from reincli.model.plain_decoder import MaskDraws, PlainDecoder, rotary_tables
from reincli.model.segmentor import class_maps
from reincli.model.weights import to_original

BOUND = 1e-5
GRIDS = [(16, 16), (16, 24)]
WIDTH, QUERIES = 384, 100


def figures_name(ours: str) -> str:
    """The name under which the figures' weights were drawn."""
    (name,) = to_original({f"plain_decoder.{ours}": torch.zeros(())}, LAYOUTS["dinov2"])
    return name.replace("network.decoder.", "pmd.").replace("network.bn.", "pmd.bn.")


def generated(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """By the rule, and two rows that the figures add."""
    if ".scalers." in key or key.endswith("lambda1"):
        return torch.from_numpy(1 + np.float32(0.1) * reference.normal(key, shape))
    return reference.weight(key, shape)


@pytest.fixture(scope="module")
def decoder() -> PlainDecoder:
    """With the figures' weights, loaded strictly."""
    made = PlainDecoder(19, WIDTH, taps=4, patch_size=16, queries=QUERIES, layers=6, ffn=1024)
    state = {
        name: torch.tensor(0)
        if name.endswith("num_batches_tracked")
        else generated(figures_name(name), tuple(value.shape))
        for name, value in made.state_dict().items()
    }
    made.load_state_dict(state)
    return made.eval()


def features(grid: tuple[int, int]) -> list[torch.Tensor]:
    shape = (1, 1 + grid[0] * grid[1], WIDTH)
    return [torch.from_numpy(reference.normal(f"pmd.feature.{index}", shape)) for index in range(4)]


def predict(decoder: PlainDecoder, grid: tuple[int, int], masked: bool, every_round: bool) -> Predictions:
    draws = MaskDraws(torch.zeros(6, 1, QUERIES, dtype=torch.bool), torch.tensor(1.0)) if masked else None
    with torch.inference_mode():
        return decoder(features(grid), grid, None, every_round, draws=draws)


def compare(oracle: Path, grid: tuple[int, int], ours: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative errors of every tensor that is given, all within the bound."""
    name = f"pmd_{grid[0]}x{grid[1]}"
    stored, notes = reference.load(oracle / "more" / "ext", name)
    errors = {}
    for key, tensor in ours.items():
        facts = notes["tensors"][key]
        assert list(tensor.shape) == facts["shape"], key
        errors[key] = reference.relative_error(reference.cut(tensor.numpy(), facts["slice"]), stored[key])
    print(name, " ".join(f"{key} {error:.1e}" for key, error in errors.items()))
    assert max(errors.values()) < BOUND, errors
    return errors


@pytest.mark.parametrize("grid", GRIDS)
def test_every_prediction_with_masks(oracle, decoder, grid):
    found = predict(decoder, grid, masked=True, every_round=True)
    ours = {}
    for index in range(7):
        ours[f"cls_logits{index}"] = found.class_logits[index]
        ours[f"mask_logits{index}"] = found.mask_logits(index)
    assert len(compare(oracle, grid, ours)) == 14


@pytest.mark.parametrize("grid", GRIDS)
def test_the_one_prediction_without_masks(oracle, decoder, grid):
    found = predict(decoder, grid, masked=False, every_round=False)
    assert len(found.class_logits) == 1
    ours = {
        "unmasked_cls_logits6": found.class_logits[-1],
        "unmasked_mask_logits6": found.mask_logits(-1),
        "unmasked_class_maps": class_maps(found, (16 * grid[0], 16 * grid[1])),
    }
    compare(oracle, grid, ours)


@pytest.mark.parametrize("grid", GRIDS)
def test_what_lies_before_the_layers(oracle, decoder, grid):
    ours = {}
    with torch.inference_mode():
        summed = torch.zeros(())
        for index, (lateral, tokens) in enumerate(zip(decoder.laterals, features(grid), strict=True)):
            ours[f"normed_feature{index}"] = lateral.norm(tokens.flatten(0, 1)).view_as(tokens)
            ours[f"lateral{index}"] = lateral(tokens)
            summed = summed + ours[f"lateral{index}"]
        ours["tokens_sum"] = summed
        ours["rope_sin"], ours["rope_cos"] = rotary_tables(grid, 64, None, summed.device).chunk(2, dim=-1)
    compare(oracle, grid, ours)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_bit_of_the_attention_masks(oracle, decoder, grid, monkeypatch):
    seen = []
    plain = PlainDecoder._where_to_look

    def where_to_look(*given):
        seen.append(plain(*given))
        return seen[-1]

    monkeypatch.setattr(PlainDecoder, "_where_to_look", staticmethod(where_to_look))
    predict(decoder, grid, masked=True, every_round=True)
    stored, notes = reference.load(oracle / "more" / "ext", f"pmd_{grid[0]}x{grid[1]}")
    patches = grid[0] * grid[1]
    for index, allowed in enumerate(seen):
        assert allowed[..., :-patches].all()
        bits = allowed[0, :, :, -patches:].numpy()
        assert bits.mean() == pytest.approx(notes["open_share_by_block"][index], abs=1e-6)
        if f"attn_mask{index}_packed" in stored:
            assert (np.packbits(bits) == stored[f"attn_mask{index}_packed"]).all()
    assert len(seen) == 6
