"""Generated streets with strange things: exact labels, nothing else changed, the same files from the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from reincli.generated.strange import STRANGE, generate_strange, write_strange
from reincli.generated.streets import DOMAINS, generate
from reincli.media.images import read_image, read_label


@pytest.mark.parametrize("domain", DOMAINS)
def test_only_the_strange_things_are_unknown(domain):
    image, label = generate_strange(3, domain)
    plain, ids = generate(3, domain)
    assert image.shape == plain.shape == (256, 512, 3)
    assert set(np.unique(label)) <= {0, 1, 255}
    assert 0.0005 < (label == 1).mean() < 0.3
    known = label != 1
    np.testing.assert_array_equal(label[known] == 255, np.isin(ids[known], (0, 10)))
    if domain == "clear":  # weather and lamps reach beyond a thing, blur reaches a little
        change = np.abs(image.astype(int) - plain).max(-1)
        assert (change[known] > 8).mean() < 0.01
        assert (change[label == 1] > 8).mean() > 0.6


def test_training_streets_have_nothing_strange():
    assert not any((generate(seed, "clear")[1] == STRANGE).any() for seed in range(5))


def test_every_street_has_something_strange():
    assert all((generate_strange(seed)[1] == 1).any() for seed in range(40))


def test_the_same_seed_writes_the_same(tmp_path):
    for name in "ab":
        write_strange(tmp_path / name, 2, domain="fog", size=(256, 128))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert [path.as_posix() for path in files] == [
        f"{kind}/strange_fog_000007_00000{number}.png" for kind in ("images", "labels") for number in range(2)
    ]
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert read_image(tmp_path / "a" / files[0]).shape == (128, 256, 3)
    assert set(np.unique(read_label(tmp_path / "a" / files[2]))) <= {0, 1, 255}
