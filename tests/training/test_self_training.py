"""A step of self-training: each part alone, exact across stops, slices and processes; nothing waited for."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from reincli.config import Settings
from reincli.engine.ranks import Rank
from reincli.model.criterion import mask2former_loss, targets_of
from reincli.model.segmentor import class_maps
from reincli.ops.confidence import probabilities
from reincli.training import run_folder
from reincli.training.adapt import Adaptation, lessons_of, masked_images, mixed_images
from reincli.training.ema import Ema, even
from reincli.training.pseudo_watch import PseudoWatch, Seen, effective, look_at, warnings
from reincli.training.run import Run, prepare_run
from reincli.training.step import normalised, step_points
from reincli.training.train import Watch, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Toy data, a backbone, and a checkpoint to start from."""
    folder = tmp_path_factory.mktemp("adapt")
    tiny.write_toy(folder / "toy", ("train", "val", "dusk"), count=4)
    chosen = tiny.settings(data=data_of(folder))
    tiny.write_backbone(folder / "backbone.pth", chosen)
    tiny.write_checkpoint(folder / "start.pth", chosen)
    return folder


def data_of(files: Path) -> dict:
    return tiny.own_data(files / "toy", ("train", "val", "dusk"))


def settings_of(files: Path, *sets: str) -> Settings:
    return tiny.settings(
        f"model.backbone.weights='{files / 'backbone.pth'}'", f"train.start_from='{files / 'start.pth'}'",
        "train.points=64", "data.val=['toy:val']", "adapt.target=['toy:dusk']", "adapt.threshold=0.05",
        "adapt.look_every=3", "adapt.look_images=2", *sets, data=data_of(files),
    )  # fmt: skip


def start(files: Path, folder: Path, *sets: str, resume: bool = False, rank: Rank | None = None) -> Run:
    settings = settings_of(files, *sets)
    if not resume:
        run_folder.start_folder(folder, settings)
    return prepare_run(settings, folder, device=CPU, precision="fp32", resume=resume, rank=rank)


def begun(files: Path, folder: Path, *sets: str) -> tuple[Run, Adaptation, list[dict[str, Any]]]:
    """A run, what it does, and its first batch."""
    run = start(files, folder, *sets)
    run.model.train()
    task = Adaptation(run)
    return run, task, next(iter(task.batches(run, Watch())))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.trained_state().items()}


def gradients(run: Run) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter, _ in run.model.decays()}


# --- the teacher -------------------------------------------------------------------------------------------


def test_the_teacher_is_the_plain_mean_first():
    """Of the start and what the student was after each step, until the decay is reached."""
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    ema = Ema({"w": parameter}, 0.75, ramp=even)
    values = [1.0]
    for step in range(3):  # decays 1/2, 2/3, 3/4
        values.append(float(step) ** 2 + 2)
        with torch.no_grad():
            parameter.fill_(values[-1])
        ema.update(step)
        assert float(ema.average["w"]) == pytest.approx(sum(values) / len(values))
    with torch.no_grad():
        parameter.fill_(9.0)
    ema.update(3)
    assert float(ema.average["w"]) == pytest.approx(0.75 * sum(values) / 4 + 0.25 * 9)


def test_without_a_ramp_the_decay_is_the_same_at_once(files, tmp_path):
    run = start(files, tmp_path / "run", "adapt.teacher_ramp=false", "adapt.teacher_decay=0.9")
    before = {name: value.clone() for name, value in run.ema.average.items()}
    with torch.no_grad():
        for parameter in run.ema.parameters.values():
            parameter.add_(1.0)
    run.ema.update(0)
    for name, value in run.ema.average.items():
        torch.testing.assert_close(value, before[name] + 0.1)


