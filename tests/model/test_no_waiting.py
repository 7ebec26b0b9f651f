"""Nothing in a step or a prediction makes the host wait for a GPU, but one copy: the costs that are assigned.

On a CPU nobody waits, so the calls that would are watched: numbers that go from the host to the device one by one
(`torch.tensor` and its kin), numbers and truth values read back (`item`, `tolist`, `bool`), and operators whose result
has a size that hangs on numbers (`nonzero`, indexing by a mask).
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import reincli
from reincli.data.labels import CITYSCAPES
from reincli.model.criterion import targets_of
from reincli.model.vit import SamViT
from reincli.ops import deformable
from reincli.prediction.predict import Predictor
from reincli.training.adapt import Adaptation
from reincli.training.run import new_run
from reincli.training.step import train_step

CPU = torch.device("cpu")
PACKAGE = str(Path(reincli.__file__).parent)
READS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__")
MADE_ON_HOST = ("tensor", "as_tensor", "from_numpy")
SIZED_BY_NUMBERS = {
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::bincount",
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::repeat_interleave",
}  # fmt: skip


def caller() -> str:
    """The innermost place in the package, 'file:function'."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(PACKAGE):
            return f"{Path(frame.filename).name}:{frame.name}"
    return ""


class Operators(TorchDispatchMode):
    """Notes operators that a GPU's host would wait for."""

    def __init__(self, seen: Counter[tuple[str, str]]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        by_mask = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        sized = name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is not None
        if by_mask or (name in SIZED_BY_NUMBERS and not sized):
            self.seen[name, caller()] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def watched() -> Iterator[Counter[tuple[str, str]]]:
    """What the host would wait for, and where in the package, while the body runs."""
    seen: Counter[tuple[str, str]] = Counter()

    def noted(name: str, original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            place = caller()
            if place:
                seen[name, place] += 1
            return original(*args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in READS:
            patch.setattr(torch.Tensor, name, noted(name, getattr(torch.Tensor, name)))
        patch.setattr(torch.Tensor, "new_tensor", noted("new_tensor", torch.Tensor.new_tensor))
        for name in MADE_ON_HOST:
            patch.setattr(torch, name, noted(name, getattr(torch, name)))
        with Operators(seen):
            yield seen


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    """The form that a GPU without kernels of its own would take."""
    monkeypatch.setattr("reincli.model.pixel_decoder.deformable_attention", deformable.sample_plain)


def batch() -> dict[str, torch.Tensor]:
    label = torch.randint(0, 5, (2, 8, 8), dtype=torch.uint8)
    return {
        "image": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        "label": label.repeat_interleave(8, 1).repeat_interleave(8, 2),
        "size": torch.tensor([[64, 64], [64, 40]]),
    }


ON_THE_HOST_ALREADY = {
    ("cpu", "criterion.py:<listcomp>"), ("cpu", "criterion.py:targets_of"),  # labels, as the loader leaves them
    ("numpy", "criterion.py:<listcomp>"), ("numpy", "criterion.py:targets_of"),
    ("from_numpy", "criterion.py:send"),  # pinned and sent without waiting
    ("from_numpy", "criterion.py:<lambda>"),  # random points: a GPU draws its own
}  # fmt: skip
THE_ONE_COPY = {("cpu", "matching.py:assign"), ("numpy", "matching.py:assign")}


@pytest.mark.parametrize(
    "sets",
    [(), ("train.checkpoint_activations=true", "train.clip_grad_norm=1.0"), ("model.head.kind=plain",)],
)
def test_a_training_step_waits_for_the_costs_alone(sets):
    chosen = tiny.settings("train.points=64", *sets)
    run = new_run(chosen, Path(), tiny.model(chosen), CITYSCAPES, device=CPU, precision="fp32")
    run.model.train()
    pieces = [batch()]
    train_step(run, pieces)
    with watched() as seen:
        train_step(run, pieces)
    found = {key: count for key, count in seen.items() if key not in ON_THE_HOST_ALREADY}
    assert set(found) == THE_ONE_COPY, found
    assert set(found.values()) == {1}  # all rounds and images of the step together


ONCE_IT_IS_THERE = {("cpu", "adapt.py:here"), ("numpy", "adapt.py:here")}
"""Sent before the copies that the losses wait for, and read after the first of them."""


def unlabelled() -> dict[str, torch.Tensor]:
    counted = torch.ones(2, 64, 64, dtype=torch.bool)
    counted[1, :, 40:] = False
    return {
        "target": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        "target_size": torch.tensor([[64, 64], [64, 40]]),
        "counted": counted,
        "strong": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        "hidden": torch.rand(2, 8, 8) < 0.7,
        "paste": torch.rand(2, 64, 64) < 0.3,
    }


@pytest.mark.parametrize("source", ["true", "false"])
def test_a_step_of_an_adaptation_waits_as_often_as_it_computes_losses(source):
    chosen = tiny.settings("train.points=64", "adapt.target=['acdc:train']", f"adapt.source={source}")
    run = new_run(chosen, Path("nowhere"), tiny.model(chosen), CITYSCAPES, device=CPU, precision="fp32")
    run.model.train()
    pieces, task = [batch() | unlabelled()], Adaptation(run)
    task.step(run, pieces)
    with watched() as seen:
        task.step(run, pieces)
    found = {key: count for key, count in seen.items() if key not in ON_THE_HOST_ALREADY}
    assert set(found) == THE_ONE_COPY | ONCE_IT_IS_THERE, found
    assert {found[key] for key in THE_ONE_COPY} == {3 if source == "true" else 2}
    assert {found[key] for key in ONCE_IT_IS_THERE} == {1}


@pytest.mark.parametrize("head", ["mask2former", "plain"])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_a_prediction_waits_for_nothing(mode, head):
    chosen = tiny.settings(f"model.head.kind={head}")
    predictor = Predictor(tiny.model(chosen), CITYSCAPES, chosen, CPU, "fp32")
    image = torch.randint(0, 256, (3, 70, 150), dtype=torch.uint8)
    with watched() as seen:
        predictor.class_maps_of([image, image], mode)
    assert not seen


def test_tables_of_relative_positions_are_made_where_the_features_are():
    """SAM's, by timm: on the host they would be copied to the device in every block."""
    places: list[torch.device] = []

    def block(features: torch.Tensor) -> torch.Tensor:
        places.append(torch.arange(3).device)
        return features

    SamViT.run(None, block, torch.zeros(1, 4, 2, device="meta"), (2, 2), None)  # type: ignore[arg-type]
    assert places == [torch.device("meta")]


def test_the_watch_sees():
    labels = torch.tensor([[0, 1], [1, 255]])
    with watched() as seen:
        targets_of(labels[None], 2)
        _ = labels[labels > 0]
    assert ("cpu", "criterion.py:targets_of") in seen or ("cpu", "criterion.py:<listcomp>") in seen
    assert ("aten::index", "") in seen
