"""Training the plain head: resumed to the bit, divided alike, saved, averaged, predicted with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from reincli.config import Settings
from reincli.engine.ranks import Rank
from reincli.errors import ReinError
from reincli.model.mask_decoder import Predictions
from reincli.prediction.predict import load_segmentor
from reincli.training import run_folder
from reincli.training.batches import load_batches, train_samples
from reincli.training.recording import Recorded
from reincli.training.run import Run, prepare_run
from reincli.training.step import step_masks, train_step
from reincli.training.train import train

CPU = torch.device("cpu")
LINKS = [
    (),
    ("model.adapter.link_features=false",),
    ("model.tune=frozen", "model.head.plain.channels=16"),
    ("model.tune=soma",),
    ("model.tune=rein+soma",),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Toy data and a backbone."""
    folder = tmp_path_factory.mktemp("plain")
    tiny.write_toy(folder / "toy")
    tiny.write_backbone(folder / "backbone.pth", tiny.settings(data=tiny.own_data(folder / "toy")))
    return folder


def settings_of(files: Path, *sets: str) -> Settings:
    weights = f"model.backbone.weights='{files / 'backbone.pth'}'"
    plain = ("model.head.kind=plain", "model.head.plain.layers=3", "train.points=64", "optim.lr=2e-3")
    return tiny.settings(weights, *plain, *sets, data=tiny.own_data(files / "toy"))


def start(files: Path, folder: Path, *sets: str, resume: bool = False, rank: Rank | None = None) -> Run:
    settings = settings_of(files, *sets)
    if not resume:
        run_folder.start_folder(folder, settings)
    return prepare_run(settings, folder, device=CPU, precision="fp32", resume=resume, rank=rank)


def batches(run: Run) -> list[list[dict]]:
    return list(load_batches(train_samples(run.settings), run))


@pytest.mark.parametrize("sets", LINKS)
def test_a_resumed_training_goes_on_to_the_bit(files, tmp_path, sets):
    """Weights, batch statistics, moving average; the schedule of the masks and what chance decides with them."""
    sets = (*sets, "train.ema_decay=0.9")
    run = start(files, tmp_path / "a", *sets)
    train(run)
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "settings.toml", tmp_path / "b")
    shutil.copy(tmp_path / "a" / "iter_3.pth", tmp_path / "b" / "last.pth")
    resumed = start(files, tmp_path / "b", *sets, resume=True)
    assert resumed.iteration == 3
    train(resumed)
    whole, parted = run.model.trained_state(), resumed.model.trained_state()
    assert whole.keys() == parted.keys()
    assert all(torch.equal(value, parted[name]) for name, value in whole.items())
    assert all(torch.equal(value, resumed.ema.average[name]) for name, value in run.ema.average.items())
    counted = [value for name, value in whole.items() if name.endswith("num_batches_tracked")]
    assert [int(value) for value in counted] == [6] * 4


def test_it_learns_and_what_is_saved_predicts_the_same(files, tmp_path):
    run = start(
        files, tmp_path / "run", "train.iterations=120", "train.log_every=20", "train.checkpoint_every=120"
    )
    train(run)
    losses = [entry["losses"]["loss"] for entry in run_folder.read_log(run.folder) if entry["kind"] == "step"]
    assert losses[-1] < 0.75 * losses[0]
    # several windows, and sides that patches do not divide
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    run.model.eval()
    found = load_segmentor(tmp_path / "run" / "last.pth", device="cpu", precision="fp32")
    assert found.settings.model.head.kind == "plain"
    padded = run.model.normalise(torch.from_numpy(image[:64, :64]).permute(2, 0, 1)[None])
    with torch.inference_mode():
        theirs, ours = run.model(padded), found.model(padded, found.folded, every_round=False)
    torch.testing.assert_close(ours.class_logits[-1], theirs.class_logits[-1], rtol=1e-3, atol=1e-4)
    assert found.predict(image).label.shape == (80, 100)
    assert found.predict(image, mode="whole").label.shape == (80, 100)
    strange = found.predict(image, keep_scores=True).anomaly()
    assert strange.shape == (80, 100)
    assert strange.min() >= -len(run.classes)
    assert strange.max() <= 0
    assert np.ptp(strange) > 0.01
    low = load_segmentor(tmp_path / "run" / "last.pth", device="cpu", precision="bf16")
    assert (low.predict(image).label == found.predict(image).label).mean() > 0.95


