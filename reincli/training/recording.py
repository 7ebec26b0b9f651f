"""Forward and backward pass of the model recorded once and replayed in each step (CUDA graphs).

A step of a ViT-L launches some thousand kernels, and a GPU is done with most of them before the host has sent the
next. A recording is sent at once. Matching, losses and the optimiser stay as they are: what they do hangs on numbers.

Gradients lie in the recording's own memory, and the next replay writes over them: so nothing may add gradients of one
pass to those of another (`train.accumulate`), and processes that exchange gradients (several GPUs) do without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reincli.config import TrainSettings
from reincli.engine.cuda_graphs import beside_others, stream_kept
from reincli.engine.device import DTYPES, is_out_of_memory
from reincli.engine.ranks import Rank
from reincli.model.mask_decoder import Predictions
from reincli.model.plain_decoder import MaskDraws
from reincli.model.segmentor import Segmentor

WARM_UP = 3
"""Passes before the recording: they choose kernels and make what may not be made while recording."""


def can_record(train: TrainSettings, device: torch.device, rank: Rank) -> bool:
    """Whether a training's passes are recorded."""
    alone = rank.world == 1 and train.accumulate == 1
    return train.cuda_graphs and device.type == "cuda" and alone and not train.compile


class Recorded(nn.Module):
    """A model whose training passes are replayed, for images of one form; any other runs as it is.

    Args:
        model: in training mode when it is called first; its parameters stay where they are.
        precision: of the passes.
        tell: called with one line where recording fails: from then on all passes run as they are.
    """

    def __init__(self, model: Segmentor, precision: str, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.model, self.precision, self.tell = model, precision, tell
        self.replayed: Callable[..., Any] | None = None
        self.form: torch.Size | None = None
        self.failed = False

    def forward(self, images: Tensor, draws: MaskDraws | None = None) -> Predictions:
        """As the model: (B, 3, H, W) normalised images to predictions of all rounds."""
        extra = {} if draws is None else {"draws": draws}
        if self.failed or not (self.model.training and torch.is_grad_enabled()):
            return self.model(images, **extra)
        if self.form is None:
            self._record(images, draws)
        if self.replayed is None or images.shape != self.form:
            return self.model(images, **extra)
        return Predictions(*self.replayed(images, *(draws or ())))

    def _record(self, images: Tensor, draws: MaskDraws | None) -> None:
        given = (images.clone(), *(each.clone() for each in draws or ()))
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        low = DTYPES[self.precision]
        try:
            # a cast that autocast keeps for later would be outside of what is replayed
            kept = torch.autocast("cuda", dtype=low, enabled=low != torch.float32, cache_enabled=False)
            with stream_kept(images.device), beside_others(), kept:
                self.replayed = torch.cuda.make_graphed_callables(
                    _Tensors(self.model), given, num_warmup_iters=WARM_UP, allow_unused_input=True
                )
            self.form = images.shape
        except RuntimeError as error:
            self.failed, self.replayed = True, None
            reason = "memory ran out" if is_out_of_memory(error) else str(error).splitlines()[0][:120]
            torch.cuda.empty_cache()
            self.tell(
                f"The training passes could not be recorded ({reason}): they run one launch after another."
            )
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():  # batch statistics counted the passes above
                buffer.copy_(buffers[name])


class _Tensors(nn.Module):
    """The model with its predictions as a tuple, which is all that a recording knows."""

    def __init__(self, model: Segmentor) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, *draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits, mask embeddings and mask features of (B, 3, H, W) images."""
        found = self.model(images, **({"draws": MaskDraws(*draws)} if draws else {}))
        return found.class_logits, found.mask_embeddings, found.mask_features
