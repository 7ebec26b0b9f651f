"""Text on pictures is readable with every OpenCV, in every script that a face is there for."""

from __future__ import annotations

import numpy as np
import pytest

from reincli.media import text
from reincli.media.legend import Entry, strip


def ink(words: str, height: int = 20) -> tuple[np.ndarray, int]:
    """Where a text leaves ink, (60, 300) bool from column 5 on, and its measured width."""
    picture = np.full((60, 305, 3), 255, np.uint8)
    text.write(picture, words, 5, 30, height, (0, 0, 0))
    return (picture < 128).any(axis=2)[:, 5:], text.measure(words, height)


@pytest.mark.parametrize("strokes", [False, True])
@pytest.mark.parametrize("words", ["traffic light", "Straße", "небо", "δρόμος"])
def test_a_text_lies_within_what_it_measures(monkeypatch, strokes, words):
    if strokes:  # OpenCV 4 has no face
        monkeypatch.setattr(text, "_font", lambda: None)
    drawn, width = ink(words)
    columns, rows = (np.flatnonzero(drawn.any(axis=axis)) for axis in (0, 1))
    assert len(columns) > 3 * len(words)
    assert columns[-1] <= width + 2
    assert width <= columns[-1] + 8
    assert rows[0] >= 30 - 20
    assert rows[-1] <= 30 + 20


def test_letters_that_strokes_lack_differ_from_one_another(monkeypatch):
    monkeypatch.setattr(text, "_font", lambda: None)
    assert not np.array_equal(ink("небо")[0], ink("бено")[0])
    assert not np.array_equal(ink("Straße")[0], ink("Stra??e")[0])


def test_a_legend_with_every_opencv(monkeypatch):
    monkeypatch.setattr(text, "_font", lambda: None)
    entries = [Entry(name, (128, 64, 128)) for name in ("дорога", "небо")]
    drawn = strip(entries, 200, 16)
    assert drawn.shape[1] == 200
    assert (drawn.min(axis=2) < 100).any()