def test_masks_follow_the_iteration_and_the_image_not_the_slices(files, tmp_path):
    whole = start(files, tmp_path / "a", "train.batch_size=4")
    parts = start(files, tmp_path / "b", "train.batch_size=4", "train.accumulate=2")
    whole.iteration = parts.iteration = 1
    all_rows = step_masks(whole)
    assert all_rows.opened.shape == (3, 4, 12)
    assert 0 < all_rows.opened[0].float().mean() < 1
    halves = [step_masks(parts, number) for number in range(2)]
    assert torch.equal(torch.cat([half.opened for half in halves], dim=1), all_rows.opened)
    assert all(half.stretch == all_rows.stretch for half in halves)
    whole.iteration = 3
    assert not torch.equal(step_masks(whole).opened, all_rows.opened)
    whole.iteration = 6
    assert step_masks(whole).opened.all()


def test_the_model_is_given_the_masks_of_its_step(files, tmp_path):
    run = start(files, tmp_path / "a")
    run.model.train()
    given = []
    forward = run.model.forward
    run.model.forward = lambda images, **options: given.append(options) or forward(images, **options)
    train_step(run, batches(run)[0])
    assert torch.equal(given[0]["draws"].opened, step_masks(run).opened)
    assert not given[0]["draws"].opened.any()  # in the first step everything is held


def test_recomputed_activations_give_the_same_gradients(files, tmp_path):
    kept = start(files, tmp_path / "a")
    again = start(files, tmp_path / "b", "train.checkpoint_activations=true")
    slices = batches(kept)[0]
    found = []
    for run in (kept, again):
        run.model.train()
        run.iteration = 2
        train_step(run, slices)
        found.append({name: parameter.grad.clone() for name, parameter, _ in run.model.decays()})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6, msg=name)
    statistics = [
        {name: value for name, value in run.model.trained_state().items() if "running" in name}
        for run in (kept, again)
    ]
    for name, value in statistics[0].items():
        torch.testing.assert_close(statistics[1][name], value, msg=name)


def test_recorded_passes_are_given_the_masks(files, tmp_path, monkeypatch):
    run = start(files, tmp_path / "a")
    run.model.train()
    seen = []

    def record(module, example, **options):
        seen.append([each.shape for each in example])
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    run.iteration = 2
    draws, images = step_masks(run), torch.randn(2, 3, 64, 64)
    recorded = Recorded(run.model, "fp32", pytest.fail)
    found, expected = recorded(images, draws=draws), run.model(images, draws=draws)
    assert isinstance(found, Predictions)
    torch.testing.assert_close(found.class_logits, expected.class_logits)
    assert seen == [[images.shape, draws.opened.shape, torch.Size([])]]


@pytest.mark.parametrize("tune", ["soma", "rein+soma"])
def test_minor_directions_in_the_blocks_reach_the_tokens(files, tmp_path, tune):
    """They receive gradients through the plain head, and what is saved predicts as the model that was trained."""
    run = start(files, tmp_path / "run", f"model.tune={tune}", "model.minor.rank=4")
    before = {
        each.name: each.parameter.detach().clone() for each in run.model.trained() if each.part == "backbone"
    }
    train(run)
    after = {each.name: each.parameter for each in run.model.trained()}
    moved = [name for name, value in before.items() if not torch.equal(after[name], value)]
    assert before
    assert len(moved) == len(before)
    assert (run.model.plain_decoder.queries is None) == (tune == "rein+soma")
    run.model.eval()
    images = run.model.normalise(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    found = load_segmentor(tmp_path / "run" / "last.pth", device="cpu", precision="fp32")
    assert found.settings.model.tune == tune
    with torch.inference_mode():
        theirs, ours = run.model(images), found.model(images, found.folded, every_round=False)
    torch.testing.assert_close(ours.class_logits[-1], theirs.class_logits[-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.mask_logits(), theirs.mask_logits(), rtol=1e-3, atol=1e-3)


def test_a_checkpoint_of_the_other_head_is_refused(files, tmp_path):
    chosen = tiny.settings(data=tiny.own_data(files / "toy"))
    tiny.write_checkpoint(tmp_path / "other.pth", chosen)
    with pytest.raises(ReinError, match="trained with the head 'mask2former', but the settings have 'plain'"):
        start(files, tmp_path / "a", f"train.start_from='{tmp_path / 'other.pth'}'")
