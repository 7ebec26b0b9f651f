"""Which head a model has: its parts by the settings, and how the plain one reads a backbone.

Shapes: B images, (H, W) input, C backbone width, D decoder channels.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from reincli.config import ModelSettings
from reincli.model.backbones import Backbone, build_backbone, build_token_backbone
from reincli.model.mask_decoder import MaskDecoder, Predictions
from reincli.model.necks import MultiLevelNeck, ScaleBranches
from reincli.model.pixel_decoder import PixelDecoder
from reincli.model.plain_decoder import MaskDraws, PlainDecoder
from reincli.model.rein import Adapter, Folded
from reincli.model.vit import ViT


class HeadParts(NamedTuple):
    """What stands behind the backbone: pixel and mask decoder with or without a neck, or the plain decoder alone."""

    neck: nn.Module | None = None
    pixel_decoder: PixelDecoder | None = None
    mask_decoder: MaskDecoder | None = None
    plain_decoder: PlainDecoder | None = None


def backbone_for(settings: ModelSettings, grid: int) -> Backbone:
    """The backbone as the head reads it; see `build_backbone` and `build_token_backbone`."""
    build = build_token_backbone if settings.head.kind == "plain" else build_backbone
    return build(settings.backbone, grid)


def query_width(settings: ModelSettings, width: int) -> int | None:
    """Channels of the queries that adapters give the head over a backbone of width C; None: they give none."""
    head = settings.head
    if head.kind == "mask2former":
        return head.channels
    return (head.plain.channels or width) if settings.adapter.link_features else None


def build_head(settings: ModelSettings, backbone: Backbone, classes: int) -> HeadParts:
    """The parts of the head, with fresh weights.

    Raises:
        ReinError: a width of the plain decoder that its heads do not divide.
    """
    if settings.head.kind == "plain":
        return HeadParts(plain_decoder=_plain_decoder(settings, backbone, classes))
    head, adapter = settings.head, settings.adapter
    neck: nn.Module | None = None
    if backbone.layout.kind == "clip":  # alone has layers that train between backbone and head
        neck = (ScaleBranches if settings.refines else MultiLevelNeck)(backbone.width)
    pixel_decoder = PixelDecoder(
        backbone.widths,
        head.channels,
        heads=head.heads,
        points=head.points,
        layers=head.pixel_layers,
        ffn=head.pixel_ffn,
    )
    mask_decoder = MaskDecoder(
        classes,
        head.channels,
        queries=adapter.tokens if settings.refines else head.queries,
        heads=head.heads,
        layers=head.decoder_layers,
        ffn=head.decoder_ffn,
        own_positions=not settings.refines,
        own_features=not settings.refines or not adapter.link_features,
    )
    return HeadParts(neck, pixel_decoder, mask_decoder)


def _plain_decoder(settings: ModelSettings, backbone: Backbone, classes: int) -> PlainDecoder:
    assert isinstance(backbone, ViT)
    plain = settings.head.plain
    return PlainDecoder(
        classes,
        backbone.width,
        taps=len(backbone.taps),
        patch_size=backbone.patch_size,
        queries=settings.head.queries,
        layers=plain.layers,
        channels=plain.channels,
        heads=plain.heads,
        ffn=plain.ffn,
        own_queries=not (settings.refines and settings.adapter.link_features),
    )


def decode_tokens(
    backbone: Backbone,
    decoder: PlainDecoder,
    images: Tensor,
    rein: Adapter | Folded | None,
    every_round: bool,
    *,
    draws: MaskDraws | None,
    recompute: bool,
) -> Predictions:
    """(B, 3, H, W) normalised images through backbone and plain decoder; see `PlainDecoder.forward`."""
    assert isinstance(backbone, ViT)
    tokens, grid = backbone.tokens(images, rein, recompute=recompute), backbone.grid_of(images)
    link = rein.queries() if rein is not None and decoder.queries is None else None
    # DINOv3's tables are the decoder's own, but for what its training does to the coordinates
    tables = backbone.rotations(grid)[0] if backbone.layout.kind == "dinov3" else None
    return decoder(tokens, grid, link, every_round, tables=tables, draws=draws, recompute=recompute)
