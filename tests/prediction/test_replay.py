"""Replaying recorded calls: all of it but the recording on a GPU itself."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import tiny
import torch
from torch import Tensor

from reincli.data.labels import CITYSCAPES
from reincli.prediction.predict import Predictor
from reincli.prediction.replay import MOST, Replay


class Tape:
    """A recording as a GPU makes it: fixed memory for what goes in and what comes out."""

    def __init__(self, function: Callable[[Tensor], Tensor], example: Tensor) -> None:
        self.function = function
        self.given, self.result = example.clone(), function(example.clone())
        self.given.fill_(-1)
        self.runs = 0

    def run(self) -> None:
        self.runs += 1
        self.result.copy_(self.function(self.given))


@pytest.fixture
def calls() -> list[int]:
    return []


@pytest.fixture
def replay(calls) -> Replay:
    def double(given: Tensor) -> Tensor:
        calls.append(len(given))
        return 2 * given

    return Replay(double, Tape, pytest.fail)


def test_the_first_call_runs_the_second_is_recorded(replay):
    for number in range(4):
        given = torch.full((3,), float(number))
        assert torch.equal(replay(given), 2 * given)
        recorded = replay.recordings[((3,), torch.float32)]
        assert (recorded is not None) == (number > 0)
    assert recorded.runs == 3


def test_results_are_the_callers_own(replay):
    given = torch.ones(2)
    first = [replay(given) for _ in range(3)][-1]
    replay(torch.zeros(2))
    assert torch.equal(first, torch.full((2,), 2.0))
    assert torch.equal(given, torch.ones(2))


def test_each_shape_and_type_has_its_own(replay):
    for _ in range(2):
        for given in (torch.ones(2), torch.ones(3), torch.ones(3, dtype=torch.uint8)):
            assert torch.equal(replay(given), 2 * given)
    assert len(replay.recordings) == 3


def test_a_shape_that_comes_once_is_not_recorded_and_shapes_are_few(replay, calls):
    for length in range(1, MOST + 5):
        replay(torch.ones(length))
    assert not any(replay.recordings.values())
    assert len(replay.recordings) == MOST
    for _ in range(3):
        assert torch.equal(replay(torch.ones(MOST + 4)), 2 * torch.ones(MOST + 4))
    assert calls[-1] == MOST + 4


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("operation not permitted\nwhen stream is capturing"), r"operation not permitted\)"),
        (torch.OutOfMemoryError("CUDA out of memory"), r"memory ran out\)"),
    ],
)
def test_what_cannot_be_recorded_runs_on_and_is_said_once(error, reason):
    def refuse(function: Callable[[Tensor], Tensor], example: Tensor) -> Tape:
        raise error

    said: list[str] = []
    replay = Replay(lambda given: given + 1, refuse, said.append)
    for _ in range(4):
        assert torch.equal(replay(torch.ones(2)), torch.full((2,), 2.0))
    assert len(said) == 1

    assert re.search(reason, said[0])


def test_errors_of_the_function_itself_are_not_swallowed():
    def broken(given: Tensor) -> Tensor:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        Replay(broken, Tape, pytest.fail)(torch.ones(1))


def test_a_predictor_gives_the_same_by_replaying():
    chosen = tiny.settings()
    torch.manual_seed(0)
    predictor = Predictor(tiny.model(chosen), CITYSCAPES, chosen, torch.device("cpu"), "fp32")
    image = torch.randint(0, 256, (3, 64, 150), dtype=torch.uint8)
    expected = predictor.class_maps(image)
    predictor.replay = Replay(predictor._scores, Tape, pytest.fail)
    for _ in range(3):
        torch.testing.assert_close(predictor.class_maps(image), expected, rtol=0, atol=0)
    assert any(predictor.replay.recordings.values())


def test_replaying_is_off_unless_asked_for_on_a_gpu():
    chosen = tiny.settings("test.cuda_graphs=true")
    predictor = Predictor(tiny.model(chosen), CITYSCAPES, chosen, torch.device("cpu"), "fp32")
    assert predictor.replay is None
