"""Losses, matches and gradients against the reference figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import reference
import torch

from reincli.model.criterion import mask2former_loss, targets_of
from reincli.model.mask_decoder import Predictions
from reincli.model.segmentor import Segmentor

LOSS_BOUND, GRADIENT_BOUND = 1e-4, 1e-3
CANCELLING = ("eva02", "convnext")
"""Families whose gradient of the adapter's scale hangs on rounding."""
ROUNDING, NUDGES = 5e-7, 5
"""Relative size of rounding in the backbone's maps (the original differs from itself by 6e-7 to 1e-6 in them), and how
often it is drawn where gradients do not agree."""

BLANK = torch.full((128, 128), 255, dtype=torch.uint8)
PURE_LABELS = {
    "A": lambda: [reference.label(128, 128, 501), reference.label(128, 128, 502)],
    "B": lambda: [reference.label(128, 128, 503), BLANK],
    "C": lambda: [BLANK],
    "D": lambda: [reference.label(96, 160, 504)],
}


def assert_same_matches(expected: list[dict], matches, targets) -> None:
    """Who was matched with whom; the figures list rounds first, then images."""
    ours = [
        {"query": queries.tolist(), "label": targets.on_host[image][target].tolist()}
        for round_ in matches
        for image, (queries, target) in enumerate(round_)
    ]
    assert ours == [{"query": entry["query"], "label": entry["label"]} for entry in expected]


def assert_close(ours: dict[str, float], expected: dict[str, float], bound: float) -> None:
    errors = {
        name: abs(ours[name] - value) / abs(value) if value else abs(ours[name])
        for name, value in expected.items()
    }
    worst = max(errors, key=errors.__getitem__)
    print(f"largest relative error {errors[worst]:.1e} ({worst}) of {len(errors)}")
    assert errors[worst] < bound, {name: error for name, error in errors.items() if error >= bound}


@pytest.mark.parametrize("case", ["A", "B", "C", "D"])
def test_losses_of_given_predictions(oracle, case):
    """No model: two images, an image without a target, a batch without one, a label of another shape."""
    cases = json.loads((oracle / "loss_pure.json").read_text())["cases"]
    notes = next(entry for entry in cases if entry["name"].startswith(case))
    batch, base = notes["B"], {"A": 1, "B": 2, "C": 3, "D": 4}[case] * 100_000
    rounds = sum(name.endswith("loss_cls") for name in notes["losses"])
    logits = np.stack([2 * reference.normal(base + 2 * i, (batch, 100, 20)) for i in range(rounds)])
    masks = np.concatenate(
        [3 * reference.normal(base + 2 * i + 1, (batch, 100, 32, 32)) for i in range(rounds)], 1
    )
    class_logits = torch.from_numpy(logits).requires_grad_()
    # masks that are no product of features: every round's masks are features, and embeddings pick them out
    features = torch.from_numpy(masks).requires_grad_()
    pick = torch.eye(100 * rounds).view(rounds, 1, 100, -1).expand(-1, batch, -1, -1)
    targets = targets_of(torch.stack(PURE_LABELS[case]()), 19)
    points = reference.points(base + 1000, batch, targets.pairs > 0)
    losses, matches = mask2former_loss(Predictions(class_logits, pick, features), targets, points)
    assert_close({k: v.item() for k, v in losses.items()}, notes["losses"], LOSS_BOUND)
    assert_same_matches(notes["matches_in_call_order_layer_major_then_image"], matches, targets)
    torch.stack(list(losses.values())).sum().backward()
    by_class = [grad.norm().item() for grad in class_logits.grad]
    by_mask = [features.grad[:, 100 * i : 100 * (i + 1)].norm().item() for i in range(rounds)]
    assert by_class == pytest.approx(notes["grad_cls_l2"], rel=GRADIENT_BOUND)
    assert by_mask == pytest.approx(notes["grad_mask_l2"], rel=GRADIENT_BOUND, abs=1e-12)


def arguments(recipes: list[str]) -> list[tuple[int, ...]]:
    return [tuple(int(n) for n in re.search(r"\((.*)\)", text).group(1).split(",")) for text in recipes]


