"""Prediction: from images to label maps, whole or by sliding windows. The Python API and the commands use it alike.

Shapes: B windows, K classes, (H, W) image, (h, w) the size at which it is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reincli.config import Settings, parse_size
from reincli.data.dataset import eval_size, to_tensor
from reincli.data.labels import Classes
from reincli.data.sources import classes_of
from reincli.data.transforms import resize_image
from reincli.engine import checkpoint as checkpoints
from reincli.engine.device import DTYPES, autocast, full_fp32, kernel_notes, pick_device, pick_precision
from reincli.engine.fusing import fused
from reincli.engine.moved_backbone import load_backbone_of
from reincli.errors import ReinError
from reincli.media import paint
from reincli.media.rgb import Picture, as_rgb
from reincli.model.attention import head_width, require_attention
from reincli.model.mask_decoder import Predictions
from reincli.model.segmentor import Segmentor, class_maps, label_maps
from reincli.model.weights import half_precision, holds_backbone
from reincli.ops.anomaly import resized_anomaly
from reincli.ops.confidence import resized_confidence, resized_probabilities
from reincli.ops.parts import part
from reincli.ops.window import NO_CLASS, resized_argmax
from reincli.prediction.replay import Replay, record_cuda_graph
from reincli.prediction.windows import Budget, Slider
from reincli.settings_files import load_settings

GROUP_PIXELS = 4_000_000
"""Pixels of the images that a GPU predicts together: four frames of 1280x720."""


@dataclass(frozen=True)
class Prediction:
    """What the model sees on one image.

    Attributes:
        image: (H, W, 3) uint8 RGB 0-255, as it was predicted.
        label: (H, W) uint8 class indices.
        classes: names and colours by index.
        scores: gives the model's class scores (K, h, w), by predicting again unless they were kept.
        temperature: of its probabilities, see `ops.confidence`; 1 unless the checkpoint was calibrated.
    """

    image: np.ndarray
    label: np.ndarray
    classes: Classes
    scores: Callable[[], Tensor] = field(repr=False)
    temperature: float = 1.0

    def probabilities(self) -> np.ndarray:
        """(K, H, W) float32 0-1; at a pixel they sum to at most 1, see `ops.confidence` for what they mean.

        The label is the class of the largest. One more pass of the model, unless `predict` kept the scores.
        """
        found = resized_probabilities(self.scores(), self.label.shape, temperature=self.temperature)
        return found.cpu().numpy()

    def confidence(self) -> np.ndarray:
        """(H, W) float32 0-1: the probability of the predicted class. One more pass unless scores were kept."""
        found = resized_confidence(self.scores(), self.label.shape, temperature=self.temperature)
        return found.cpu().numpy()

    def anomaly(self) -> np.ndarray:
        """(H, W) float32, -K to 0: how strange each pixel is to the model, see `ops.anomaly`.

        One more pass unless scores were kept.
        """
        return resized_anomaly(self.scores(), self.label.shape).cpu().numpy()

    def draw(
        self,
        style: str = "overlay",
        *,
        alpha: float = 0.5,
        legend: bool = True,
        truth: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> np.ndarray:
        """A picture of the prediction, (h', w', 3) uint8 RGB: larger than the image by its legend.

        Args:
            style: 'overlay', 'side', 'mask', 'boundary', 'error', or 'anomaly'.
            alpha: weight of the colours in 'overlay' and 'anomaly', 0 to 1.
            legend: whether the classes are named below.
            truth: (H, W) uint8 right class indices, 255 not labelled; 'error' needs it.
            confidence: (H, W) 0-1, such as `self.confidence()`: what is unsure is drawn faintly.
            threshold: anomaly from which 'anomaly' outlines; None: no outline.
        """
        look = paint.Look(style, alpha, legend, threshold=threshold)
        strange = self.anomaly() if style == "anomaly" else None
        return paint.render(self.image, self.label, self.classes.palette(), self.classes.names, look,
                            truth=truth, confidence=confidence, anomaly=strange)  # fmt: skip


class Predictor:
    """A model ready to predict.

    Args:
        model: with its weights; it is moved to the device, and to the compute type unless it trains on.
        classes: names and colours.
        settings: `test` says mode, window and stride.
        device, precision: as picked.
        notes: one-line remarks for the user.
        in_training: the model goes on training: its weights are left as they are.
        temperature: of probabilities and confidence.

    Attributes:
        doubts: those of the notes that say why its answers may be wrong.
        tell: takes remarks that arise while it predicts (memory ran out); the notes, unless it is replaced.
    """

    def __init__(
        self,
        model: Segmentor,
        classes: Classes,
        settings: Settings,
        device: torch.device,
        precision: str,
        notes: list[str] | None = None,
        *,
        in_training: bool = False,
        temperature: float = 1.0,
    ) -> None:
        self.model, self.classes, self.settings = model, classes, settings
        self.device, self.precision, self.notes = device, precision, list(notes or [])
        require_attention(
            model.backbone.settings.attention, device, DTYPES[precision], head_width(model.backbone.body)
        )
        self.temperature = temperature
        self.doubts: list[str] = []
        self.notes += kernel_notes(device, precision, settings.model.head.sampled_width, len(classes))
        if not in_training:
            self.model = model.to(device).eval()
            self.folded = model.fold(DTYPES[precision])
            model.merge_gains()
            if precision != "fp32":
                half_precision(model, DTYPES[precision])
        else:
            self.folded = model.fold(DTYPES[precision])
        once = not in_training  # weights that train on would be compiled and recorded anew at each validation
        self.network: Callable[..., Predictions] = (
            fused(model) if settings.test.compile and once else self.model
        )
        self.tell: Callable[[str], None] = self.notes.append
        self.replay: Replay | None = None
        if settings.test.cuda_graphs and device.type == "cuda" and once:
            self.replay = Replay(self._scores, record_cuda_graph, lambda text: self.tell(text))
        self.budget = Budget(device, settings.test.window_batch, lambda text: self.tell(text))

    def require_scores(self) -> None:
        """ReinError where this predictor has labels alone, so that nothing can be said of probabilities."""

    @property
    def image_batch(self) -> int:
        """Images of usual size that are worth predicting together: a CPU gains nothing by more than one."""
        return 4 if self.device.type == "cuda" else 1

    @overload
    def predict(  # type: ignore[overload-overlap]  # text is a path, not a batch of letters
        self,
        image: Picture,
        *,
        size: str = ...,
        mode: str | None = ...,
        keep_scores: bool = ...,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        image: Sequence[Picture],
        *,
        size: str = ...,
        mode: str | None = ...,
        keep_scores: bool = ...,
    ) -> list[Prediction]: ...

    def predict(
        self,
        image: Picture | Sequence[Picture],
        *,
        size: str = "native",
        mode: str | None = None,
        keep_scores: bool = False,
    ) -> Prediction | list[Prediction]:
        """Predict one image, or a batch of images of any sizes.

        Args:
            image: a path, array (H, W[, C]) RGB, tensor ([C,] H, W) or PIL image, see `media.rgb.as_rgb`; or a list
                or tuple of them, or a tensor (B, C, H, W), which give a list of predictions in the same order.
            size: 'native', or 'WxH': predict at this size (ratio kept), answer at the image's own.
            mode: 'slide' or 'whole'; None: as the settings say.
            keep_scores: keep the class scores (K x h x w float32 each, on the device), so that probabilities,
                confidence and anomaly cost no second pass.

        Raises:
            ReinError: what was given is no image, or cannot be read.
        """
        parse_size(size)
        many = isinstance(image, (list, tuple)) or (isinstance(image, Tensor) and image.ndim == 4)
        pictures = [as_rgb(each) for each in image] if many else [as_rgb(image)]  # type: ignore[arg-type,union-attr]
        results = []
        for group in self._groups(pictures):
            if size == "native" and not keep_scores:
                labels = self.labels_of([to_tensor(picture) for picture in group], mode)
                results += [self._prediction(*each, size, mode) for each in zip(group, labels, strict=True)]
                continue
            for picture, maps in zip(group, self._maps_at(group, size, mode), strict=True):
                label = resized_argmax(maps, picture.shape[:2])
                results.append(self._prediction(picture, label, size, mode, maps if keep_scores else None))
        return results if many else results[0]

    def _prediction(
        self, image: np.ndarray, label: Tensor, size: str, mode: str | None, kept: Tensor | None = None
    ) -> Prediction:
        def scores() -> Tensor:
            self.require_scores()
            return kept if kept is not None else self._maps_at([image], size, mode)[0]

        return Prediction(image, self.on_host(label), self.classes, scores, self.temperature)

    def _groups(self, pictures: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """Neighbours that are predicted together; on the CPU each alone, so that batches change no number there."""
        group: list[np.ndarray] = []
        for picture in pictures:
            pixels = sum(each.shape[0] * each.shape[1] for each in [*group, picture])
            if group and (self.image_batch == 1 or pixels > GROUP_PIXELS):
                yield group
                group = []
            group.append(picture)
        if group:
            yield group

    def _maps_at(self, images: Sequence[np.ndarray], size: str, mode: str | None) -> list[Tensor]:
        resized = [resize_image(image, eval_size(image.shape[0], image.shape[1], size)) for image in images]
        return self.class_maps_of([to_tensor(image) for image in resized], mode)

    def class_maps(self, image: Tensor, mode: str | None = None) -> Tensor:
        """Scores of one image at its own size: (3, H, W) uint8 RGB -> (K, H, W) float32 on the device.

        Scores are sums over queries of class x mask probability, averaged where windows overlap.
        """
        return self.class_maps_of([image], mode)[0]

    def class_maps_of(self, images: Sequence[Tensor], mode: str | None = None) -> list[Tensor]:
        """Scores of several images, as `class_maps`; windows of one shape run in one batch across images."""
        return list(self._slide(images, mode, across=True))

    def labels_of(self, images: Sequence[Tensor], mode: str | None = None) -> list[Tensor]:
        """Label maps of several images at their own sizes, (H, W) uint8 on the device.

        An image that is predicted whole goes from masks to labels at once, and no score of a class is kept.
        """
        if (mode or self.settings.test.mode) != "whole" or self.replay is not None:
            maps = self.class_maps_of(images, mode)
            with part("output"):
                return [resized_argmax(each, (each.shape[1], each.shape[2])) for each in maps]
        slider = Slider(self._labels, 1, self.budget, across=True)
        return [each[0] for each in slider.stream(images, None, 1)]

    def stream(self, images: Iterable[Tensor], mode: str | None = None) -> Iterator[Tensor]:
        """Scores of ever more images, as `class_maps`, in their order.

        On a GPU, or where `test.window_batch` is set, a batch takes windows of several images; else each image is
        predicted alone and its numbers do not hang on its neighbours.
        """
        chosen = self.settings.test.window_batch is not None
        return self._slide(images, mode, across=chosen or self.device.type == "cuda")

    def _slide(self, images: Iterable[Tensor], mode: str | None, across: bool) -> Iterator[Tensor]:
        test = self.settings.test
        whole = (mode or test.mode) == "whole"
        slider = Slider(self._forward, len(self.classes), self.budget, across)
        return slider.stream(images, None if whole else test.window, test.stride)

    def _forward(self, windows: Tensor) -> Tensor:
        """As `_scores`, replayed where that was asked for and the GPU can."""
        return self._scores(windows) if self.replay is None else self.replay(windows)

    def on_host(self, label: Tensor) -> np.ndarray:
        """A label map as an array. ReinError where the model's answer was no number."""
        found: np.ndarray = label.cpu().numpy()
        self.require_numbers(found.flat[0] != NO_CLASS)
        return found

    def require_numbers(self, good: bool | np.bool_) -> None:
        """ReinError where the model's answer was found to be no number."""
        if not good:
            raise ReinError(
                f"The model's answer is no number (NaN or infinite) in {self.precision}: nothing can be predicted.",
                "Try --precision fp32; where that is no better, the checkpoint is damaged or its training went wrong.",
            )

    def _scores(self, windows: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, K, H, W) float32."""
        return self._told(windows, class_maps)

    def _labels(self, windows: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 1, H, W) uint8."""
        return self._told(windows, label_maps)[:, None]

    def _told(self, windows: Tensor, form: Callable[[Predictions, tuple[int, int]], Tensor]) -> Tensor:
        """What a form makes of the model's answer; what no patch divides is padded and cut again."""
        height, width = windows.shape[2:]
        multiple = self.model.backbone.multiple
        padded = F.pad(self.model.normalise(windows), (0, -width % multiple, 0, -height % multiple))
        with full_fp32(self.device):
            with autocast(self.precision, self.device):
                predictions = self.network(padded, self.folded, every_round=False)
            with part("output"):
                return form(predictions, (padded.shape[2], padded.shape[3]))[..., :height, :width]


