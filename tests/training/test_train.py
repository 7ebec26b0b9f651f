"""Training: exact across slices, stops and memory savings; its guards; its folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given

from reincli.config import Settings
from reincli.engine.device import DTYPES
from reincli.engine.processes import slice_size
from reincli.engine.ranks import Rank
from reincli.errors import ReinError
from reincli.media.images import write_png
from reincli.prediction.evaluate import val_samples
from reincli.settings_files import build_settings
from reincli.training import run_folder
from reincli.training.batches import Draws, load_batches, require_scorable, train_samples
from reincli.training.meter import Guard, Meter
from reincli.training.run import Run, prepare_run
from reincli.training.step import train_step
from reincli.training.train import Watch, starvation, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Toy data and a backbone."""
    folder = tmp_path_factory.mktemp("train")
    tiny.write_toy(folder / "toy", ("train", "val", "dusk"))
    tiny.write_backbone(folder / "backbone.pth", tiny.settings(data=data_of(folder)))
    return folder


def data_of(files: Path) -> dict:
    return tiny.own_data(files / "toy", ("train", "val", "dusk"))


def settings_of(files: Path, *sets: str) -> Settings:
    weights = f"model.backbone.weights='{files / 'backbone.pth'}'"
    return tiny.settings(weights, "train.points=64", "data.val=['toy:val']", *sets, data=data_of(files))


def start(files: Path, folder: Path, *sets: str, resume: bool = False, precision: str = "fp32") -> Run:
    settings = settings_of(files, *sets)
    if not resume:
        run_folder.start_folder(folder, settings)
    return prepare_run(settings, folder, device=CPU, precision=precision, resume=resume)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.trained_state().items()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def batches(run: Run) -> list[list[dict]]:
    return list(load_batches(train_samples(run.settings), run))


# --- which image goes where --------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.integers(1, 5))
def test_processes_share_every_draw_once(world, own, first, count):
    draws = [list(Draws(first, first + count, own * world, Rank(rank, world))) for rank in range(world)]
    size = own * world
    assert sorted(number for part in draws for number in part) == list(
        range(first * size, (first + count) * size)
    )
    for iteration in range(count):  # all of a batch's draws are drawn in the same iteration
        batch = {n for part in draws for n in part[iteration * own : (iteration + 1) * own]}
        assert batch == set(range((first + iteration) * size, (first + iteration + 1) * size))


def test_a_batch_that_does_not_divide_is_refused():
    assert slice_size(8, Rank(0, 2), 2) == 2
    with pytest.raises(ReinError, match="4 does not divide among 3 processes") as caught:
        slice_size(4, Rank(0, 3), 1)
    assert caught.value.usage
    assert "1, 2, 4" in caught.value.hint


def test_slices_hold_the_images_of_the_batch(files, tmp_path):
    whole = batches(start(files, tmp_path / "a", "train.batch_size=4"))
    parts = batches(start(files, tmp_path / "b", "train.batch_size=4", "train.accumulate=2"))
    assert [len(slices) for slices in parts] == [2] * 6
    for (batch,), slices in zip(whole, parts, strict=True):
        assert torch.equal(batch["image"], torch.cat([part["image"] for part in slices]))


# --- one step ----------------------------------------------------------------------------------------------


def gradients(run: Run, slices: list[dict]) -> dict[str, torch.Tensor]:
    train_step(run, slices)
    return {name: parameter.grad.clone() for name, parameter, _ in run.model.decays()}


def test_recomputed_activations_give_the_same_gradients(files, tmp_path):
    kept = start(files, tmp_path / "a")
    again = start(files, tmp_path / "b", "train.checkpoint_activations=true")
    assert again.model.recompute
    for run in (kept, again):
        run.model.train()
    slices = batches(kept)[0]
    expected, found = gradients(kept, slices), gradients(again, slices)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_recomputing_keeps_less(files, tmp_path):
    def kept_bytes(run: Run) -> int:
        run.model.train()
        seen: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            predictions = run.model(run.model.normalise(images))
            assert predictions.mask_features.requires_grad
        return sum(seen.values())

    plain = kept_bytes(start(files, tmp_path / "a"))
    assert kept_bytes(start(files, tmp_path / "b", "train.checkpoint_activations=true")) < 0.8 * plain


