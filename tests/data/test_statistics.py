"""Class statistics in the original's form, rare classes drawn from them, and kept listings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chisquare

from reincli.commands.prepare_data import run
from reincli.config import AugmentSettings, DataSettings
from reincli.data import index
from reincli.data.dataset import TrainDataset
from reincli.data.sampling import class_probabilities, from_counts, rare_classes
from reincli.data.sources import find_samples
from reincli.data.statistics import read_statistics
from reincli.errors import ReinError
from reincli.media.images import write_png
from reincli.media.whole_files import temporary_beside


def gta(root: Path) -> None:
    """Label ids 7 (road) and 26 (car, in the second alone)."""
    for name, stored in (("1", np.full((6, 8), 7, np.uint8)), ("2", np.full((6, 8), 7, np.uint8))):
        if name == "2":
            stored[:2] = 26
        write_png(root / f"images/{name}.png", np.full((6, 8, 3), 90, np.uint8))
        write_png(root / f"labels/{name}.png", stored)


def test_statistics_have_the_originals_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gta(Path("data/gta"))
    run("gta", None, workers=1)
    one, two = (f"data/gta/labels/{n}_labelTrainIds.png" for n in "12")
    read = {path.name: json.loads(path.read_text()) for path in Path("data/gta").glob("*.json")}
    assert read == {
        "sample_class_stats.json": [{"0": 48, "file": one}, {"0": 32, "13": 16, "file": two}],
        "sample_class_stats_dict.json": {one: {"0": 48}, two: {"0": 32, "13": 16}},
        "samples_with_class.json": {"0": [[one, 48], [two, 32]], "13": [[two, 16]]},
    }


def test_statistics_follow_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "gta"
    gta(root)
    run("gta", root, workers=1)
    before = {p: p.stat().st_mtime_ns for p in root.glob("*.json")}
    run("gta", root, workers=1)
    assert "Nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in root.glob("*.json")}
    made = root / "labels/1_labelTrainIds.png"
    write_png(made, np.full((6, 8), 10, np.uint8))
    os.utime(made, (time.time() + 5, time.time() + 5))
    run("gta", root, workers=1)
    assert read_statistics(root)["1_labelTrainIds.png"] == {10: 48}
    for name in ("images/2.png", "labels/2.png", "labels/2_labelTrainIds.png"):
        (root / name).unlink()
    run("gta", root, workers=1)
    assert set(read_statistics(root)) == {"1_labelTrainIds.png"}


def test_counting_clears_what_a_killed_process_left(tmp_path: Path) -> None:
    root = tmp_path / "gta"
    gta(root)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = temporary_beside(root / "samples_with_class.json")
    left = left.with_name(left.name.replace(f".{os.getpid()}.", f".{dead.pid}."))
    left.touch()
    run("gta", root, workers=1)
    assert not left.exists()
    assert read_statistics(root)


def test_urbansyn_is_counted_without_its_void_and_not_rewritten(tmp_path: Path) -> None:
    root = tmp_path / "urbansyn"
    write_png(root / "rgb/rgb_1.png", np.zeros((6, 8, 3), np.uint8))
    stored = np.full((6, 8), 19, np.uint8)
    stored[0] = 3
    write_png(root / "ss/ss_1.png", stored)
    original = (root / "ss/ss_1.png").read_bytes()
    run("urbansyn", root, workers=1)
    assert read_statistics(root) == {"ss_1.png": {3: 8}}
    assert (root / "ss/ss_1.png").read_bytes() == original


# --- rare classes ------------------------------------------------------------------------------------------


def test_probabilities_are_daformers() -> None:
    pixels = np.array([90.0, 9.0, 1.0])
    weights = np.exp((1 - np.array([0.9, 0.09, 0.01])) / 0.5)
    np.testing.assert_allclose(class_probabilities(pixels, 0.5), weights / weights.sum())
    assert class_probabilities(pixels, 1e-4)[2] == pytest.approx(1)
    np.testing.assert_allclose(class_probabilities(pixels, 1e6), 1 / 3, atol=1e-5)


def test_draws_follow_the_probabilities() -> None:
    """Chi-square over (class, image); fixed seed, chance of a false alarm when reseeded 1 in 10,000."""
    counts = np.array([[500, 0, 0], [400, 100, 0], [450, 0, 50], [500, 100, 0]])
    rare = from_counts(counts, 0.5, 40)
    draws = [rare.draw(np.random.default_rng([3, n])) for n in range(6000)]
    drawn = np.bincount([number for number, _ in draws], minlength=4)
    assert all(counts[number, wanted.index] >= 40 and wanted.pixels == 20 for number, wanted in draws)
    p = class_probabilities(counts.sum(0), 0.5)
    expected = 6000 * (
        p[0] / 4 * np.ones(4) + p[1] / 2 * np.array([0, 1, 0, 1]) + p[2] * np.array([0, 0, 1, 0])
    )
    assert chisquare(drawn, expected).pvalue > 1e-4


def test_training_draws_images_of_rare_classes(tmp_path: Path) -> None:
    gta(tmp_path / "gta")
    run("gta", tmp_path / "gta", workers=1)
    settings = {"root": str(tmp_path), "rare_class_sampling": True, "rare_class_pixels": 10}
    data = DataSettings.model_validate(settings)
    samples = find_samples("gta", data)
    assert rare_classes(samples, DataSettings(root=str(tmp_path))) is None
    rare = rare_classes(samples, data)
    dataset = TrainDataset(samples, {}, AugmentSettings(), 0, rare)
    names = [dataset.drawn(draw)[0].name for draw in range(200)]
    assert names.count("2.png") > 180
    assert names == [dataset.drawn(draw)[0].name for draw in range(200)]
    with pytest.raises(ReinError, match="No training image has 3000 pixels"):
        rare_classes(samples, data.model_copy(update={"rare_class_pixels": 3000}))
    (tmp_path / "gta/sample_class_stats.json").unlink()
    with pytest.raises(ReinError, match="needs the class statistics of 'gta'"):
        rare_classes(samples, data)


# --- kept listings -----------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "WORTH_KEEPING", 3)
    monkeypatch.setattr(index, "SETTLED", -60.0)  # the tree is of this moment
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "tree"


def test_a_listing_is_kept_until_a_folder_changes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = index.list_files(tree, ".png")
    assert names == ["a/1.png", "a/2.png", "b/3.png"]
    monkeypatch.setattr(index, "_walk", lambda *args: pytest.fail("the tree was walked"))
    assert index.list_files(tree, ".png") == names
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree.parent / "cache"))
    before = (tree / "b").stat()
    (tree / "b/4.png").touch()
    os.utime(tree / "b", ns=(before.st_atime_ns, before.st_mtime_ns))  # as an unpacker may set it back
    assert index.list_files(tree, ".png") == [*names, "b/4.png"]
    (tree / "a/1.png").unlink()
    assert index.list_files(tree, ".png") == ["a/2.png", "b/3.png", "b/4.png"]


def test_a_folder_that_has_just_changed_is_listed_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED", 60.0)
    index.list_files(tree, ".png")
    assert not index.kept_at(tree, ".png").exists()


@pytest.mark.parametrize("grain", [1, 2])
def test_a_change_within_the_grain_of_a_disks_times_is_not_missed(
    tree: Path, monkeypatch: pytest.MonkeyPatch, grain: int
) -> None:
    """A disk whose times are whole seconds, and a walk so slow that its end is long after the change it missed."""
    now = [1000.0 * grain]
    changed = dict.fromkeys(("a", "b", ""), now[0])

    names_of = {(tree / name).stat().st_ino: name for name in changed}

    def times(facts: os.stat_result) -> list[int]:
        return [int(changed[names_of[facts.st_ino]] // grain * grain * 1e9)] * 2

    monkeypatch.setattr(index, "SETTLED", 60.0)
    monkeypatch.setattr(index, "_times", times)
    monkeypatch.setattr(index, "time", SimpleNamespace(time=lambda: now[0]))
    real = index._walk

    def slow(*given: object) -> Iterator[str]:
        names = list(real(*given))
        if given[1]:  # a folder below
            yield from names
            return
        now[0] += 0.3 * grain  # within the grain, the folder was read already
        (tree / "a/new.png").touch()
        changed["a"] = now[0]
        now[0] += 600
        yield from names

    monkeypatch.setattr(index, "_walk", slow)
    assert len(index.list_files(tree, ".png")) == 3
    monkeypatch.setattr(index, "_walk", real)
    assert "a/new.png" in index.list_files(tree, ".png")


def test_a_damaged_listing_is_not_trusted(tree: Path) -> None:
    index.list_files(tree, ".png")
    assert index.kept_at(tree, ".png").exists()
    for damage in ("", "[]", '{"folders": 3}', '{"folders": {}}'):
        index.kept_at(tree, ".png").write_text(damage)
        assert len(index.list_files(tree, ".png")) == 3


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").touch()
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/2.png").touch()
    assert index.list_files(tmp_path / "a", ".png")[:2] == ["1.png", "other/2.png"]
