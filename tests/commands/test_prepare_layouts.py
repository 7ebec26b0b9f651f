"""Every dataset as it is downloaded, through the whole command: each pixel, each count; no original is touched."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import layouts
import numpy as np
import pytest
from terminal import rein

from reincli.config import DataSettings
from reincli.data.labels import CITYSCAPES
from reincli.data.layouts import CORRUPTIONS
from reincli.data.loading import load_label
from reincli.data.sources import find_samples, label_table
from reincli.errors import ReinError
from reincli.media.images import read_image

MADE = {"cityscapes": 4, "gta": 2, "synthia": 2, "urbansyn": 0, "mapillary": 8, "bdd100k": 0, "acdc": 16}
"""Files that have to be made of each dataset, of which ACDC brings those of fog."""
BROUGHT = {"acdc": 4}


def prepare(dataset: str, root: Path, *words: object) -> dict[str, Any]:
    done = rein("prepare-data", dataset, root, "--workers", 2, "--json", *words)
    return json.loads(done.stdout)


@pytest.mark.parametrize("dataset", MADE)
def test_every_pixel_is_that_of_the_label_it_was_made_from(tmp_path: Path, dataset: str) -> None:
    root = tmp_path / dataset
    expected = layouts.write(dataset, root)
    brought = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    first = prepare(dataset, root)
    kept = BROUGHT.get(dataset, 0)
    assert (first["written"], first["kept"]) == (MADE[dataset] - kept, kept)
    data = DataSettings(root=str(tmp_path))
    for source, labels in expected.items():
        samples = {sample.name: sample for sample in find_samples(source, data)}
        assert set(samples) == set(labels)
        for name, label in labels.items():
            np.testing.assert_array_equal(load_label(samples[name], label_table(dataset, data)), label)
            assert sorted(read_image(samples[name].image).shape[:2]) == sorted(label.shape)
    assert all(path.read_bytes() == content for path, content in brought.items())
    again = prepare(dataset, root)
    assert (again["written"], again["kept"]) == (0, MADE[dataset])

    splits = prepare(dataset, root, "--check")["splits"]
    assert set(splits) == {source.partition(":")[2] or "train" for source in expected}
    for source, labels in expected.items():
        found = splits[source.partition(":")[2] or "train"]
        counts = Counter(np.concatenate([label.ravel() for label in labels.values()]).tolist())
        assert found["images"] == found["pairs"] == len(labels)
        assert found["pixels"] == {name: counts[index] for index, name in enumerate(CITYSCAPES.names)}
        assert found["ignored"] == counts[255]
        faults = {kind for kind, names in found.items() if isinstance(names, list) and names}
        assert faults == ({"turned", "lone"} if source == "bdd100k:val" else set())


def test_the_odd_files_of_bdd_are_named(tmp_path: Path) -> None:
    layouts.write("bdd100k", tmp_path)
    found = prepare("bdd100k", tmp_path, "--check")["splits"]["val"]
    assert found["turned"] == [f"{layouts.BDD_TURNED}.jpg is 128x64, its label 64x128"]
    assert set(found["lone"]) == {f"{layouts.BDD_NO_LABEL}.jpg", f"{layouts.BDD_NO_IMAGE}.png"}


def test_the_half_size_copy_of_mapillary_is_bicubic(tmp_path: Path) -> None:
    layouts.write("mapillary", tmp_path)
    prepare("mapillary", tmp_path)
    for path in (tmp_path / "half/val_img").iterdir():
        whole = read_image(tmp_path / "validation/images" / path.name)
        assert whole.shape[:2] == (65, 129)
        half = cv2.resize(whole, (64, 32), interpolation=cv2.INTER_CUBIC)
        assert np.abs(read_image(path).astype(int) - half).mean() < 5


def test_cityscapes_c_is_made_by_two_processes_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("imagecorruptions", reason="the extra [corruptions] is not installed")
    labels = layouts.write("cityscapes", tmp_path / "cityscapes")["cityscapes:val"]
    prepare("cityscapes", tmp_path / "cityscapes")
    root = tmp_path / "cityscapes-c"
    words = [word for name in CORRUPTIONS if name != "glass_blur" for word in ("--corruption", name)]
    count = len(words) // 2 * len(labels)  # glass_blur takes half a minute to compile
    assert prepare("cityscapes-c", root, *words)["written"] == count
    made = {path: path.read_bytes() for path in root.rglob("*.png")}
    assert len(made) == count
    for path in sorted(made)[::2]:
        path.unlink()
    assert prepare("cityscapes-c", root, *words)["written"] == count / 2
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == made
    for path in made:
        original = tmp_path / "cityscapes/leftImg8bit/val" / path.parent.name / path.name
        assert (read_image(path) != read_image(original)).any()
    with pytest.raises(ReinError, match="glass_blur"):
        find_samples("cityscapes-c", DataSettings(root=str(tmp_path)))
    for name in labels:
        (root / f"glass_blur/5/{name}").parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / f"fog/5/{name}", root / f"glass_blur/5/{name}")
    for sample in find_samples("cityscapes-c", DataSettings(root=str(tmp_path))):
        label = load_label(sample, label_table("cityscapes-c", DataSettings()))
        np.testing.assert_array_equal(label, labels["/".join(Path(sample.name).parts[2:])])
