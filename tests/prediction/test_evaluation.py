"""Evaluation of toy data by a tiny model: views, batches, memory, several processes, what does not fit."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from reincli.data.dataset import to_tensor
from reincli.data.sources import classes_of, scorable_samples
from reincli.engine.ranks import Rank
from reincli.errors import ReinError
from reincli.media.images import read_image, write_png
from reincli.ops.image_counts import areas, unpack
from reincli.prediction.evaluate import domain_names, evaluate, val_samples
from reincli.prediction.predict import Predictor
from reincli.prediction.results import image_matrices, report
from reincli.settings_files import build_settings

SPLITS = ("train", "val", "dusk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    tiny.write_toy(root, SPLITS)
    tiny.write_toy(root / "odd", ("val",), 2, (50, 77))  # smaller than the window, no multiple of the patch
    for kind in ("images", "labels"):
        for path in (root / "odd" / kind / "val").iterdir():
            path.rename(root / kind / "val" / f"odd{path.name}")
    return root


def predictor(folder: Path, *sets: str) -> Predictor:
    chosen = tiny.settings(*sets, data=tiny.own_data(folder, SPLITS))
    return Predictor(tiny.model(chosen), classes_of(chosen.data), chosen, torch.device("cpu"), "fp32")


def matrices(evaluation) -> dict[str, list]:
    return {name: domain.matrix.tolist() for name, domain in evaluation.domains.items()}


@pytest.fixture(scope="module")
def plain(folder):
    """The evaluation that others are compared with, in one thread, and what was seen of each image."""
    seen = []
    tool = predictor(folder)
    result = evaluate(tool, val_samples(tool.settings), workers=0, on_image=seen.append)
    return result, seen


def test_domains_are_counted_by_their_own_images(plain, folder):
    evaluation, seen = plain
    assert evaluation.complete
    assert {name: d.images for name, d in evaluation.domains.items()} == {"val": 5, "dusk": 3}
    for name, domain in evaluation.domains.items():
        mine = [scored for scored in seen if scored.domain == name]
        np.testing.assert_array_equal(domain.matrix, sum(scored.matrix for scored in mine))
        for scored in mine:
            label = cv2.imread(str(scored.sample.label), cv2.IMREAD_UNCHANGED)
            assert scored.prediction.shape == label.shape
            assert scored.matrix.sum() == (label != 255).sum()
            assert scored.matrix[1, 2] == ((label == 1) & (scored.prediction == 2)).sum()


def test_matrices_of_single_images_add_up(plain):
    evaluation, _ = plain
    for name, kept in image_matrices(evaluation).items():
        found = areas(unpack(kept["matrices"]), len(kept["names"]), 3)
        assert found.shape == (evaluation.domains[name].images, 3, 3)
        np.testing.assert_array_equal(found[:, 0].sum(0), np.diag(evaluation.domains[name].matrix))
        np.testing.assert_array_equal(found[:, 1].sum(0), evaluation.domains[name].matrix.sum(1))
        np.testing.assert_array_equal(found[:, 2].sum(0), evaluation.domains[name].matrix.sum(0))


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_nothing(plain, folder, workers):
    tool = predictor(folder)
    names = []
    result = evaluate(
        tool, val_samples(tool.settings), workers=workers, on_image=lambda s: names.append(s.sample.name)
    )
    assert matrices(result) == matrices(plain[0])
    assert names == [scored.sample.name for scored in plain[1]]


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_windows_of_several_images_run_as_one_batch(plain, folder, batch, monkeypatch):
    tool = predictor(folder, f"test.window_batch={batch}")
    sizes = []
    forward = tool._forward
    monkeypatch.setattr(tool, "_forward", lambda windows: sizes.append(len(windows)) or forward(windows))
    result = evaluate(tool, val_samples(tool.settings), workers=0)
    assert sum(sizes) == 3 * 2 + 2 * 2 + 3 * 2  # two windows of 64 at 96x64 and at 77x50
    assert max(sizes) == min(batch, 6)
    for name, domain in plain[0].domains.items():  # sums may round in another way
        assert abs(result.domains[name].matrix - domain.matrix).sum() <= 0.002 * domain.matrix.sum()


def test_views_are_averaged_as_probabilities(folder):
    tool = predictor(folder, "test.tta_scales=[0.5, 1.25]")
    sample = val_samples(tool.settings)[0]
    seen = []
    result = evaluate(tool, [sample], tta=True, workers=0, on_image=seen.append)
    image = read_image(sample.image)
    total = torch.zeros(3, *image.shape[:2])
    for scale in (0.5, 1.25):
        height, width = int(image.shape[0] * scale + 0.5), int(image.shape[1] * scale + 0.5)
        view = to_tensor(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
        for mirrored in (False, True):
            maps = tool.class_maps(view.flip(-1) if mirrored else view)
            maps = maps.flip(-1) if mirrored else maps
            total += F.interpolate(maps[None], image.shape[:2], mode="bilinear")[0].softmax(0)
    clear = total.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-5
    expected = total.argmax(0).to(torch.uint8)
    assert clear.float().mean() > 0.9
    np.testing.assert_array_equal(seen[0].prediction[clear.numpy()], expected[clear].numpy())
    protocol = report(tool, result, "x.pth")["protocol"]
    assert (protocol["tta"], protocol["scales"], protocol["flip"]) == (True, [0.5, 1.25], True)
    assert not np.array_equal(seen[0].prediction, tool.predict(image).label)


def test_views_can_be_a_setting_and_without_mirror(folder, monkeypatch):
    tool = predictor(folder, "test.tta=true", "test.tta_flip=false", "test.tta_scales=[1.0]")
    count = []
    forward = tool._forward
    monkeypatch.setattr(tool, "_forward", lambda windows: count.append(1) or forward(windows))
    evaluate(tool, val_samples(tool.settings)[:1], mode="whole", workers=0)
    assert len(count) == 1


def test_out_of_memory_halves_the_batch_and_says_so(plain, folder, monkeypatch):
    tool = predictor(folder, "test.window_batch=8")
    said, sizes = [], []
    tool.tell = said.append
    forward = tool._forward

    def tight(windows):
        sizes.append(len(windows))
        if len(windows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(windows)

    monkeypatch.setattr(tool, "_forward", tight)
    result = evaluate(tool, val_samples(tool.settings), workers=0)
    assert sizes[:4] == [6, 3, 1, 1]  # the six of one shape; then half, and half again
    assert max(sizes[2:]) == 1
    assert said == [
        "Out of memory with 6 windows of 64x64: going on with 3.",
        "Out of memory with 3 windows of 64x64: going on with 1.",
    ]
    assert matrices(result).keys() == matrices(plain[0]).keys()


def test_a_single_window_that_does_not_fit_is_an_error(folder, monkeypatch):
    tool = predictor(folder)

    def never(windows):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(tool, "_forward", never)
    with pytest.raises(ReinError, match="Out of memory with a single window of 64x64") as caught:
        evaluate(tool, val_samples(tool.settings), workers=0)
    assert "--mode slide" in caught.value.hint


def test_other_errors_of_the_model_are_bugs(folder, monkeypatch):
    tool = predictor(folder)

    def broken(windows):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(tool, "_forward", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        evaluate(tool, val_samples(tool.settings), workers=2)


# --- several processes -------------------------------------------------------------------------------------


def _one_of_two(number: int, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    import torch.distributed as distributed

    distributed.init_process_group("gloo", init_method=f"file://{out}/meet", rank=number, world_size=2)
    tool = predictor(folder)
    seen = []
    result = evaluate(
        tool,
        val_samples(tool.settings),
        workers=0,
        rank=Rank(number, 2),
        on_image=lambda scored: seen.append(f"{scored.domain}/{scored.sample.name}"),
    )
    kept = {"matrices": matrices(result), "images": image_matrices(result), "seen": seen}
    kept["counts"] = {name: domain.images for name, domain in result.domains.items()}
    (out / f"{number}.pkl").write_bytes(pickle.dumps(kept))
    distributed.destroy_process_group()


def test_two_processes_give_the_numbers_of_one_and_share_the_images(plain, folder, tmp_path):
    start = multiprocessing.get_context("fork")
    both = [start.Process(target=_one_of_two, args=(number, folder, tmp_path)) for number in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    first, second = (pickle.loads((tmp_path / f"{number}.pkl").read_bytes()) for number in range(2))
    evaluation, seen = plain
    assert sorted(first["seen"] + second["seen"]) == sorted(f"{s.domain}/{s.sample.name}" for s in seen)
    assert not set(first["seen"]) & set(second["seen"])
    for kept in (first, second):
        assert kept["matrices"] == matrices(evaluation)
        assert kept["images"] == image_matrices(evaluation)
        assert kept["counts"] == {"val": 5, "dusk": 3}


def test_processes_without_a_group_are_a_bug(folder):
    tool = predictor(folder)
    with pytest.raises(RuntimeError, match="process group"):
        evaluate(tool, val_samples(tool.settings), workers=0, rank=Rank(0, 2))


# --- what does not fit -------------------------------------------------------------------------------------


def test_other_classes_are_refused(folder):
    chosen = tiny.settings(data=tiny.own_data(folder, SPLITS))
    model = tiny.model(tiny.settings())
    from reincli.data.labels import CITYSCAPES

    tool = Predictor(model, CITYSCAPES, chosen, torch.device("cpu"), "fp32")
    with pytest.raises(
        ReinError, match=r"19 classes \(road, sidewalk, building, …\), the dataset 'toy' has 3"
    ):
        evaluate(tool, val_samples(chosen), workers=0)


def test_a_label_of_another_size_is_named(folder, tmp_path):
    tiny.write_toy(tmp_path, SPLITS)
    write_png(tmp_path / "labels" / "val" / "1.png", np.zeros((64, 90), np.uint8))
    tool = predictor(tmp_path)
    with pytest.raises(ReinError, match=r"1\.png' is 90x64, but its image is 96x64"):
        evaluate(tool, val_samples(tool.settings))


def test_what_has_a_partner_can_be_scored(tmp_path):
    tiny.write_toy(tmp_path, SPLITS)
    (tmp_path / "labels" / "val" / "1.png").unlink()
    (tmp_path / "images" / "dusk" / "2.png").unlink()
    data = tiny.settings(data=tiny.own_data(tmp_path, SPLITS)).data
    found, alone = scorable_samples("toy:val", data)
    assert [sample.name for sample in found] == ["0.png", "2.png"]
    assert alone == ["1.png"]
    found, alone = scorable_samples("toy:dusk", data)
    assert (len(found), alone) == (2, ["2.png"])
    for path in (tmp_path / "labels" / "val").iterdir():
        path.unlink()
    with pytest.raises(ReinError, match="No image of 'toy:val'"):
        scorable_samples("toy:val", data)


def test_domains_of_one_name_in_two_datasets_are_kept_apart(plain):
    from dataclasses import replace

    first = plain[1][0].sample
    other = replace(first, dataset="other")
    assert domain_names([first, other]) == {("toy", "val"): "toy:val", ("other", "val"): "other:val"}
    assert domain_names([first, replace(first, domain="x")]) == {("toy", "val"): "val", ("toy", "x"): "x"}


def test_published_scores_stand_beside_what_they_are_of(plain, folder):
    evaluation, _ = plain
    tool = predictor(folder)
    told = report(tool, evaluation, "x.pth")
    assert (told["published_mean"], told["published_protocol"]) == (None, False)

    def with_published(*values: str) -> dict:
        tool.settings = build_settings(tool.settings.model_dump(mode="json"), values)
        return report(tool, evaluation, "x.pth", ["toy:val", "toy:dusk"])

    assert with_published("published={val = 60.0, dusk = 50.0}")["published_mean"] == 55.0
    assert with_published("published={'toy:dusk' = 41.0}", "data.mean=['dusk']")["published_mean"] == 41.0
    assert with_published("published={x = 1.0}")["published_mean"] is None