@pytest.mark.parametrize("low", ["bf16", "fp16"])
def test_low_precision_follows_fp32(files, tmp_path, low):
    """fp16 with its scaler, which a user is given on GPUs alone."""
    sets = ("train.iterations=30", "optim.lr=2e-3", "train.log_every=10", "train.validate_every=0")
    losses = {}
    for precision in ("fp32", low):
        run = start(files, tmp_path / precision, *sets, precision=precision)
        assert run.scaler.is_enabled() == (precision == "fp16")
        train(run)
        assert all(parameter.dtype == torch.float32 for parameter in run.trained)
        losses[precision] = [entry["losses"]["loss"] for entry in run_folder.read_log(run.folder)]
    assert run.model.backbone.body.blocks[0].mlp.fc1.weight.dtype == DTYPES[low]
    assert losses[low] == pytest.approx(losses["fp32"], rel=0.03)
    assert losses["fp32"][-1] < 0.99 * losses["fp32"][0]
    if low == "fp16":
        resumed = start(files, tmp_path / low, *sets, precision=low, resume=True)
        assert resumed.scaler.state_dict() == run.scaler.state_dict()


def test_fp16_passes_over_a_gradient_that_is_not_finite(files, tmp_path):
    run = start(files, tmp_path / "run", precision="fp16")
    run.model.train()
    before, scale = weights(run), run.scaler.get_scale()
    for parameter in run.trained:
        parameter.register_hook(lambda grad: grad * float("inf"))
    values = train_step(run, batches(run)[0])
    assert values["skipped"] == 1
    assert equal(before, weights(run))
    assert run.scaler.get_scale() == scale / 2


def test_the_host_asks_the_model_and_the_losses_for_nothing_but_the_costs(files, tmp_path):
    """`item` and its kin make the host wait for a GPU: forward pass, losses and backward pass have none."""
    run = start(files, tmp_path / "a")
    run.model.train()
    slices = batches(run)[0]
    train_step(run, slices)
    update = "reincli.training.step.update"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, lambda run: (torch.zeros(()), torch.zeros(())))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            train_step(run, slices)
    names = {event.key for event in profile.key_averages()}
    assert "aten::convolution" in names
    assert not {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"} & names


def test_gradients_are_clipped_to_the_norm(files, tmp_path):
    run = start(files, tmp_path / "a", "train.clip_grad_norm=0.01")
    run.model.train()
    values = train_step(run, batches(run)[0])
    assert values["grad_norm"] > 0.01  # as it was
    norms = torch.stack([parameter.grad.norm() for parameter in run.trained])
    assert norms.norm().item() == pytest.approx(0.01, rel=1e-4)


def test_a_moving_average_is_validated_saved_and_resumed(files, tmp_path):
    sets = ("train.ema_decay=0.9", "optim.lr=5e-3", "train.checkpoint_every=3")
    run = start(files, tmp_path / "a", *sets, "train.iterations=6")
    train(run)
    saved = torch.load(tmp_path / "a" / "last.pth", weights_only=True)
    assert run.ema is not None
    name = "mask_decoder.class_head.weight"
    average = run.ema.average[name]
    assert torch.equal(saved["state_dict"]["decode_head.cls_embed.weight"], average)
    assert torch.equal(saved["training"]["weights"][name], run.ema.parameters[name])
    assert not torch.equal(average, run.ema.parameters[name])
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "settings.toml", tmp_path / "b")
    shutil.copy(tmp_path / "a" / "iter_3.pth", tmp_path / "b" / "last.pth")
    resumed = start(files, tmp_path / "b", *sets, "train.iterations=6", resume=True)
    assert resumed.iteration == 3
    train(resumed)
    assert equal(weights(resumed), weights(run))
    assert equal(resumed.ema.average, run.ema.average)


# --- guards ------------------------------------------------------------------------------------------------


def poisoned(slices: list[dict], model: torch.nn.Module) -> None:
    """Make the next step's gradient infinite."""
    with torch.no_grad():
        model.mask_decoder.class_head.bias.fill_(float("nan"))


def test_a_step_without_a_finite_gradient_changes_nothing(files, tmp_path):
    run = start(files, tmp_path / "a")
    run.model.train()
    slices = batches(run)
    train_step(run, slices[0])
    moments = run.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    healthy = run.model.mask_decoder.class_head.bias.detach().clone()
    poisoned(slices[1], run.model)
    before = weights(run)
    assert train_step(run, slices[1])["skipped"] == 1
    after = weights(run)
    same = [name for name in before if "class_head.bias" not in name]
    assert all(torch.equal(before[name], after[name]) for name in same)
    assert torch.equal(run.optimizer.state_dict()["state"][0]["exp_avg"], moments)
    with torch.no_grad():
        run.model.mask_decoder.class_head.bias.copy_(healthy)
    assert train_step(run, slices[2])["skipped"] == 0
    assert not equal(weights(run), before)


