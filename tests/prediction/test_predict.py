"""The Python API: every kind of picture, batches, probabilities, drawings; the same numbers as the parts give."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import reincli
from reincli.data.dataset import to_tensor
from reincli.data.labels import CITYSCAPES
from reincli.engine.device import forget_peak, full_fp32, peak_memory
from reincli.errors import ReinError
from reincli.media.images import write_png
from reincli.ops.confidence import probabilities, resized_confidence, resized_probabilities
from reincli.ops.window import resized_argmax
from reincli.prediction.artist import Artist
from reincli.prediction.predict import Predictor

RGB = np.random.default_rng(0).integers(0, 255, (70, 150, 3), np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny.write_backbone(folder / "backbone.pth", tiny.settings())
    tiny.write_checkpoint(folder / "head.pth", tiny.settings())
    return folder


@pytest.fixture(scope="module")
def seg(files) -> Predictor:
    return reincli.load_segmentor(
        files / "head.pth", backbone=files / "backbone.pth", device="cpu", precision="fp32"
    )


def test_one_picture(seg):
    result = seg.predict(RGB)
    assert isinstance(result, reincli.Prediction)
    assert result.label.shape == (70, 150)
    assert result.label.dtype == np.uint8
    assert result.classes.names[0] == "road"
    maps = seg.class_maps(to_tensor(RGB))
    np.testing.assert_array_equal(result.label, resized_argmax(maps, (70, 150)).numpy())


def test_every_kind_of_picture_and_batches_give_the_same(seg, tmp_path):
    write_png(tmp_path / "a.png", RGB)
    expected = seg.predict(RGB).label
    tensor = torch.from_numpy(RGB.transpose(2, 0, 1).copy())
    results = seg.predict([tmp_path / "a.png", RGB, tensor, Image.fromarray(RGB), RGB[:40]])
    assert len(results) == 5
    for result in results[:4]:
        np.testing.assert_array_equal(result.label, expected)
    assert results[4].label.shape == (40, 150)
    for result in seg.predict(torch.stack([tensor, tensor])):
        np.testing.assert_array_equal(result.label, expected)
    assert seg.predict([]) == []


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_windows_of_several_images_in_one_batch_are_those_of_each(seg, mode):
    images = [to_tensor(RGB), to_tensor(RGB[:40, :64]), to_tensor(RGB[:, ::-1].copy())]
    together = seg.class_maps_of(images, mode)
    for image, maps in zip(images, together, strict=True):
        torch.testing.assert_close(maps, seg.class_maps(image, mode), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_labels_alone_are_those_of_the_scores(seg, mode, monkeypatch):
    images = [to_tensor(RGB), to_tensor(RGB[:40, :64])]
    for image, label in zip(images, seg.labels_of(images, mode), strict=True):
        assert label.dtype == torch.uint8
        assert torch.equal(
            label, resized_argmax(seg.class_maps(image, mode), (image.shape[1], image.shape[2]))
        )
    kept = seg.predict(RGB, mode=mode, keep_scores=True).label
    if mode == "whole":  # then no score of a class is made at all
        monkeypatch.setattr(seg, "_forward", None)
    np.testing.assert_array_equal(seg.predict(RGB, mode=mode).label, kept)


def test_a_gpu_groups_images_by_their_pixels(seg, monkeypatch):
    monkeypatch.setattr(Predictor, "image_batch", 4)
    frames = [np.zeros((720, 1280, 3), np.uint8)] * 5 + [np.zeros((3000, 3000, 3), np.uint8)]
    assert [len(group) for group in seg._groups(frames)] == [4, 1, 1]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("size", ["native", "75x35"])
def test_probabilities_on_demand(seg, keep, size):
    result = seg.predict(RGB, size=size, keep_scores=keep)
    shares = result.probabilities()
    assert shares.shape == (19, 70, 150)
    assert shares.dtype == np.float32
    assert shares.min() >= 0
    assert shares.sum(0).max() <= 1 + 1e-5
    np.testing.assert_array_equal(shares.argmax(0), result.label)
    np.testing.assert_allclose(result.confidence(), shares.max(0), atol=1e-6)


def test_confidence_is_the_share_of_the_evidence_and_low_where_there_is_none():
    scores = torch.tensor([[3.0, 0.3, 0.0, 0.5], [1.0, 0.1, 0.0, 0.5]])[:, None]
    found = probabilities(scores)[:, 0]
    torch.testing.assert_close(found[0], torch.tensor([0.75, 0.3, 0.0, 0.5]))
    torch.testing.assert_close(resized_confidence(scores, (1, 4))[0], found.amax(0))


def test_bands_change_no_confidence():
    maps = torch.rand(5, 13, 17) * 2
    whole = resized_probabilities(maps, (40, 50))
    torch.testing.assert_close(resized_probabilities(maps, (40, 50), rows=7), whole)
    torch.testing.assert_close(resized_confidence(maps, (40, 50), rows=7), whole.amax(0))
    torch.testing.assert_close(resized_confidence(maps, (13, 17), rows=5), probabilities(maps).amax(0))


def test_draw_is_what_the_command_draws(seg):
    result = seg.predict(RGB, keep_scores=True)
    assert result.draw().shape[1] == 150
    assert result.draw("mask", legend=False).shape == (70, 150, 3)
    artist = Artist([seg], confidence=True)
    seen = artist.see([RGB])[0]
    np.testing.assert_array_equal(artist.draw(seen), result.draw(confidence=result.confidence()))
    right = result.draw("error", truth=result.label, legend=False)
    assert right.shape == (70, 150, 3)


def test_device_and_precision_are_arguments(files):
    options = {"backbone": files / "backbone.pth", "device": "cpu"}
    assert reincli.load_segmentor(files / "head.pth", precision="bf16", **options).precision == "bf16"
    with pytest.raises(ReinError, match="No device"):
        reincli.load_segmentor(files / "head.pth", backbone=files / "backbone.pth", device="tpu")
    with pytest.raises(ReinError, match="fp16 needs a GPU"):
        reincli.load_segmentor(files / "head.pth", precision="fp16", **options)


def test_a_preset_by_name(files):
    with pytest.raises(ReinError):
        reincli.load_segmentor(files / "head.pth", settings="no_such_preset")


def test_fp32_is_not_left_to_tf32_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with full_fp32(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32  # nothing to change

    @full_fp32(torch.device("cuda"))
    def broken() -> None:
        assert not torch.backends.cudnn.allow_tf32
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        broken()
    assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_peak_of_memory_can_begin_anew():
    gc.collect()  # what earlier tests have left may be freed while this one runs, and make room
    forget_peak(torch.device("cpu"))
    before = peak_memory(torch.device("cpu"))
    kept = torch.ones(100_000_000)
    assert peak_memory(torch.device("cpu")) >= before + 100_000_000
    del kept


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_an_answer_that_is_no_number_is_an_error(mode):
    chosen = tiny.settings()
    model = tiny.model(chosen)
    with torch.no_grad():
        model.mask_decoder.class_head.bias.fill_(torch.nan)
    predictor = Predictor(model, CITYSCAPES, chosen, torch.device("cpu"), "fp32")
    for keep in (False, True):
        with pytest.raises(ReinError, match="no number"):
            predictor.predict(np.zeros((64, 96, 3), np.uint8), mode=mode, keep_scores=keep)
