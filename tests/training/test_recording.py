"""Recorded passes of training: chosen where they can be, equal to the model, given up with a line where they fail."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import tiny
import torch

from reincli.config import TrainSettings
from reincli.engine.cuda_graphs import stream_kept
from reincli.engine.ranks import Rank
from reincli.training.recording import Recorded, can_record

GPU = torch.device("cuda")
WANTED = TrainSettings(cuda_graphs=True)


@pytest.mark.parametrize(
    ("train", "device", "rank", "recorded"),
    [
        (WANTED, GPU, Rank(), True),
        (TrainSettings(), GPU, Rank(), False),
        (WANTED, torch.device("cpu"), Rank(), False),
        (WANTED, GPU, Rank(0, 2), False),
        (WANTED.model_copy(update={"accumulate": 2}), GPU, Rank(), False),
        (WANTED.model_copy(update={"compile": True}), GPU, Rank(), False),
    ],
)
def test_one_gpu_and_whole_batches_alone(train, device, rank, recorded):
    assert can_record(train, device, rank) is recorded


@pytest.fixture
def model():
    return tiny.model(tiny.settings()).train()


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the recorder: what it is given is replayed by running it."""
    seen = []

    def record(module, example, **options):
        seen.append((example[0].shape, options, torch.is_autocast_cache_enabled()))
        for buffer in module.model.buffers():
            buffer.add_(1)  # as the passes before a recording would change batch statistics
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return seen


def test_what_is_replayed_is_what_the_model_says(model, calls):
    images = torch.randn(1, 3, 64, 64)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    recorded = Recorded(model, "fp32", pytest.fail)
    found, expected = recorded(images), model(images)
    assert torch.equal(found.class_logits, expected.class_logits)
    assert found.mask_logits().requires_grad
    recorded(images)
    recorded(torch.randn(2, 3, 64, 64))  # another form runs as it is
    with torch.no_grad():
        recorded(images)
    assert [shape for shape, *_ in calls] == [images.shape]
    assert calls[0][2] is False  # autocast's kept casts would be outside of what is replayed
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_where_it_cannot_be_recorded_a_line_says_so(model, monkeypatch):
    def fails(*given, **options):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fails)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    said = []
    recorded = Recorded(model, "fp32", said.append)
    images = torch.randn(1, 3, 64, 64)
    for _ in range(2):
        assert torch.equal(recorded(images).class_logits, model(images).class_logits)
    assert len(said) == 1
    assert "not permitted when stream is capturing" in said[0]
    assert "more" not in said[0]


class NoDevice:
    """A graph whose launches ran when they were recorded, on the CPU: replaying finds what they left behind."""

    modes: list[str] = []

    def capture_begin(self, *pool, capture_error_mode="global", **options):
        self.modes.append(capture_error_mode)

    def capture_end(self):
        pass

    replay = capture_end


@pytest.fixture
def no_device(monkeypatch):
    """PyTorch's own recorder without a GPU."""
    monkeypatch.setattr(NoDevice, "modes", [])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", NoDevice)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("Stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *given: nullcontext())
    monkeypatch.setattr(torch.cuda.graphs, "_graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "_POOL_HANDLE", tuple, raising=False)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)


def test_pytorchs_recorder_takes_the_model_and_no_other_thread_breaks_it(model, no_device):
    usual = torch.cuda.graph
    images = torch.randn(1, 3, 64, 64)
    recorded = Recorded(model, "fp32", pytest.fail)
    found, expected = recorded(images), model(images)
    assert torch.equal(found.class_logits, expected.class_logits)
    assert torch.equal(found.mask_logits(), expected.mask_logits())
    (found.class_logits.sum() + found.mask_logits().sum()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert NoDevice.modes == ["thread_local", "thread_local"]  # the loader's thread pins memory meanwhile
    assert torch.cuda.graph is usual


def test_the_stream_is_what_it_was_where_a_recording_broke(monkeypatch):
    streams = ["usual"]

    class Current:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            self.before = streams[-1]
            streams.append(self.stream)

        def __exit__(self, *error):
            streams.append(self.before)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[-1])
    monkeypatch.setattr(torch.cuda, "stream", Current)

    def breaks():
        Current(
            "recording"
        ).__enter__()  # PyTorch gives the stream back only after a recording has ended well
        raise RuntimeError("CUDA error: operation failed due to a previous error")

    with pytest.raises(RuntimeError, match="due to a previous error"), stream_kept(GPU):
        breaks()
    assert streams[-1] == "usual"