def load_segmentor(
    checkpoint: Path | str,
    *,
    backbone: Path | str | None = None,
    settings: Settings | str | None = None,
    device: str = "auto",
    precision: str = "auto",
    any_backbone: bool = False,
) -> Predictor:
    """A model ready to predict, from a checkpoint of adapters and head and, beside it, the backbone's file.

    >>> seg = load_segmentor("work_dirs/gta2citys/last.pth", backbone="checkpoints/dinov2_vitl14_pretrain.pth")
    >>> result = seg.predict("street.jpg")
    >>> result.label, result.draw("side")

    Args:
        checkpoint: ours, or one of the original's.
        backbone: raw or converted; None: where it usually lies. Not needed if the checkpoint holds it.
        settings: or the name of a preset; only where the checkpoint does not carry its own.
        device: 'auto', 'cpu', 'cuda', 'cuda:1'. precision: 'auto', 'fp32', 'bf16', 'fp16'.
        any_backbone: take another backbone than the one that the checkpoint was trained with, knowingly.

    Raises:
        ReinError: a file is missing, damaged, or does not fit, each said in its own words.
    """
    if isinstance(settings, str):
        settings = load_settings(settings, None)
    place = pick_device(device)
    arithmetic = pick_precision(precision, place)
    loaded = load_model(Path(checkpoint), Path(backbone) if backbone else None, settings, any_backbone)
    return Predictor(loaded.model, loaded.classes, loaded.settings, place, arithmetic, loaded.notes,
                     temperature=loaded.temperature)  # fmt: skip


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, in fp32 on the host; what it is told by; remarks for the user; its temperature."""

    model: Segmentor
    classes: Classes
    settings: Settings
    notes: list[str]
    temperature: float = 1.0


def load_model(
    checkpoint: Path, backbone: Path | None, settings: Settings | None, any_backbone: bool = False
) -> LoadedModel:
    """Adapters and head from a checkpoint and, unless it holds it, the backbone from its file.

    Raises:
        ReinError: as `load_segmentor`.
    """
    read = checkpoints.read_checkpoint(checkpoint)
    notes: list[str] = []
    settings = checkpoints.settings_for(read, settings, backbone, notes=notes)
    classes = read.classes or classes_of(settings.data)
    model = checkpoints.build_model(settings, len(classes))
    if not holds_backbone(read.state):
        loaded = load_backbone_of(model, read, settings, backbone, knowingly=any_backbone)
        if loaded is None:
            raise ReinError(
                f"'{checkpoint}' needs its backbone, and its settings name none.", "Give --backbone FILE."
            )
        notes += loaded[1]
    notes += checkpoints.load_trained(model, read)
    temperature = 1.0 if read.calibration is None else read.calibration.temperature
    return LoadedModel(model, classes, settings, notes, temperature)
