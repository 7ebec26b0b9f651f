"""Which device and arithmetic are picked, what else hangs on the device; Apple's backend is faked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
from terminal import told

from reincli.commands import doctor
from reincli.engine import device as devices
from reincli.engine.device import pick_device, pick_precision
from reincli.engine.processes import joined
from reincli.engine.ranks import Rank
from reincli.errors import ReinError
from reincli.model import criterion
from reincli.ops import types
from reincli.ops.triton_use import reason
from reincli.training import optim

MPS = torch.device("mps")


@pytest.fixture
def mac(monkeypatch) -> list[str]:
    """A Mac with an Apple GPU of 10 GiB, and the calls that its backend gets."""
    calls: list[str] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    for name, value in {
        "driver_allocated_memory": 3 << 30, "current_allocated_memory": 2 << 30, "recommended_max_memory": 10 << 30,
        "empty_cache": None, "synchronize": None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.mps, name, lambda name=name, value=value: calls.append(name) or value)
    return calls


def test_auto_takes_cuda_then_apples_then_the_cpu(mac, monkeypatch):
    assert pick_device("auto") == MPS
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


def test_an_apple_gpu_is_named_with_or_without_its_number(mac):
    assert pick_device("mps") == pick_device("mps:0") == MPS
    with pytest.raises(ReinError, match="a Mac has one GPU"):
        pick_device("mps:1")


def test_elsewhere_it_is_one_sentence_with_the_next_step(monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    printed = told("bench", "--preset", "demo", "--device", "mps", code=1)
    assert "Device 'mps' was asked for, but PyTorch" in printed
    assert "sees no GPU of Apple's. That takes a Mac with Apple silicon" in printed
    assert "elsewhere use --device auto, cpu or cuda." in printed


def test_names_that_are_none_are_told_all_that_are():
    with pytest.raises(ReinError, match="No device is called 'apple'") as caught:
        pick_device("apple")
    assert caught.value.hint == "Use auto, cpu, cuda, cuda:1 or mps."
    assert caught.value.usage


def test_precision_on_an_apple_gpu(monkeypatch):
    monkeypatch.setattr(devices, "fast_bf16", lambda: "AMX")  # of the CPU beside it, which does not matter
    assert pick_precision("auto", MPS) == "fp32"
    assert pick_precision("fp16", MPS) == "fp16"
    with pytest.raises(ReinError, match="bf16 is not for Apple's GPUs"):
        pick_precision("bf16", MPS)
    assert pick_precision("auto", torch.device("cpu")) == "bf16"


@pytest.mark.parametrize(
    ("amx", "avx512", "machine", "arm", "named"),
    [
        (True, True, "x86_64", False, "AMX"),
        (False, True, "AMD64", False, "AVX512-BF16"),
        (False, False, "x86_64", True, None),  # what oneDNN emulates there is no gain
        (None, None, "x86_64", True, None),  # an older PyTorch, without the probes
        (False, False, "aarch64", True, "Arm BF16"),
        (False, False, "arm64", False, None),
    ],
)
def test_auto_on_a_cpu_is_bf16_where_the_processor_multiplies_it(
    monkeypatch, amx, avx512, machine, arm, named
):
    for probe, found in (("_is_amx_tile_supported", amx), ("_is_avx512_bf16_supported", avx512)):
        if found is None:
            monkeypatch.delattr(torch.cpu, probe, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, probe, lambda found=found: found, raising=False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: arm, raising=False)
    assert devices.fast_bf16() == named
    assert pick_precision("auto", torch.device("cpu")) == ("fp32" if named is None else "bf16")
    assert pick_precision("fp32", torch.device("cpu")) == "fp32"
    assert doctor._describe(torch.device("cpu")).endswith(f"bf16 by {named}" if named else "no fast bf16")


def test_memory_and_waiting_are_the_backends(mac):
    assert devices.peak_memory(MPS) == 3 << 30
    assert devices.memory_in_use(MPS) == 2 << 30
    assert devices.available_memory(MPS) == 8 << 30
    mac.clear()
    devices.forget_peak(MPS)
    devices.release_cache(MPS)
    devices.wait_for(MPS)
    assert mac == ["empty_cache", "empty_cache", "synchronize"]
    assert devices.is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert devices.is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"))


def test_the_cpu_and_cuda_are_waited_for_as_ever(mac, monkeypatch):
    waited: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.synchronize", waited.append)
    devices.wait_for(torch.device("cpu"))
    devices.wait_for(torch.device("cuda"))
    assert waited == [torch.device("cuda")]
    assert mac == []


def test_plain_forms_run_there(mac):
    assert reason(MPS, torch.float32) == "the device is 'mps', and its kernels are for CUDA"
    assert devices.kernel_notes(MPS, "fp32", 32, 19) == []  # a Mac has no other form to go without


def test_the_precision_is_that_of_the_gpu_that_was_asked_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 9) if device.index else (7, 5))
    monkeypatch.setattr("torch.version.hip", None)
    assert pick_precision("auto", torch.device("cuda:0")) == "fp16"
    assert pick_precision("auto", torch.device("cuda:1")) == "bf16"


def test_each_of_several_processes_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name in ("auto", "cuda"):  # 'cuda' would be the first one for all
        assert [Rank(rank, 4, rank % 2).device(name) for rank in range(4)] == ["cuda:0", "cuda:1"] * 2
    assert Rank(1, 2, 1).device("cuda:0") == "cuda:0"
    assert Rank(0, 1, 0).device("cuda") == "cuda"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Rank(1, 2, 1).device("cuda") == "cuda"  # which says that there is none


def test_several_processes_share_the_cpu_of_a_mac(mac):
    assert Rank(0, 2, 0).device("auto") == "cpu"
    assert Rank(0, 1, 0).device("auto") == "auto"
    with (
        pytest.raises(ReinError, match="2 processes cannot train on one Apple GPU"),
        joined(Rank(0, 2, 0), MPS),
    ):
        pass


def test_every_table_by_device_knows_it():
    from reincli.bench import measure, speed
    from reincli.commands import bench
    from reincli.prediction import windows

    tables = (windows.USUAL, measure.WARM_UP, measure.INSTRUMENTED, speed.SIDE, speed.PRODUCTS, bench.BATCHES,
              bench.RUNS)  # fmt: skip
    for table in tables:
        assert set(table) == {"cpu", "cuda", "mps"}


# --- arithmetic --------------------------------------------------------------------------------------------


class OnMac:
    """A tensor as one there: it knows no float64, and is copied at once."""

    device = MPS

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def pin_memory(self):
        raise RuntimeError("Need to provide pin_memory allocator to use pin memory.")

    def to(self, *given, **options):
        self.asked.append((given, options))
        return self


def test_exact_numbers_are_worked_out_beside_it():
    tensor = OnMac()
    types.exact(tensor)
    assert tensor.asked == [(("cpu", torch.float64), {})]
    assert types.exact(torch.ones(1)).dtype == torch.float64


def test_nothing_is_pinned_or_left_under_way(monkeypatch):
    tensor = OnMac()
    monkeypatch.setattr(criterion.torch, "from_numpy", lambda array: tensor)
    criterion.send(None, MPS)
    assert tensor.asked == [((MPS,), {})]


def test_folding_gives_the_same_where_float64_is_beside(monkeypatch):
    """`exact` as on a Mac, and any other float64 of the folding an error."""
    from reincli.model import rein

    model = tiny.model(tiny.settings())
    usual = model.fold()
    to_double = torch.Tensor.double
    monkeypatch.setattr(rein, "exact", lambda value: value.to("cpu", torch.float64))
    monkeypatch.setattr(torch.Tensor, "double", OnMac.double)
    beside = model.fold()
    monkeypatch.setattr(torch.Tensor, "double", to_double)
    for name in ("keys", "floor", "values", "delta", "bias"):
        assert torch.equal(getattr(usual, name), getattr(beside, name))
        assert getattr(beside, name).dtype == torch.float32


def steps(monkeypatch, tmp_path, fused: bool, poisoned: int | None) -> tuple[list[torch.Tensor], list[float]]:
    """Weights after three steps, and which were skipped; the gradient of one step may be poisoned."""
    from reincli.data.sources import classes_of
    from reincli.training.run import new_run
    from reincli.training.step import update

    monkeypatch.setattr(optim, "FUSED", ("cpu", "cuda") if fused else ("cuda",))
    settings = tiny.settings()
    run = new_run(settings, tmp_path, tiny.model(settings), classes_of(settings.data), device=torch.device("cpu"),
                  precision="fp32")  # fmt: skip
    assert all(bool(group["fused"]) is fused for group in run.optimizer.param_groups)
    torch.manual_seed(3)
    skipped = []
    for step in range(3):
        for parameter in run.trained:
            parameter.grad = torch.randn_like(parameter)
        if step == poisoned:
            run.trained[0].grad.view(-1)[0] = torch.inf
        skipped.append(float(update(run)[1]))
    return [parameter.detach().clone() for parameter in run.trained], skipped


@pytest.mark.parametrize("poisoned", [None, 1])
def test_the_plain_step_is_the_fused_one_and_skips_the_same(monkeypatch, tmp_path, poisoned):
    plain, plain_skipped = steps(monkeypatch, tmp_path, False, poisoned)
    fused, fused_skipped = steps(monkeypatch, tmp_path, True, poisoned)
    assert plain_skipped == fused_skipped == [float(step == poisoned) for step in range(3)]
    for left, right in zip(plain, fused, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("before", [True, False])
def test_a_run_goes_on_where_steps_are_taken_in_another_way(monkeypatch, tmp_path, before):
    """From a CUDA machine to a Mac and back: the optimiser's state is the same, the way is this machine's."""
    from reincli.training.run import prepare_run, save
    from reincli.training.step import update

    settings = tiny.settings("model.train_backbone=true", "model.backbone.weights='random'")
    place = {"device": torch.device("cpu"), "precision": "fp32"}
    monkeypatch.setattr(optim, "FUSED", ("cpu",) if before else ())
    run = prepare_run(settings, tmp_path, **place)
    for parameter in run.trained:
        parameter.grad = torch.ones_like(parameter)
    update(run)
    run.iteration = 1
    save(run)
    monkeypatch.setattr(optim, "FUSED", () if before else ("cpu",))
    again = prepare_run(settings, tmp_path, resume=True, **place)
    assert all(bool(group["fused"]) is not before for group in again.optimizer.param_groups)
    for each in (run, again):
        for parameter in each.trained:
            parameter.grad = torch.ones_like(parameter)
        update(each)
    for left, right in zip(run.trained, again.trained, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)


def test_what_apples_gpus_cannot_do_is_done_on_the_cpu(monkeypatch):
    import os

    monkeypatch.setenv(
        "PYTORCH_ENABLE_MPS_FALLBACK", ""
    )  # remembered, so that what the command sets goes again
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK")
    told("presets")
    assert "PYTORCH_ENABLE_MPS_FALLBACK" not in os.environ
    monkeypatch.setattr("reincli.cli.sys", SimpleNamespace(platform="darwin"))
    told("presets")
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "0")  # the user's own word counts
    told("presets")
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "0"


def test_the_doctor_lists_it(mac):
    printed = told("doctor")
    assert "Apple GPU, 10 GiB of the Mac's memory" in printed
    assert "--device auto takes mps, --precision auto takes fp32" in printed