@pytest.mark.parametrize("mirror", [True, False])
def test_pseudo_labels_are_what_the_teacher_finds(files, tmp_path, mirror):
    """By its own scores, not the student's, of the crop and its mirror image."""
    run, _, slices = begun(files, tmp_path / "run", f"adapt.mirror={str(mirror).lower()}")
    piece = slices[0]
    images = normalised(run, piece["target"], piece["target_size"])
    with torch.no_grad():
        run.model.eval()
        views = [class_maps(run.model(images, every_round=False), (64, 64))]
        if mirror:
            views.append(class_maps(run.model(images.flip(-1), every_round=False), (64, 64)).flip(-1))
        run.model.train()
        mean = sum(probabilities(view, dim=1) for view in views) / len(views)
        for parameter in run.ema.parameters.values():  # the student moves away
            parameter.add_(0.5)
    moved = weights(run)
    found = lessons_of(run, slices)[0].pseudo
    assert all(torch.equal(moved[name], value) for name, value in weights(run).items())
    assert run.model.training
    confidence, labels = mean.max(1)
    assert torch.equal(found.labels[piece["counted"]].long(), labels[piece["counted"]])
    for image in range(2):
        counted = piece["counted"][image]
        share = (confidence[image][counted] >= 0.05).float().mean()
        assert float(found.shares[image]) == pytest.approx(float(share), abs=1e-6)


# --- what is learnt ----------------------------------------------------------------------------------------


def by_hand(
    run: Run, images: torch.Tensor, labels: torch.Tensor, pixels: torch.Tensor | None, turn: int
) -> float:
    """Sum of the thirty losses of a batch, computed here."""
    wanted = targets_of(labels, run.model.classes)
    wanted = type(wanted)(wanted.labels, wanted.padded, wanted.on_host, pixels)
    predictions = run.model(images)
    losses, _ = mask2former_loss(predictions, wanted, step_points(run, turn), count=64)
    return float(sum(value.detach() for value in losses.values()))


def test_a_step_learns_three_things(files, tmp_path):
    run, task, slices = begun(files, tmp_path / "run")
    piece = slices[0]
    lesson = lessons_of(run, slices)[0]
    assert 0 < float(lesson.weights.min()) < 1 or bool((lesson.pseudo.shares > 0).all())
    where = piece["paste"]
    target = normalised(run, piece["target"], piece["target_size"])
    source = normalised(run, piece["image"], piece["size"])
    mixed = torch.where(where[:, None], source, target)
    labels = torch.where(where, piece["label"], lesson.pseudo.labels)
    pixels = torch.where(where, 1.0, lesson.pseudo.weights)
    shown = (~piece["hidden"]).repeat_interleave(8, 1).repeat_interleave(8, 2)
    expected = {
        "source": by_hand(run, source, piece["label"], None, 0),
        "mix": by_hand(run, mixed, labels, pixels, 1),
        "masked": by_hand(run, target * shown[:, None], lesson.pseudo.labels, lesson.pseudo.weights, 2),
    }
    found = task.step(run, slices)
    assert float(found["loss_mix"]) == pytest.approx(expected["mix"], rel=1e-5)
    assert float(found["loss_masked"]) == pytest.approx(expected["masked"], rel=1e-5)
    assert float(found["loss"]) == pytest.approx(sum(expected.values()), rel=1e-5)
    assert float(found["skipped"]) == 0
    torch.testing.assert_close(found["pseudo_weight"], lesson.pseudo.shares.mean())


def test_the_plain_head_adapts_too(tmp_path):
    """Its masks hold queries only with a probability; the losses are the same."""
    tiny.write_toy(tmp_path / "toy", ("train", "val", "dusk"), count=4)
    plain = tiny.settings("model.head.kind=plain", data=data_of(tmp_path))
    tiny.write_backbone(tmp_path / "backbone.pth", plain)
    tiny.write_checkpoint(tmp_path / "start.pth", plain)
    run, task, slices = begun(tmp_path, tmp_path / "run", "model.head.kind=plain")
    before = weights(run)
    found = task.step(run, slices)
    assert float(found["skipped"]) == 0
    assert float(found["loss_masked"]) > 0
    assert any(not torch.equal(before[name], value) for name, value in weights(run).items())


@pytest.mark.parametrize(
    ("sets", "there"),
    [
        (("adapt.masked=false",), {"loss_mix"}),
        (("adapt.mix=false",), {"loss_mix", "loss_masked"}),
        (("adapt.source=false",), {"loss_mix", "loss_masked"}),
        (("adapt.source=false", "adapt.masked=false"), {"loss_mix"}),
    ],
)
def test_each_part_has_a_switch(files, tmp_path, sets, there):
    run, task, slices = begun(files, tmp_path / "run", *sets)
    before = weights(run)
    found = task.step(run, slices)
    assert {name for name in found if name in ("loss_mix", "loss_masked")} == there
    assert any(not torch.equal(before[name], value) for name, value in weights(run).items())


