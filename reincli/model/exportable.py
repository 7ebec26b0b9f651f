"""A model as a file for other runtimes holds it: pixels in, answer out, everything else a constant.

Shapes: B images, (H, W) their fixed size, K classes, Q queries, (h, w) masks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reincli.model.mask_decoder import Predictions
from reincli.model.segmentor import Segmentor
from reincli.model.vit import ViT

ANSWERS = ("labels", "scores", "queries")
"""What a file answers: (B, H, W) uint8 label maps; (B, K, H, W) float32 class scores; (B, Q, K + 1) class logits with
(B, Q, h, w) mask logits."""
LAYOUTS = ("nchw", "nhwc")


class Exportable(nn.Module):
    """Normalising, the model with folded adapters, and the output, for images of one size.

    Args:
        model: with its weights, on the host. It is changed (gains, positions): no longer fit for training.
        size: (H, W), multiples of `backbone.multiple`.
        answer: of `ANSWERS`. layout: of `LAYOUTS`.
        dtype: of the matrices; sums and norms stay in fp32.
    """

    def __init__(
        self,
        model: Segmentor,
        size: tuple[int, int],
        answer: str,
        layout: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.model, self.size, self.answer, self.layout, self.dtype = (
            model.eval(),
            size,
            answer,
            layout,
            dtype,
        )
        self.model.requires_grad_(False)
        self.folded = model.fold(dtype)
        model.merge_gains()
        if isinstance(model.backbone, ViT):
            model.backbone.fix_positions(size)
            model.backbone.stream = None  # sums in place would be scattered over the graph

    def example(self, batch: int) -> Tensor:
        """Random pixels of the form that `forward` takes."""
        shape = (batch, 3, *self.size) if self.layout == "nchw" else (batch, *self.size, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8)

    def forward(self, images: Tensor) -> Any:
        """(B, 3, H, W) or (B, H, W, 3) uint8 RGB 0-255 -> the answer, see `ANSWERS`."""
        if self.layout == "nhwc":
            images = images.permute(0, 3, 1, 2)
        with self._low(images.device):
            found = self.model(self.model.normalise(images), self.folded, every_round=False)
        masks = found.mask_logits(-1).float()
        if self.answer == "queries":
            return found.class_logits[-1].float(), masks
        scores = self._scores(found, masks)
        return scores if self.answer == "scores" else scores.argmax(1).to(torch.uint8)

    def _scores(self, found: Predictions, masks: Tensor) -> Tensor:
        shares = found.class_logits[-1].float().softmax(-1)[..., :-1]
        likely = F.interpolate(masks, size=self.size, mode="bilinear", align_corners=False).sigmoid()
        flat = shares.transpose(1, 2) @ likely.flatten(2)  # (B, K, H*W)
        return flat.unflatten(2, self.size)

    def _low(self, device: torch.device) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)
