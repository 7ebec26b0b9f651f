"""What is built: backbone, adapters, minor directions, head."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reincli.config.values import Positive, Strict, Width

GROUPS = 32
"""Of the group norms in the head; its channels divide into them."""


class BackboneSettings(Strict):
    """The foundation model. `width`, `depth` and `heads` are for the family `vit` alone, a ViT of any size."""

    name: str = "dinov2_l"
    """A family of the tables, `vit`, or the name of any model of timm that has blocks."""
    width: Width | None = None
    depth: Annotated[int, Field(gt=0, le=1_000)] | None = None
    heads: Width | None = None
    patch_size: Annotated[int, Field(gt=0, le=1_024)] = 16
    taps: tuple[int, ...] | None = None
    """Blocks whose outputs the head reads; None: at 1/3, 1/2, 2/3 and the end, or what the family is known for; for
    the plain head at the four quarters."""
    output_stride: Literal[8, 16, 32] | None = None
    """Of a ResNet: 8 (the released form, None) keeps stages 3 and 4 at stride 8 by dilation; 32 dilates nothing."""
    attention: Literal["auto", "sdpa", "xformers"] = "auto"
    """How a plain transformer's blocks attend: `auto` as timm and PyTorch choose, `sdpa` always by PyTorch's fused
    attention, `xformers` by its memory-efficient one (CUDA, extra `xformers`). The same numbers up to rounding."""
    weights: str | None = None
    """Backbone file, raw or converted; None: the family's usual names under `checkpoints/`. 'random': none."""


class AdapterSettings(Strict):
    """Rein (section 3 of the paper). `rank` None keeps one full token table a block instead of a product."""

    tokens: Width = 100
    rank: Width | None = 16
    link_features: bool = True
    """False: the head keeps its own learned query features (SAM, CLIP)."""
    scale: Annotated[float, Field(gt=0)] = 1e-3
    """What the factor of all refinements starts from; it moves by the learning rate a step, so short trainings need
    a larger one."""


class MinorSettings(Strict):
    """Where minor directions are tuned inside the blocks of a plain transformer (SoMA, RecycleLoRA)."""

    rank: Positive | None = None
    """Of what is taken out of each weight; None: 16, or the 32 last columns of RecycleLoRA."""
    sub_rank: Positive = 4
    """Of RecycleLoRA's second pair, the first columns (2 from real images to real images)."""
    factor: Annotated[float, Field(gt=0)] | None = None
    """Of RecycleLoRA's two pairs; None: 1 / (rank + sub_rank), the published 1/36 with the ranks above."""
    first_block: Annotated[int, Field(ge=0)] | None = None
    """Counted from 0; None: block 8 of 24, 4 of 12; all for RecycleLoRA."""
    layers: Annotated[tuple[Literal["q", "k", "v", "proj", "fc1", "fc2"], ...], Field(min_length=1)] = (
        "q", "k", "v", "proj", "fc1", "fc2",
    )  # fmt: skip
    """`fc1`: all inputs of the MLP, of a SwiGLU two."""
    biases: bool | None = None
    """Train the biases of these layers too; None: with SoMA."""


class PlainHeadSettings(Strict):
    """The plain mask decoder (arXiv 2603.25398)."""

    channels: Width | None = None
    """Its width; None: the backbone's. Narrower is lighter, by a projection of what is read."""
    layers: Annotated[int, Field(gt=0, le=1_000)] = 6
    heads: Width | None = None
    """None: one for each 64 channels."""
    ffn: Width | None = None
    """Hidden width of its layers; None: its width."""


class HeadSettings(Strict):
    """The head. `queries` is used where no adapter gives the queries; what follows it is the Mask2Former head's."""

    kind: Literal["mask2former", "plain"] = "mask2former"
    """`plain` goes without pixel decoder and deformable attention, on plain transformers alone."""
    plain: PlainHeadSettings = PlainHeadSettings()
    queries: Width = 100
    channels: Width = 256
    heads: Width = 8
    points: Annotated[int, Field(gt=0, le=1_024)] = 4
    pixel_layers: Annotated[int, Field(gt=0, le=1_000)] = 6
    pixel_ffn: Width = 1024
    decoder_layers: Annotated[int, Field(gt=0, le=1_000)] = 9
    decoder_ffn: Width = 2048

    @model_validator(mode="after")
    def _divides(self) -> HeadSettings:
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} does not divide among heads {self.heads}")
        if self.channels % GROUPS:
            raise ValueError(
                f"channels {self.channels} does not divide into the {GROUPS} groups of its norms"
            )
        return self

    @property
    def sampled_width(self) -> int | None:
        """Channels of a head of the deformable attention; None where the head has none."""
        return self.channels // self.heads if self.kind == "mask2former" else None


class ModelSettings(Strict):
    """What is built. `tune`: `rein` trains adapters and head, `frozen` the head alone, `full` everything.

    `soma` and `recycle` train the head and minor directions of the backbone's weights; `rein+soma` both.
    """

    tune: Literal["rein", "frozen", "full", "soma", "recycle", "rein+soma"] = "rein"
    train_backbone: bool = False
    """With `rein`: train the backbone too (for tiny backbones without learnt features)."""
    backbone: BackboneSettings = BackboneSettings()
    adapter: AdapterSettings = AdapterSettings()
    minor: MinorSettings = MinorSettings()
    head: HeadSettings = HeadSettings()

    @property
    def refines(self) -> bool:
        """Whether Rein's adapters stand behind the blocks."""
        return self.tune in ("rein", "rein+soma")

    @property
    def minor_kind(self) -> Literal["soma", "recycle"] | None:
        """How minor directions are tuned in the blocks, if they are."""
        if self.tune == "recycle":
            return "recycle"
        return "soma" if self.tune in ("soma", "rein+soma") else None

    @model_validator(mode="after")
    def _trains_once(self) -> ModelSettings:
        if self.train_backbone and self.minor_kind:
            raise ValueError(
                f"model.train_backbone trains whole weights, and model.tune = '{self.tune}' directions of frozen ones"
            )
        return self