def test_without_pasting_the_student_sees_the_target_in_strong_colours(files, tmp_path):
    run, _, slices = begun(files, tmp_path / "run", "adapt.mix=false")
    strong = normalised(run, slices[0]["strong"], slices[0]["target_size"])
    assert torch.equal(mixed_images(run, slices[0]), strong)


def test_blocks_of_the_target_are_hidden(files, tmp_path):
    run, _, slices = begun(files, tmp_path / "run")
    found = masked_images(run, slices[0])
    hidden = slices[0]["hidden"].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    target = normalised(run, slices[0]["target"], slices[0]["target_size"])
    assert 0 < hidden.float().mean() < 1
    assert torch.equal(found, torch.where(hidden, 0.0, target))


def test_a_target_that_is_nowhere_certain_teaches_nothing(files, tmp_path):
    """At a threshold that nothing reaches, target-only steps have no gradient."""
    run, task, slices = begun(files, tmp_path / "run", "adapt.source=false", "adapt.threshold=1.0")
    found = task.step(run, slices)
    assert float(found["loss"]) == 0
    assert float(found["pseudo_weight"]) == 0
    assert all(float(value.abs().max()) == 0 for value in gradients(run).values())


def test_what_is_frozen_stays_frozen(files, tmp_path):
    run, task, slices = begun(files, tmp_path / "run")
    before = copy.deepcopy(run.model.backbone.state_dict())
    task.step(run, slices)
    assert all(torch.equal(before[name], value) for name, value in run.model.backbone.state_dict().items())
    train(run, task=Adaptation(run))
    held = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert not [name for name in held["state_dict"] if "backbone.blocks" in name or "patch_embed" in name]


# --- exact -------------------------------------------------------------------------------------------------


def finished(run: Run) -> dict[str, Any]:
    train(run, task=Adaptation(run))
    return torch.load(run.folder / "last.pth", weights_only=True)


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    student = [content["training"]["weights"] for content in (left, right)]
    teacher = [content["state_dict"] for content in (left, right)]
    return all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in (student, teacher)
    )


@pytest.mark.parametrize("sets", [(), ("adapt.source=false",)])
def test_a_stopped_run_goes_on_to_the_same_bits(files, tmp_path, sets):
    """Student, teacher, and what is logged."""
    straight = finished(start(files, tmp_path / "straight", *sets))
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    (tmp_path / "resumed" / "last.pth").unlink()
    shutil.copy(tmp_path / "resumed" / "iter_3.pth", tmp_path / "resumed" / "last.pth")
    (tmp_path / "resumed" / "iter_6.pth").unlink()
    run = start(files, tmp_path / "resumed", *sets, resume=True)
    assert run.iteration == 3
    assert same(finished(run), straight)
    logs = [run_folder.read_log(tmp_path / name) for name in ("straight", "resumed")]
    looks = [[entry for entry in log if entry["kind"] == "look"] for log in logs]
    assert looks[0] == looks[1]
    assert [entry["iteration"] for entry in looks[0]] == [0, 3, 6]
    assert not same(straight, torch.load(tmp_path / "straight" / "iter_3.pth", weights_only=True))


def test_slices_add_up(files, tmp_path):
    whole = begun(files, tmp_path / "a", "train.batch_size=4")[2]
    run, task, parts = begun(files, tmp_path / "b", "train.batch_size=4", "train.accumulate=2")
    assert [len(parts), len(whole)] == [2, 1]
    assert torch.equal(whole[0]["target"], torch.cat([part["target"] for part in parts]))
    found = task.step(run, parts)
    assert torch.isfinite(found["loss"])


def test_the_start_is_kept_and_scored(files, tmp_path):
    run = start(
        files, tmp_path / "run", "train.validate_first=true", "optim.lr=1e-9", "train.validate_every=3"
    )
    finished(run)
    entries = run_folder.read_log(tmp_path / "run")
    assert [e["iteration"] for e in entries if e["kind"] == "validation"] == [0, 3, 6]
    assert (tmp_path / "run" / "best.pth").exists()
    assert json.loads((tmp_path / "run" / "best.json").read_text())["mIoU"] == max(
        e["mean"]["mIoU"] for e in entries if e["kind"] == "validation"
    )


