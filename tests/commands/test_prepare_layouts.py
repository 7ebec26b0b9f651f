"""Every dataset as it is downloaded, through the whole command: each pixel, each count; no original is touched."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
from PIL import Image
from terminal import rein

from reincli.config import DataSettings
from reincli.data.labels import CITYSCAPES, MAPILLARY
from reincli.data.layouts import CORRUPTIONS
from reincli.data.loading import load_label
from reincli.data.sources import find_samples, label_table
from reincli.data.vistas import VISTAS_2
from reincli.errors import ReinError
from reincli.media.images import jpeg_turn, read_image, read_label, with_turn

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


def test_the_half_size_copy_of_mapillary_is_pillows(tmp_path: Path) -> None:
    """To the byte, odd sizes, grey and turned photographs too: the published score stands on it."""
    labels = layouts.write("mapillary", tmp_path)["mapillary:val"]
    (tmp_path / "half/val_img").mkdir(parents=True)
    first, second, *_ = sorted(path.name for path in (tmp_path / "validation/images").iterdir())
    Image.open(tmp_path / "validation/images" / first).convert("L").save(
        tmp_path / "validation/images" / first
    )
    turned = tmp_path / "validation/images" / second
    turned.write_bytes(with_turn(turned.read_bytes(), 6))
    prepare("mapillary", tmp_path)
    for path in sorted((tmp_path / "half/val_img").iterdir()):
        with Image.open(tmp_path / "validation/images" / path.name) as opened:
            assert opened.size == (129, 65)
            half = opened.convert("RGB").resize((64, 32), Image.Resampling.BICUBIC)
        plain = io.BytesIO()
        half.save(plain, "JPEG")  # at Pillow's own quality, 75
        made = path.read_bytes()
        assert jpeg_turn(path) == (6 if path.name == second else 1)
        assert made == (plain.getvalue() if path.name != second else with_turn(plain.getvalue(), 6))
        stored = Image.open(tmp_path / "validation/v1.2/labels" / path.with_suffix(".png").name)
        small = by_name()[np.asarray(stored.resize((64, 32), Image.Resampling.NEAREST))]
        np.testing.assert_array_equal(read_label(tmp_path / "half/val_label" / f"{path.stem}.png"), small)
        np.testing.assert_array_equal(small, labels[path.name])


def by_name() -> np.ndarray:
    return np.array([index for _, index in MAPILLARY], np.uint8)


def test_version_2_of_mapillary_is_mapped_by_name_and_never_mixed(tmp_path: Path) -> None:
    expected = layouts.write("mapillary", tmp_path / "mapillary")
    root = tmp_path / "mapillary"
    assert len(VISTAS_2) == 124
    assert {
        name: index for name, index in VISTAS_2 if name.startswith(("object--traffic-l", "human--r"))
    } == {
        **dict.fromkeys((name for name, _ in VISTAS_2 if name.startswith("object--traffic-light")), 6),
        **dict.fromkeys((name for name, _ in VISTAS_2 if name.startswith("human--rider")), 12),
    }
    prepare("mapillary", root, "--version", "v2.0")
    data = DataSettings(root=str(tmp_path))
    for source, labels in expected.items():
        for sample in find_samples(source, data):
            read = load_label(sample, label_table("mapillary", data))
            np.testing.assert_array_equal(read, labels[sample.name])
    made = {path: path.read_bytes() for path in (root / "cityscapes_trainIdLabel").rglob("*.png")}
    assert "made from version 2.0, not 1.2" in rein("prepare-data", "mapillary", root, code=1).stderr
    assert made == {path: path.read_bytes() for path in made}
    prepare("mapillary", root, "--force")
    assert (root / "cityscapes_trainIdLabel/version.txt").read_text() == "v1.2\n"
    for version in ("v1.2", "v2.0"):
        assert rein("prepare-data", "gta", root, "--version", version, code=2).stderr
    assert "no version 'v3'" in rein("prepare-data", "mapillary", root, "--version", "v3", code=2).stderr


@pytest.mark.parametrize("below", ["training/labels", "training/v1.2/labels"])
def test_labels_of_version_2_are_never_read_as_1_2(tmp_path: Path, below: str) -> None:
    """Even those of its labels that happen to have low ids alone."""
    low = np.full((8, 8), 21, np.uint8)
    for number in range(40):
        layouts.jpeg(tmp_path / f"training/images/{number:02}.jpg", np.zeros((8, 8, 3), np.uint8))
        stored = low if number % 2 else layouts.vistas_2(np.arange(64, dtype=np.uint8).reshape(8, 8) % 19)
        layouts.palette_png(tmp_path / f"{below}/{number:02}.png", stored)
    done = rein("prepare-data", "mapillary", tmp_path, code=1)
    assert "are of version 2.0: they have ids above 65" in done.stderr
    assert not list((tmp_path / "cityscapes_trainIdLabel").rglob("*.png"))
    if below == "training/labels":
        prepare("mapillary", tmp_path, "--version", "v2.0")
        made = read_label(tmp_path / "cityscapes_trainIdLabel/train/label/01.png")
        assert (made == 0).all()  # id 21 is the road of 2.0


def test_a_version_that_is_not_there_is_said(tmp_path: Path) -> None:
    layouts.palette_png(tmp_path / "training/v2.0/labels/a.png", np.full((8, 8), 108, np.uint8))
    done = rein("prepare-data", "mapillary", tmp_path, code=1)
    assert "labels of version 2.0 alone; 1.2 was asked for" in done.stderr
    assert "--version v2.0" in done.stderr
    layouts.palette_png(tmp_path / "b/training/labels/a.png", np.full((8, 8), 13, np.uint8))
    done = rein("prepare-data", "mapillary", tmp_path / "b", "--version", "v2.0", code=1)
    assert "they look like version 1.2" in done.stderr
    layouts.palette_png(tmp_path / "c/training/v2.0/labels/a.png", np.full((8, 8), 124, np.uint8))
    done = rein("prepare-data", "mapillary", tmp_path / "c", "--version", "v2.0", code=1)
    assert "has id 124; version 2.0 of Mapillary Vistas ends at 123" in done.stderr


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
