"""The output kernel against the plain form. Run by `test_output.py`, see `triton_cases.py`."""

from __future__ import annotations

import pytest
import torch
from triton_cases import DEVICE, relative

from reincli.ops import output, output_triton
from reincli.ops.output import class_labels, class_scores, labels_plain, scores_plain


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Take the kernel where it would not be chosen: on the CPU, under the interpreter, in few large programs."""
    monkeypatch.setattr(output, "_by_triton", lambda *of: True)
    if DEVICE == "cpu":
        monkeypatch.setattr(output_triton, "PIXELS", 512)
        monkeypatch.setattr(output_triton, "ACCUMULATORS", 2**14)
        monkeypatch.setattr(output_triton, "CHUNK", 32)


def inputs(batch, queries, classes, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(batch, queries, height, width, generator=generator)
    shares = (3 * torch.randn(batch, queries, classes + 1, generator=generator)).softmax(-1)
    return logits.to(DEVICE), shares.to(DEVICE)[..., :-1]  # not contiguous, as the model gives it


def same_but_for_ties(ours, logits, shares, size):
    """Labels may differ from the plain form where its two best scores are as good as equal."""
    best = scores_plain(logits, shares, size).topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-4
    assert clear.float().mean() > 0.9
    assert torch.equal(ours[clear], labels_plain(logits, shares, size)[clear])


@pytest.mark.parametrize(
    ("batch", "queries", "classes", "masks", "size"),
    [
        (1, 100, 19, (3, 8), (12, 32)),  # the head's own numbers, a small image
        (1, 17, 19, (3, 35), (4, 131)),  # odd sizes, neither four times as large; several tiles
        (3, 5, 2, (1, 1), (3, 2)),  # a single pixel
        (1, 20, 40, (5, 7), (5, 7)),  # the masks' own size; more classes
        (1, 16, 3, (9, 11), (4, 6)),  # made smaller
    ],
)
def test_scores_and_labels(batch, queries, classes, masks, size):
    logits, shares = inputs(batch, queries, classes, *masks)
    ours = class_scores(logits, shares, size)
    plain = scores_plain(logits, shares, size)
    assert ours.dtype == torch.float32
    assert relative(ours, plain) < 1e-5
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    found = class_labels(logits, shares, size)
    assert found.dtype == torch.uint8
    same_but_for_ties(found, logits, shares, size)


def test_low_types_are_mixed_in_fp32():
    logits, shares = inputs(1, 20, 3, 4, 4)
    ours = class_scores(logits.bfloat16(), shares, (16, 16))
    assert relative(ours, scores_plain(logits.bfloat16(), shares, (16, 16))) < 1e-5


def test_the_first_of_equals_wins():
    logits, shares = inputs(1, 4, 5, 2, 2)
    shares = shares.clone()
    shares[..., 1] = shares[..., 3] = 1.0
    shares[..., [0, 2, 4]] = 0.0
    assert (class_labels(logits, shares, (4, 8)) == 1).all()


def test_masks_far_from_zero():
    logits, shares = inputs(1, 16, 3, 2, 2)
    torch.testing.assert_close(
        class_scores(logits * 1e3, shares, (8, 8)),
        scores_plain(logits * 1e3, shares, (8, 8)),
        rtol=1e-3,
        atol=1e-3,
    )


def test_masks_that_are_not_contiguous():
    logits, shares = inputs(2, 16, 3, 3, 5)
    turned = logits.transpose(2, 3).contiguous().transpose(2, 3)
    assert not turned.is_contiguous()
    assert torch.equal(class_scores(turned, shares, (6, 10)), class_scores(logits, shares, (6, 10)))


def test_the_operators_keep_torchs_rules():
    logits, shares = inputs(1, 4, 3, 2, 2)
    for operator in (output_triton.scores, output_triton.labels):
        torch.library.opcheck(operator, (logits, shares, 4, 4), test_utils="test_faketensor")