# --- on the way --------------------------------------------------------------------------------------------


def test_a_look_says_how_far_teacher_and_student_agree(files, tmp_path):
    run, task, _ = begun(files, tmp_path / "run")
    shown: list[tuple] = []
    watch = Watch(looked=lambda *given: shown.append(given))
    assert look_at(run, task.targets, watch)
    assert not look_at(run, task.targets, watch)  # this iteration has been looked at
    entry = run_folder.read_log(run.folder)[-1]
    assert entry["agreement"] == 1.0  # the student has not moved yet
    assert 0 < entry["confidence"] <= 1
    assert [(at, number, label.shape) for at, number, _, label in shown] == [
        (0, 1, (64, 96)),
        (0, 2, (64, 96)),
    ]
    with torch.no_grad():
        for parameter in run.model.mask_decoder.class_head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    run.iteration = 3
    assert look_at(run, task.targets, watch)
    assert run_folder.read_log(run.folder)[-1]["agreement"] < 1
    run.iteration = 4
    assert not look_at(run, task.targets, watch)


def test_pseudo_labels_are_logged_by_class(files, tmp_path):
    finished(start(files, tmp_path / "run"))
    entries = [e for e in run_folder.read_log(tmp_path / "run") if e["kind"] == "pseudo"]
    assert [entry["iteration"] for entry in entries] == [2, 4, 6]
    for entry in entries:
        assert list(entry["classes"]) == ["road", "sky", "wall"]
        assert sum(entry["classes"].values()) == pytest.approx(1)
        assert 0 <= entry["weight"] <= 1


NAMES = ("road", "sky", "wall")
EVEN = Seen((1 / 3, 1 / 3, 1 / 3), 0.5, 0.9)


def test_classes_are_counted_by_their_entropy():
    assert effective((0.25,) * 4) == pytest.approx(4)
    assert effective((1.0, 0.0)) == 1
    assert effective((0.5, 0.5, 0.0)) == pytest.approx(2)


@pytest.mark.parametrize(
    ("now", "kinds", "said"),
    [
        (EVEN, set(), ""),
        (Seen((0.5, 0.3, 0.2), 0.9, 0.99), set(), ""),
        (
            Seen((0.97, 0.02, 0.01), 0.95, 0.99),
            {"collapse", "vanished"},
            "collapse: 'road' is 97% of them, 33% at first",
        ),
        (Seen((0.5, 0.49, 0.01), 0.95, 0.99), {"vanished"}, "lose a class: wall, of which less than a 10th"),
        (Seen((0.4, 0.3, 0.3), 0.002, 0.5), {"idle"}, "next to nothing: 0.2% of the pixels"),
    ],
)
def test_what_is_wrong_with_pseudo_labels(now, kinds, said):
    found = warnings(EVEN, now, NAMES)
    assert set(found) == kinds
    assert not said or said in " ".join(found.values())


def test_a_class_that_was_hardly_there_may_go():
    first = Seen((0.6, 0.399, 0.001), 0.5, 0.9)
    assert warnings(first, Seen((0.6, 0.4, 0.0), 0.5, 0.9), NAMES) == {}


def test_a_collapse_is_said_once(files, tmp_path):
    run, task, _ = begun(files, tmp_path / "run")
    notes: list[str] = []
    watched: PseudoWatch = task.watched
    for pixels in ([300.0, 300.0, 300.0], [890.0, 5.0, 5.0], [895.0, 3.0, 2.0]):
        watched.sums, watched.steps = torch.tensor([*pixels, 0.8, 0.9]), 1
        watched.log(run, Watch(note=notes.append))
    assert len(notes) == 2
    assert "collapse: 'road' is 99% of them" in notes[0]
    assert "lose classes: sky, wall" in notes[1]
    resumed = PseudoWatch(run)  # what was first is in the log
    assert resumed.first is not None
    assert math.isclose(effective(resumed.first.shares), 3)
