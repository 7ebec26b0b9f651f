"""A model far from its scale is told once; sizes to the pixel."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reincli.config import parse_size
from reincli.data.dataset import eval_size
from reincli.prediction.artist import Artist
from reincli.settings_files import load_settings


def artist(preset: str, size: str = "native") -> Artist:
    return Artist([SimpleNamespace(settings=load_settings(preset))], size=size)


def test_frames_far_larger_than_the_test_images_are_told_once():
    small = artist("demo")
    told = small.far_from_scale((720, 960, 3))
    assert "960x720 are 4.6 times as large" in told
    assert "--size 256x128" in told
    assert small.far_from_scale((720, 960, 3)) == ""


def test_small_photographs_are_far_from_the_demos_scale_too():
    assert "480x360 are 2.3 times as large" in artist("demo").far_from_scale((360, 480, 3))


@pytest.mark.parametrize(
    ("preset", "size", "shape"),
    [
        ("demo", "256x128", (720, 960)),
        ("demo", "native", (128, 256)),
        ("gta2citys", "native", (1024, 2048)),
        ("citys2acdc", "native", (2160, 3840)),
    ],
)
def test_usual_sizes_are_not(preset, size, shape):
    assert artist(preset, size).far_from_scale(shape) == ""


def test_a_size_keeps_the_ratio_unless_it_is_marked_exact():
    assert parse_size("480x352!") == (480, 352)
    assert eval_size(480, 640, "480x352") == (352, 469)
    assert eval_size(480, 640, "480x352!") == (352, 480)


def test_the_size_that_came_of_it_is_told_once():
    drawn = artist("demo", "480x352")
    assert drawn.remarks((480, 640, 3)) == [
        "Images of 640x480 are predicted at 469x352: their ratio is kept within 480x352. To the pixel: "
        "--size '480x352!'"
    ]
    assert drawn.remarks((480, 640, 3)) == []
    assert artist("demo", "480x352!").remarks((480, 640, 3)) == []
    assert artist("demo", "480x360").remarks((480, 640, 3)) == []
