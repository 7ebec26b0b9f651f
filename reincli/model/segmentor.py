"""The whole model: frozen backbone, Rein adapters, and a head: pixel and mask decoder, or the plain decoder.

Shapes: B images, (H, W) input, Q queries, K classes, C backbone width, D decoder channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reincli.config import ModelSettings
from reincli.model.heads import backbone_for, build_head, decode_tokens, query_width
from reincli.model.mask_decoder import Predictions
from reincli.model.minor import MinorDirections
from reincli.model.plain_decoder import MaskDraws
from reincli.model.rein import Adapter, Folded, adapter_for
from reincli.model.vit import ViT
from reincli.ops.output import class_labels, class_scores
from reincli.ops.window import unless_finite

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""ImageNet mean and standard deviation, RGB 0-255, for every backbone."""

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Trained:
    """One parameter that trains.

    Attributes:
        name, parameter: in the model.
        part: 'backbone' (its weights, or directions of them), 'sub' (the second pair of RecycleLoRA), 'rein', 'neck',
            'head': what a factor of the learning rate is given for.
        decays: whether weight decay acts. pinned: whether its weight decay stays 0 whatever the schedule.
    """

    name: str
    parameter: nn.Parameter
    part: str
    decays: bool
    pinned: bool


def _part_of(path: str) -> str:
    """The part of the model that a module belongs to, for factors of the learning rate."""
    part = path.split(".")[0]
    return {"minor": "backbone"}.get(part, "head" if part.endswith("_decoder") else part)