def batch_of(notes: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and labels padded right and bottom to the recorded size, and the sizes before."""
    height, width = notes["preprocessor_size"]
    images = [reference.image(*given) for given in arguments(notes["images"])]
    labels = [reference.label(*given) for given in arguments(notes["labels"])]
    stacked = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    wanted = torch.full((len(images), height, width), 255, dtype=torch.uint8)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        stacked[index, :, : image.shape[1], : image.shape[2]] = image
        wanted[index, : label.shape[0], : label.shape[1]] = label
    return stacked, wanted, torch.tensor([image.shape[1:] for image in images])


def compare_step(oracle: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = json.loads((oracle / f"{name}.json").read_text())
    model = reference.build(notes["variant"]).train()
    images, labels, sizes = batch_of(notes)
    targets = targets_of(labels, 19)
    expected = {key.removeprefix("decode."): value for key, value in notes["losses"].items()}
    losses: dict[str, torch.Tensor] = {}
    matches: list = []

    def run() -> float:
        predictions = model(model.normalise(images, sizes))
        draw = reference.points(500_000, len(images), True)
        found, matches[:] = mask2former_loss(predictions, targets, draw)
        losses.update(found)
        return max(abs(losses[key].item() / value - 1) for key, value in expected.items())

    ties = reference.Ties(monkeypatch)
    ties.settle(run, LOSS_BOUND)
    print(f"{name}: {len(ties.found)} ties, {len(ties.flipped)} turned round")
    assert len(expected) == len(losses) == 30
    assert_close({key: value.item() for key, value in losses.items()}, expected, LOSS_BOUND)
    total = torch.stack(list(losses.values())).sum()
    assert total.item() == pytest.approx(notes["total"], rel=LOSS_BOUND)
    assert_same_matches(notes["matches_in_call_order_layer_major_then_image"], matches, targets)
    found = gradient_norms(model, losses)
    assert found.keys() == notes["grad_l2"].keys()
    for seed in range(NUDGES):
        if largest_error(found, notes["grad_l2"], name) < 1:
            break
        # a gradient jumps where a sampled point lies on the border of two pixels, or a ReLU at 0: which side it falls
        # to is decided by rounding. Here one such jump moves EVA02's norms by 5.1e-3, and another draw turns it round
        with nudged(model, seed):
            run()
        found = gradient_norms(model, losses)
    print(
        f"{name}: gradients {largest_error(found, notes['grad_l2'], name):.2f} of the bound, {seed} times nudged"
    )
    assert largest_error(found, notes["grad_l2"], name) < 1
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)


def gradient_norms(model: Segmentor, losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """By the original's names, of every parameter that trains."""
    model.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    original = reference.original_names(model)
    trained = [(key, parameter) for key, parameter in model.named_parameters() if parameter.requires_grad]
    return {original[key]: parameter.grad.norm().item() for key, parameter in trained}


def largest_error(found: dict[str, float], expected: dict[str, float], name: str) -> float:
    """Of all norms, in bounds."""
    errors = []
    for key, value in expected.items():
        # one number, a sum of millions of either sign that nearly cancel: for EVA02 their absolute values sum to
        # 1,260 times it, for the first stage of ConvNeXt to 18,000 times (the original itself is off by 2.4e-2)
        sums = key.endswith("scale") and any(family in name for family in CANCELLING)
        error = abs(found[key] - value) / abs(value) if value else abs(found[key])
        errors.append(error / (5e-2 if sums else GRADIENT_BOUND))
    return max(errors)


@contextmanager
def nudged(model: Segmentor, seed: int) -> Iterator[None]:
    """While it lasts, the backbone's maps are other by no more than rounding."""
    generator = torch.Generator().manual_seed(seed)

    def nudge(module, inputs, maps):
        return [each * (1 + ROUNDING * torch.randn(each.shape, generator=generator)) for each in maps]

    handle = model.backbone.register_forward_hook(nudge)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "loss_full_rein_dinov2_s_512_in256x256",
        "loss_full_rein_dinov2_s_512_in200x168_padded256",
        "loss_full_rein_dinov2_l_512_in256x256",
        "loss_full_frozen_dinov2_l_512_in256x256",
        "loss_full_frozen_clip_l_512_in256x256",
        "loss_full_rein_eva02_l_512_in512x512",
        "loss_full_rein_convnext_l_512_in256x256",
        "loss_full_rein_resnet50_512_in256x256",
    ],
)
def test_losses_matches_and_every_gradient_of_a_step(oracle, name, monkeypatch):
    compare_step(oracle, name, monkeypatch)
