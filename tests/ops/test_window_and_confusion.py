"""Windows, resizing in bands, confusion matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from reincli.ops import window
from reincli.ops.confusion import confusion_matrix, scores
from reincli.ops.resample import resize_grid, resize_kernel, resize_positions, resized_bands
from reincli.ops.window import ViewAverage, WindowAverage, best_class, resized_argmax, window_boxes


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 300), st.integers(1, 300))
def test_windows_cover_every_pixel_and_stay_inside(height, width, side, stride):
    stride = min(stride, side)
    boxes = window_boxes(height, width, side, stride)
    covered = np.zeros((height, width), bool)
    for top, bottom, left, right in boxes:
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        assert (bottom - top, right - left) == (min(side, height), min(side, width))
        covered[top:bottom, left:right] = True
    assert covered.all()
    assert len(set(boxes)) == len(boxes)


@pytest.mark.parametrize(
    ("size", "windows"),
    [((512, 1024), 3), ((600, 900), 6), ((512, 512), 1), ((300, 400), 1), ((1024, 2048), 18)],
)
def test_number_of_windows_of_the_512_protocol(size, windows):
    assert len(window_boxes(*size, 512, 341)) == windows


def test_overlaps_are_averaged():
    average = WindowAverage(1, 1, 6, torch.device("cpu"))
    average.add(torch.full((1, 1, 4), 2.0), (0, 1, 0, 4))
    average.add(torch.full((1, 1, 4), 4.0), (0, 1, 2, 6))
    assert average.mean().flatten().tolist() == [2, 2, 3, 3, 4, 4]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 60), st.integers(1, 60), st.integers(1, 20))
def test_resizing_in_bands_is_resizing_at_once(h, w, height, width, rows):
    maps = torch.randn(3, h, w, generator=torch.Generator().manual_seed(h * 31 + w))
    whole = F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    banded = torch.cat([band for _, band in resized_bands(maps, (height, width), rows)], dim=1)
    torch.testing.assert_close(banded, whole, rtol=1e-4, atol=1e-5)
    labels = resized_argmax(maps, (height, width), rows)
    assert labels.shape == (height, width)
    margin = whole.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-4
    assert torch.equal(labels[margin], whole.argmax(0).to(torch.uint8)[margin])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 90), st.integers(1, 90), st.integers(2, 6))
def test_classes_worked_out_where_corners_differ_are_those_of_resizing_at_once(h, w, height, width, classes):
    generator = torch.Generator().manual_seed(h * 31 + w)
    areas = torch.randint(classes, (-(-h // 5), -(-w // 5)), generator=generator)
    areas = areas.repeat_interleave(5, 0).repeat_interleave(5, 1)[:h, :w]
    maps = 4 * F.one_hot(areas, classes).permute(2, 0, 1) + torch.rand(classes, h, w, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "MOST_UNSURE", 1.0)
        patch.setattr(window, "CORNER_ELEMENTS", 37)  # several parts
        patch.setattr(window, "resized_bands", None)  # never needed
        labels = resized_argmax(maps, (height, width)) if (h, w) != (height, width) else None
    whole = F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    margin = whole.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-4
    if labels is not None:
        assert torch.equal(labels[margin], whole.argmax(0).to(torch.uint8)[margin])
        assert margin.float().mean() > 0.5


def test_maps_of_noise_are_resized_whole():
    maps = torch.randn(5, 20, 30, generator=torch.Generator().manual_seed(0))
    assert window._labels_by_corners(maps, (60, 90)) is None
    whole = F.interpolate(maps[None], size=(60, 90), mode="bilinear", align_corners=False)[0]
    assert torch.equal(resized_argmax(maps, (60, 90)), whole.argmax(0).to(torch.uint8))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("size", [(20, 30), (45, 61)])
def test_scores_that_are_no_numbers_have_no_class(value, size):
    maps = torch.rand(3, 20, 30)
    maps[1, 7, 7] = value
    assert (resized_argmax(maps, size) == 255).all()


@given(st.integers(1, 255), st.integers(0, 500))
def test_the_best_class_is_the_first_of_the_largest(classes, seed):
    maps = torch.randint(0, 4, (classes, 5, 7), generator=torch.Generator().manual_seed(seed)).float()
    expected = torch.from_numpy(maps.numpy().argmax(0)).to(torch.uint8)
    assert torch.equal(best_class(maps), expected)


def test_views_are_squashed_before_they_are_averaged():
    first, second = torch.tensor([9.0, 0.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    average = ViewAverage(3, (1, 2), torch.device("cpu"))
    for view in (first, second, second):
        average.add(view[:, None, None].expand(3, 1, 2))
    assert average.label().tolist() == [[1, 1]]  # plain sums would say 0
    average = ViewAverage(2, (1, 2), torch.device("cpu"))
    average.add(torch.tensor([[[5.0, 0.0]], [[0.0, 5.0]]]), mirrored=True)
    assert average.label().tolist() == [[1, 0]]


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 500))
def test_confusion_matrix_counts_pixels(classes, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes + 1, (9, 11))
    label[label == classes] = 255
    prediction = rng.integers(0, classes, (9, 11))
    matrix = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(label), classes).numpy()
    expected = np.zeros((classes, classes), int)
    for row, column in zip(label.ravel(), prediction.ravel(), strict=True):
        if row != 255:
            expected[row, column] += 1
    np.testing.assert_array_equal(matrix, expected)


def test_scores_leave_out_classes_that_do_not_occur():
    matrix = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    result = scores(matrix)
    assert result.iou[:2].tolist() == [75.0, 80.0]
    assert np.isnan(result.iou[2])
    assert result.miou == 77.5
    assert result.aacc == 87.5
    assert np.isnan(scores(np.zeros((2, 2))).miou)


def test_resampling_to_the_same_size_changes_nothing():
    positions, kernel = torch.randn(1, 17, 8), torch.randn(8, 3, 16, 16)
    assert resize_positions(positions, 1, (4, 4), (4, 4)) is positions
    assert resize_kernel(kernel, 16) is kernel
    grid = torch.randn(4, 5, 8)
    assert resize_grid(grid, (4, 5)) is grid


def test_the_class_position_is_kept():
    positions = torch.randn(1, 17, 8)
    resized = resize_positions(positions, 1, (4, 4), (6, 3))
    assert resized.shape == (1, 19, 8)
    assert torch.equal(resized[:, 0], positions[:, 0])
