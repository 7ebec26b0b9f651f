"""Prediction: from an image to a label map, whole or by sliding windows.

Shapes: B windows, K classes, (H, W) image at the size it is predicted.
"""

from __future__ import annotations

from pathlib import Path

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
from reincli.engine.device import DTYPES, autocast, pick_device, pick_precision
from reincli.errors import ReinError
from reincli.model.segmentor import Segmentor, class_maps
from reincli.model.weights import half_precision, holds_backbone
from reincli.ops.window import WindowAverage, resized_argmax, window_boxes


class Predictor:
    """A model ready to predict.

    Args:
        model: with its weights; it is moved to the device, and to the compute type unless it trains on.
        classes: names and colours.
        settings: `test` says mode, window and stride.
        device, precision: as picked.
        notes: one-line remarks for the user.
        in_training: the model goes on training: its weights are left as they are.
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
    ) -> None:
        self.model, self.classes, self.settings = model, classes, settings
        self.device, self.precision, self.notes = device, precision, list(notes or [])
        if not in_training:
            self.model = model.to(device).eval()
            self.folded = model.fold(DTYPES[precision])
            if precision != "fp32":
                half_precision(model, DTYPES[precision])
        else:
            self.folded = model.fold(DTYPES[precision])

    @property
    def window_batch(self) -> int:
        """Windows in one forward pass."""
        return self.settings.test.window_batch or (16 if self.device.type == "cuda" else 2)

    def predict(self, image: np.ndarray, *, size: str = "native", mode: str | None = None) -> np.ndarray:
        """Label map of one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: 'native', or 'WxH': predict at this size (ratio kept), answer at the image's own.
            mode: 'slide' or 'whole'; None: as the settings say.

        Returns:
            (H, W) uint8 class indices.
        """
        parse_size(size)
        height, width = image.shape[:2]
        resized = resize_image(image, eval_size(height, width, size))
        maps = self.class_maps(to_tensor(resized), mode)
        return resized_argmax(maps, (height, width)).cpu().numpy()

    @torch.inference_mode()
    def class_maps(self, image: Tensor, mode: str | None = None) -> Tensor:
        """Scores of one image at its own size: (3, H, W) uint8 RGB -> (K, H, W) float32 on the device.

        Scores are sums over queries of class x mask probability, averaged where windows overlap.
        """
        normal = self.model.normalise(image[None].to(self.device))
        height, width = image.shape[1:]
        test = self.settings.test
        if (mode or test.mode) == "whole":
            return self._forward(normal)[0]
        boxes = window_boxes(height, width, test.window, test.stride)
        average = WindowAverage(len(self.classes), height, width, self.device)
        for start in range(0, len(boxes), self.window_batch):
            some = boxes[start : start + self.window_batch]
            windows = torch.cat([normal[:, :, top:bottom, left:right] for top, bottom, left, right in some])
            for maps, box in zip(self._forward(windows), some, strict=True):
                average.add(maps, box)
        return average.mean()

    def _forward(self, normal: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, K, H, W); what no patch divides is padded and cut again."""
        height, width = normal.shape[2:]
        patch = 2 * self.model.backbone.patch_size  # the coarsest map has half the resolution of the patches
        padded = F.pad(normal, (0, -width % patch, 0, -height % patch))
        with autocast(self.precision, self.device):
            predictions = self.model(padded, self.folded, every_round=False)
        return class_maps(predictions, (padded.shape[2], padded.shape[3]))[:, :, :height, :width]


def load_predictor(
    checkpoint: Path | str,
    *,
    backbone: Path | str | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Predictor:
    """A predictor from a checkpoint of adapters and head and, beside it, the backbone's file.

    Args:
        checkpoint: ours, or one of the original's.
        backbone: raw or converted; None: where it usually lies. Not needed if the checkpoint holds it.
        settings: only where the checkpoint does not carry its own.
        device: 'auto', 'cpu', 'cuda', 'cuda:1'. precision: 'auto', 'fp32', 'bf16', 'fp16'.

    Raises:
        ReinError: a file is missing, damaged, or does not fit, each said in its own words.
    """
    place = pick_device(device)
    arithmetic = pick_precision(precision, place)
    read = checkpoints.read_checkpoint(Path(checkpoint))
    settings = checkpoints.settings_for(read, settings)
    classes = read.classes or classes_of(settings.data)
    model = checkpoints.build_model(settings, len(classes))
    notes = []
    if not holds_backbone(read.state):
        path = checkpoints.find_backbone(settings, Path(backbone) if backbone else None)
        if path is None:
            raise ReinError(
                f"'{checkpoint}' needs its backbone, and its settings name none.", "Give --backbone FILE."
            )
        notes += checkpoints.load_backbone(model, path)
    checkpoints.load_trained(model, read)
    return Predictor(model, classes, settings, place, arithmetic, notes)