class Segmentor(nn.Module):
    """Images in, query predictions out.

    What trains is declared here once, by `trained_modules`: freezing, what a checkpoint holds, the optimiser's
    groups and the printed counts all follow from it.

    Args:
        settings: what to build.
        classes: K.
        grid: patches along a side of the training crop.

    Attributes:
        recompute: in training, work activations out again in the backward pass instead of keeping them.
    """

    recompute = False
    mean: Tensor
    std: Tensor

    def __init__(self, settings: ModelSettings, classes: int, grid: int) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        # where the model is, so that no step copies them there; never in a checkpoint
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.backbone = backbone_for(settings, grid)
        self.rein: Adapter | None = None
        if settings.refines:
            adapter = settings.adapter
            self.rein = adapter_for(
                self.backbone.banks,
                self.backbone.widths,
                tokens=adapter.tokens,
                rank=adapter.rank,
                scale=adapter.scale,
                patch_size=settings.backbone.patch_size,
                query_width=query_width(settings, self.backbone.width),
            )
        self.minor: MinorDirections | None = None
        if settings.minor_kind is not None:
            self.minor = MinorDirections(self.backbone, settings.minor, settings.minor_kind)
        parts = build_head(settings, self.backbone, classes)
        self.neck, self.pixel_decoder, self.mask_decoder, self.plain_decoder = parts
        self.freeze()

    # --- what trains ---------------------------------------------------------------------------------------

    @property
    def backbone_trains(self) -> bool:
        """Whether the backbone's own weights are trained too."""
        return self.settings.tune == "full" or self.settings.train_backbone

    @property
    def some_unread(self) -> bool:
        """Whether something may train that no pass reads: blocks behind the last tap, a norm that files hold, ....

        What timm runs itself is not known so well: of that it may be so.
        """
        if not isinstance(self.backbone, ViT):
            return self.backbone_trains or self.minor is not None
        norm = getattr(self.backbone.body, "norm", None)
        unread_norm = self.plain_decoder is None and norm is not None and bool(list(norm.parameters()))
        late = max(self.backbone.taps) < self.backbone.depth - 1
        return (self.backbone_trains and (late or unread_norm)) or (self.minor is not None and late)

    def trained_modules(self) -> dict[str, nn.Module]:
        """The parts that train, by their name in this model. Everything else is frozen, in evaluation mode."""
        names = ("pixel_decoder", "mask_decoder", "plain_decoder", "rein", "minor", "neck")
        parts: dict[str, nn.Module] = {n: each for n in names if (each := getattr(self, n)) is not None}
        if self.backbone_trains:
            parts["backbone"] = self.backbone
        return parts

    def freeze(self) -> None:
        """Let exactly the declared parts receive gradients."""
        self.requires_grad_(False)
        for module in self.trained_modules().values():
            module.requires_grad_(True)

    def train(self, mode: bool = True) -> Segmentor:
        """Training mode for the declared parts only: dropped paths and batch statistics of a frozen part never act."""
        super().train(False)
        for module in self.trained_modules().values() if mode else ():
            module.train(True)
        self.training = mode
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """Parameters and buffers of the declared parts: what a checkpoint holds."""
        return {
            f"{part}.{name}": value
            for part, module in self.trained_modules().items()
            for name, value in module.state_dict().items()
        }

    def trained(self) -> Iterator[Trained]:
        """Everything that trains, each parameter once, with what an optimiser has to know of it.

        Norms do not decay, nor what a module names in its `undecayed`. As in the original, a head that learns
        its own query features spares them under a frozen backbone without adapters alone, or with minor directions.
        In the plain decoder everything decays, as in its original.
        """
        plain = set(self.plain_decoder.modules()) if self.plain_decoder is not None else set()
        for path, module in self.named_modules():
            if self.minor is not None and path.startswith("backbone."):
                continue  # what trains there is the minor part's; it shares biases
            undecayed = set(getattr(module, "undecayed", ()))
            if module is self.mask_decoder and self.settings.tune in ("frozen", "soma", "recycle"):
                undecayed.add("query_features")
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    decays = module in plain or (not isinstance(module, NORMS) and name not in undecayed)
                    pinned = name in getattr(module, "pinned", ())
                    part = "sub" if getattr(module, "sub", None) is True else _part_of(path)
                    yield Trained(f"{path}.{name}", parameter, part, decays, pinned)

    def decays(self) -> Iterator[tuple[str, nn.Parameter, bool]]:
        """(name, parameter, whether weight decay acts) of everything that trains."""
        for each in self.trained():
            yield each.name, each.parameter, each.decays

    # --- forward -------------------------------------------------------------------------------------------

    def normalise(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Images as the backbone takes them.

        Args:
            images: (B, 3, H, W) uint8 or float, RGB 0-255.
            sizes: (B, 2) valid height and width of each image; what lies right of or below it becomes the mean
                colour (0 after normalising). None: all of it is valid.

        Returns:
            (B, 3, H, W) float32.
        """
        normal = (images.float() - self.mean) / self.std
        if sizes is not None:
            rows = torch.arange(images.shape[2], device=images.device) < sizes[:, :1]
            columns = torch.arange(images.shape[3], device=images.device) < sizes[:, 1:]
            normal = normal * (rows[:, None, :, None] & columns[:, None, None, :])
        return normal

    def forward(
        self,
        images: Tensor,
        folded: Folded | None = None,
        *,
        every_round: bool | None = None,
        draws: MaskDraws | None = None,
    ) -> Predictions:
        """Predict queries.

        Args:
            images: (B, 3, H, W) normalised, sides multiples of `backbone.multiple`.
            folded: the adapters with their constants worked out (inference); None: as they are.
            every_round: predictions of all rounds; None: in training only.
            draws: of the plain decoder's masks in training; None: no masks.
        """
        rein = folded or self.rein
        recompute = self.recompute and self.training
        rounds = self.training if every_round is None else every_round
        if self.plain_decoder is not None:
            return decode_tokens(
                self.backbone, self.plain_decoder, images, rein, rounds, draws=draws, recompute=recompute
            )
        assert self.pixel_decoder is not None
        assert self.mask_decoder is not None
        maps = self.backbone(images, rein, recompute=recompute)
        zooms = self.backbone.zooms
        if self.neck is not None:
            maps, zooms = self.neck(maps), (1.0, 1.0, 1.0, 1.0)
        sizes = [
            (int(each.shape[2] * zoom), int(each.shape[3] * zoom))
            for each, zoom in zip(maps, zooms, strict=True)
        ]
        link = rein.queries() if rein is not None else None
        return self.mask_decoder(self.pixel_decoder(maps, sizes, recompute=recompute), link, rounds)

    def merge_gains(self) -> None:
        """Work constants of the backbone into its weights, in place: for models that will not be trained or saved.

        Minor directions come first: they are added to the weights that the gains then multiply.
        """
        self.merge_minor()
        if isinstance(self.backbone, ViT):
            self.backbone.merge_gains()

    def merge_minor(self) -> None:
        """Add trained minor directions to the weights: the graph is that of the frozen model, nothing else changes."""
        if self.minor is not None:
            self.minor.merge()
            self.minor = None

    def fold(self, dtype: torch.dtype = torch.float32) -> Folded | None:
        """Constants of the adapters for inference; None where there are no adapters."""
        return self.rein.fold(dtype) if self.rein is not None else None


def class_maps(predictions: Predictions, size: tuple[int, int]) -> Tensor:
    """Per-class scores at a size: sum over queries of class probability x mask probability.

    Args:
        predictions: the last round is read.
        size: (H, W).

    Returns:
        (B, K, H, W) float32, sums over queries (not probabilities: they reach tens).
    """
    return class_scores(predictions.mask_logits(-1), _class_shares(predictions), size)


def label_maps(predictions: Predictions, size: tuple[int, int]) -> Tensor:
    """The class of the largest score at each pixel, (B, H, W) uint8: `class_maps` without keeping any score.

    An image whose scores are no numbers is 255 everywhere.
    """
    logits, shares = predictions.mask_logits(-1), _class_shares(predictions)
    numbers = logits.sum((1, 2, 3), dtype=torch.float32) + shares.sum((1, 2))
    return unless_finite(class_labels(logits, shares, size), numbers[:, None, None])


def _class_shares(predictions: Predictions) -> Tensor:
    """Class probabilities of the last round's queries without "no object", (B, Q, K) float32."""
    return predictions.class_logits[-1].float().softmax(-1)[..., :-1]