def test_training_gives_up_and_keeps_what_is_needed_to_look(files, tmp_path):
    run = start(files, tmp_path / "a", "train.stop_after_skipped=3", "train.iterations=20")
    poisoned([], run.model)
    with pytest.raises(ReinError, match="not finite in 3 steps in a row") as caught:
        train(run)
    assert run.iteration == 4  # noticed a step later, so that the host need not wait
    assert ".png" in caught.value.message
    kept = torch.load(tmp_path / "a" / "failure.pth", weights_only=True)
    assert kept["batch"][0]["image"].shape == (2, 3, 64, 64)
    assert kept["training"]["iteration"] == 4


def test_the_guard_counts_in_a_row():
    guard = Guard(2)
    flags = [1, 0, 1, 1, 0, 0]
    assert [guard.too_many(torch.tensor(float(flag))) for flag in flags] == [
        False, False, False, False, True, False
    ]  # fmt: skip


def test_a_full_disk_is_said_before_training(files, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(ReinError, match=r"has 0.0 GiB free; the run's checkpoints need"):
        start(files, tmp_path / "a")


def test_waiting_for_data_is_remarked_once(files, tmp_path, monkeypatch):
    notes: list[str] = []
    clock = iter(np.arange(0, 1e6, 0.5))
    monkeypatch.setattr("reincli.training.meter.time.perf_counter", lambda: float(next(clock)))
    run = start(files, tmp_path / "a", "train.iterations=12", "train.validate_every=0")
    train(run, Watch(note=notes.append))
    said = [note for note in notes if "waiting for data" in note]
    assert len(said) == 1
    assert "data.workers = 0" in said[0]
    assert "--cache" in starvation(run.settings, 0.5)


def test_the_peak_of_memory_is_told_with_what_would_fit(files, tmp_path):
    notes: list[str] = []
    run = start(files, tmp_path / "a", "train.iterations=21", "train.validate_every=0")
    train(run, Watch(note=notes.append))
    assert any(note.startswith("Peak memory") and "would fit" in note for note in notes)


def test_the_meter_takes_means_and_leaves_skipped_norms_out():
    meter = Meter(CPU, 4)
    for loss, skipped in ((2.0, 0.0), (4.0, 1.0)):
        meter.data_here()
        meter.add(
            {"loss": torch.tensor(loss), "grad_norm": torch.tensor(1.0), "skipped": torch.tensor(skipped)}
        )
    entry = meter.flush(10, 1e-4)
    assert entry.losses == {"loss": 3.0}
    assert entry.skipped == 1
    assert entry.grad_norm is None
    assert 0 <= entry.waiting <= 1
    assert entry.images == pytest.approx(4 / entry.seconds)


# --- the folder --------------------------------------------------------------------------------------------


def test_the_newest_checkpoints_and_the_best_are_kept(files, tmp_path):
    run = start(
        files, tmp_path / "a", "train.checkpoint_every=1", "train.keep_checkpoints=2", "train.iterations=5"
    )
    train(run)
    assert sorted(path.name for path in (tmp_path / "a").glob("iter_*.pth")) == ["iter_4.pth", "iter_5.pth"]
    path, best = tmp_path / "a" / "iter_5.pth", tmp_path / "a" / "best.pth"
    record = json.loads((tmp_path / "a" / "best.json").read_text())
    assert not run_folder.keep_best(tmp_path / "a", path, 9, record["mIoU"] - 1)
    assert not run_folder.keep_best(tmp_path / "a", path, 9, None)
    assert run_folder.keep_best(tmp_path / "a", tmp_path / "a" / "iter_4.pth", 9, record["mIoU"] + 1)
    assert best.read_bytes() == (tmp_path / "a" / "iter_4.pth").read_bytes()
    path.unlink()
    assert (tmp_path / "a" / "last.pth").stat().st_size > 0  # a pointer never dangles


def test_a_pointer_that_points_there_already_leaves_nothing_behind(tmp_path):
    (tmp_path / "iter_2.pth").write_bytes(b"whole")
    for _ in range(2):
        run_folder.point_at(tmp_path / "best.pth", tmp_path / "iter_2.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth", "iter_2.pth"]


def test_validation_before_the_first_iteration_and_after_a_cut(files, tmp_path):
    seen: list[int] = []
    watch = Watch(validated=lambda iteration, result: seen.append(iteration))
    sets = ("train.validate_first=true", "train.validate_every=3", "train.checkpoint_every=3")
    run = start(files, tmp_path / "a", *sets)
    train(run, watch)
    assert seen == [0, 3, 6]
    log = tmp_path / "a" / "log.jsonl"
    kept = [line for line in log.read_text().splitlines() if json.loads(line)["iteration"] <= 3]
    log.write_text("\n".join(line for line in kept if '"validation"' not in line) + "\n")
    shutil.copy(tmp_path / "a" / "iter_3.pth", tmp_path / "a" / "last.pth")
    seen.clear()
    train(start(files, tmp_path / "a", *sets, resume=True), watch)
    assert seen == [3, 6]  # the one that was cut off is made up for
    seen.clear()
    alone = ("train.validate_first=true", "train.validate_every=0", "train.iterations=1")
    train(start(files, tmp_path / "b", *alone), watch)
    assert seen == [0]


def test_a_stop_during_validation_leaves_at_once_and_is_made_up_for(files, tmp_path):
    seen: list[int] = []

    def ask(iteration: int, sample: object, prediction: object) -> None:
        seen.append(iteration)
        os.kill(os.getpid(), signal.SIGTERM)

    sets = ("train.iterations=2", "train.validate_every=2")
    run = start(files, tmp_path / "a", *sets)
    with pytest.raises(KeyboardInterrupt, match="Saved at iteration 2"):
        train(run, Watch(predicted=ask))
    assert seen == [2]
    assert run_folder.read_log(run.folder)[-1]["kind"] == "step"
    again = start(files, tmp_path / "a", *sets, resume=True)
    assert again.iteration == 2
    train(again)
    assert run_folder.read_log(run.folder)[-1]["kind"] == "validation"
    assert (tmp_path / "a" / "best.pth").exists()


def test_a_resumed_run_logs_each_iteration_once(files, tmp_path):
    run = start(files, tmp_path / "a", "train.checkpoint_every=2", "train.log_every=1")
    train(run)
    first = run_folder.read_log(run.folder)
    shutil.copy(tmp_path / "a" / "iter_4.pth", tmp_path / "a" / "last.pth")
    with open(tmp_path / "a" / "log.jsonl", "a") as file:
        file.write('{"kind": "step", "iter')  # cut short by a kill
    train(start(files, tmp_path / "a", "train.checkpoint_every=2", "train.log_every=1", resume=True))
    again = run_folder.read_log(run.folder)
    assert [entry["iteration"] for entry in again] == [entry["iteration"] for entry in first]
    assert [e["losses"] for e in again if e["kind"] == "step"] == [
        e["losses"] for e in first if e["kind"] == "step"
    ]


@pytest.mark.slow
def test_a_compiled_model_trains_alike(files, tmp_path, monkeypatch):
    """Traced forward and backward, without the minutes in which torch turns the graphs into machine code."""
    traced = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", traced)
    runs = [
        start(files, tmp_path / name, "train.iterations=4", f"train.compile={name}")
        for name in ("false", "true")
    ]
    for run in runs:
        train(run)
    plain, compiled = (run.model.trained_state() for run in runs)
    assert plain.keys() == compiled.keys()
    losses = [
        [step["losses"]["loss"] for step in run_folder.read_log(run.folder) if "losses" in step]
        for run in runs
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_labels_that_are_to_be_scored_are_read_before_training(tmp_path):
    for name, value in (("i/0.png", 0), ("l/0.png", 0), ("v/0.png", 255)):
        write_png(tmp_path / name, np.full((8, 8, 3) if name[0] == "i" else (8, 8), value, np.uint8))
    splits = {name: {"images": "i", "labels": labels} for name, labels in (("train", "l"), ("val", "v"))}
    classes = [{"name": name, "color": [0, 0, value]} for value, name in enumerate("ab")]
    own = {"own": {"root": str(tmp_path), "classes": classes, "splits": splits}}
    settings = build_settings({"name": "x", "data": {"own": own, "train": ["own:train"], "val": ["own:val"]}})
    require_scorable(train_samples(settings), settings)
    with pytest.raises(ReinError, match=r"No pixel of the 1 labels.* 255 \(100%\)"):
        require_scorable(val_samples(settings), settings)
