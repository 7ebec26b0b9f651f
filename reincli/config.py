"""Every setting and its default, once. The defaults are the 512x512 recipe of the paper (arXiv 2312.04265).

How a run's `Settings` is put together from presets, files and options: `settings_files`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Below1 = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(gt=0, le=10**9)]
Side = Annotated[int, Field(gt=0, le=32_768)]
"""Of a picture, in pixels."""
Width = Annotated[int, Field(gt=0, le=65_536)]
"""Of a layer, or how many there are of something that is learned."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Rgb = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]


GROUPS = 32
"""Of the group norms in the head; its channels divide into them."""


def _takes_truth(annotation: Any) -> bool:
    return annotation is bool or bool in get_args(annotation)


class Strict(BaseModel):
    """Base of all settings: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, values: Any) -> Any:
        """pydantic takes true for 1, which nobody means."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and not _takes_truth(field.annotation):
                raise ValueError(f"{name} is {str(value).lower()}; true and false are for switches")
        return values


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


class AugmentSettings(Strict):
    """Resize, crop, flip and colour, in this order."""

    resize: Literal["shortest_edge", "range"] = "shortest_edge"
    """`shortest_edge`: short side one of int(short_side*0.1*k), k=5..20; `range`: `size` times a uniform ratio."""
    short_side: Side = 512
    long_side_max: Side = 2048
    size: tuple[Side, Side] = (2048, 1024)
    """(width, height) that `range` scales."""
    ratio: tuple[Annotated[float, Field(gt=0, le=100)], Annotated[float, Field(gt=0, le=100)]] = (0.5, 2.0)
    crop: Side = 512
    max_class_share: Fraction = 0.75
    flip: Fraction = 0.5
    photometric: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSettings:
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio {list(self.ratio)} begins with the larger one")
        return self


class ClassSettings(Strict):
    """One class of an own dataset."""

    name: str
    color: Rgb


class SplitSettings(Strict):
    """One split of an own dataset; folders are relative to the dataset's root."""

    images: str
    labels: str | None = None
    image_suffix: str = ".png"
    label_suffix: str = ".png"
    domain: str | None = None
    """Name under which the split is scored; None: the split's own name."""


class OwnDataset(Strict):
    """A dataset described in TOML."""

    root: str | None = None
    """Relative to the TOML file; None: `<data root>/<name>`."""
    classes: Annotated[tuple[ClassSettings, ...], Field(min_length=2, max_length=255)]
    ignore: Annotated[int, Field(ge=0, le=255)] = 255
    """Stored value that is neither trained on nor scored."""
    map: dict[str, int] = {}
    """Stored value (as text, TOML keys are text) -> class index; empty: values are class indices already."""
    ignore_colors: tuple[Rgb, ...] = ()
    """Of labels that are painted in the classes' colours: colours that stand for `ignore`."""
    test_size: str = "native"
    splits: dict[str, SplitSettings]


class DataSettings(Strict):
    """Where images come from. Sources are written NAME or NAME:SPLIT, for example `acdc:val`."""

    root: str = "data"
    train: Annotated[tuple[str, ...], Field(min_length=1)] = ("gta",)
    val: tuple[str, ...] = ("cityscapes:val", "bdd100k:val", "mapillary:val")
    mean: tuple[str, ...] | None = None
    """Domains that enter the mean; None: all of `val`."""
    own: dict[str, OwnDataset] = {}
    leave_out: tuple[str, ...] = ()
    """Images that are not used: `NAME/own/path.png` is one, `NAME` those of a dataset whose pairs are known to be bad
    (`gta`: 60 labels of another size, 2 of one colour). The published recipes use all."""
    augment: AugmentSettings = AugmentSettings()
    rare_class_sampling: bool = False
    """Draw a class first, rare ones more often, then an image that has it (DAFormer, arXiv 2111.14887, section 3.4)."""
    rare_class_temperature: Annotated[float, Field(gt=0)] = 0.01
    """Small: almost only the rarest classes; large: all classes alike."""
    rare_class_pixels: Positive = 3000
    """Pixels of the class that an image must have to be drawn for it; the crop should show half of them."""
    workers: Annotated[int, Field(ge=0, le=1_024)] = 4
    """Loader processes; never more than the machine has cores."""


class FactorSettings(Strict):
    """Factors of the learning rate, by part."""

    backbone: Annotated[float, Field(gt=0)] = 1.0
    """Of its weights, or of minor directions of them."""
    sub: Annotated[float, Field(gt=0)] = 1.0
    """Of the second pair of RecycleLoRA."""
    rein: Annotated[float, Field(gt=0)] = 1.0
    neck: Annotated[float, Field(gt=0)] = 1.0
    head: Annotated[float, Field(gt=0)] = 1.0


class OptimSettings(Strict):
    """AdamW, and the poly schedule with an optional linear warm-up."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    weight_decay_end: Annotated[float, Field(ge=0)] | None = None
    """Where the weight decay of every part goes, by half a cosine over the training (1e-5); None: it stays."""
    factors: FactorSettings = FactorSettings()
    power: Annotated[float, Field(ge=0)] = 0.9
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    warmup_factor: Fraction = 1e-6


class BorderSettings(Strict):
    """Parts of a target image that show nothing of the street, such as the car's own bonnet, as shares of its sides."""

    top: Fraction = 0.0
    bottom: Fraction = 0.0
    sides: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """Each of the two."""

    @model_validator(mode="after")
    def _leaves_something(self) -> BorderSettings:
        if self.top + self.bottom >= 1:
            raise ValueError("adapt.border.top and adapt.border.bottom together leave out all of an image")
        return self


class AdaptSettings(Strict):
    """Self-training on unlabelled images of a target (`rein adapt`); the parts can be switched off one by one.

    The values are those of VFM-UDA++ (arXiv 2503.10685), DACS (2007.08702) and MIC (2212.01322).
    """

    target: tuple[str, ...] = ()
    """Unlabelled images: NAME:SPLIT of a dataset (its labels are not read), folders, images, videos. Empty: training
    on `data.train` alone."""
    source: bool = True
    """Train on the labelled images of `data.train` too; False: on the target alone, which is weaker."""
    teacher_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """The teacher is the average of the student's weights with this decay; it is what is validated and kept."""
    teacher_ramp: bool = True
    """Average evenly until the decay is reached: min(1 - 1/(t + 1), decay) after t steps. False: the decay at once."""
    mirror: bool = True
    """Pseudo-labels come from the mean over a crop and its mirror image; False: from the crop alone."""
    threshold: Fraction = 0.968
    """A pseudo-label weighs as much as the share of its crop that is this certain; 0: all weigh 1."""
    mix: bool = True
    """Paste half of the classes of a labelled crop onto the target crop (ClassMix). False, or without labelled
    images: the target crop by itself, in strong colours."""
    masked: bool = True
    """The target crop with blocks hidden must give the pseudo-label, too."""
    masked_share: Fraction = 0.7
    masked_block: Positive | None = None
    """Side of a block in pixels; None: 64, or an eighth of the crop where that is less."""
    strong_colors: bool = True
    """Change the colours of labelled crops strongly, in place of `data.augment.photometric`."""
    border: BorderSettings = BorderSettings()
    """Left out of every pseudo-label."""
    video_frames: Positive = 500
    """Frames that are drawn of each video, evenly."""
    look_every: Positive = 1_000
    """Iterations between looks at a few target images: how far teacher and student agree, and pictures."""
    look_images: Positive = 4


TrackerName = Literal["tensorboard", "wandb", "mlflow"]


class TrainSettings(Strict):
    """The loop. `batch_size` is the whole batch of one step, over all processes and slices."""

    iterations: Positive = 40_000
    batch_size: Positive = 4
    accumulate: Positive = 1
    """Slices of the batch that a process computes one after another: less memory, the same training."""
    checkpoint_activations: bool = False
    """Keep only what goes into each block and work the rest out again: less memory, a third more time."""
    compile: bool = False
    """Let torch.compile fuse the model (takes minutes at the start)."""
    cuda_graphs: bool = False
    """On one GPU, record the model's passes in the first step and replay them: the GPU waits for no launches."""
    validate_every: Annotated[int, Field(ge=0)] = 10_000
    """Iterations between validations, and one at the end; 0: none at all."""
    validate_first: bool = False
    """Validate before the first iteration too."""
    checkpoint_every: Positive = 4_000
    keep_checkpoints: Positive = 3
    stop_unsaved: bool = False
    """Stop where a checkpoint or log line cannot be written (a full disk); else say so and try again at the next."""
    log_every: Positive = 50
    log_to: tuple[TrackerName, ...] = ()
    """Trackers that are told what is logged, beside the run's folder; each is an extra of the same name."""
    tensorboard: bool = False
    """The same as `tensorboard` in `log_to`."""
    points: Annotated[int, Field(gt=0, le=10**7)] = 12_544
    """Points on which a mask is matched and trained (112 x 112)."""
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Scale gradients down to this Euclidean norm; None: leave them."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an exponential moving average of the weights, validate and save that (0.999); None: none."""
    ema_from: Annotated[int, Field(ge=0)] | None = None
    """First iteration (from 0) that enters the average, which is the weights until then; None: all do, with a decay
    that grows from 0.1."""
    stop_after_skipped: Positive = 20
    """Steps in a row whose gradient is not finite (they change no weight) before training gives up."""
    seed: Seed = 42
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    start_from: str | None = None
    """Checkpoint whose adapters, minor directions and head this run starts from."""

    @model_validator(mode="after")
    def _averages(self) -> TrainSettings:
        if self.ema_from is not None and self.ema_decay is None:
            raise ValueError(
                "train.ema_from says when averaging begins, but train.ema_decay is not set (0.9998)"
            )
        return self

    @property
    def trackers(self) -> tuple[TrackerName, ...]:
        """Each tracker once, in the order of `log_to`."""
        also: tuple[TrackerName, ...] = ("tensorboard",) if self.tensorboard else ()
        return tuple(dict.fromkeys((*self.log_to, *also)))


class TestSettings(Strict):
    """How an image is predicted and at which size: the size changes the score by points."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    mode: Literal["slide", "whole"] = "slide"
    window: Side = 512
    stride: Side = 341
    window_batch: Positive | None = None
    """Windows in one forward pass, of several images where one has fewer; None: by the memory at hand."""
    compile: bool = False
    """Let torch.compile fuse the model: minutes at the start, again for each new size. For images of one size."""
    cuda_graphs: bool = False
    """On a GPU, record the model's launches for each window size and replay them: where small batches leave it idle."""
    tta: bool = False
    """Average the prediction over views of each image: `tta_scales`, each mirrored too with `tta_flip`."""
    tta_scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        0.5, 0.75, 1.0, 1.25, 1.5, 1.75,
    )  # fmt: skip
    """Sizes of the views, as multiples of the test size."""
    tta_flip: bool = True
    sizes: dict[str, str] = {}
    """Test size by dataset, 'WxH' (ratio kept) or 'native', over the table below."""


class PretrainSettings(Strict):
    """How the small backbone of `rein demo` learns from generated worlds. The defaults made the one that is shipped."""

    backbone: BackboneSettings = BackboneSettings(name="mini", patch_size=8)
    side: Positive = 128
    """Side of the worlds in pixels in the last quarter, and of the stored positions; half as much before."""
    cells: Positive = 4
    """Along a side of a patch, at which depth, normal, albedo, edge and company are asked for."""
    steps: Positive = 3_000
    tokens: Positive = 2_048
    """Patches of a step: pictures x patches of a picture."""
    lights: Positive = 1
    """Pictures of each world, each in another light and weather, whose features are asked to be alike."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 200
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    seed: Seed = 0


class Settings(Strict):
    """Everything that decides a run."""

    name: str = ""
    description: str = ""
    published: dict[str, float] = {}
    """mIoU in percent by domain, or `mean` of all of them, as published for this setting at its own test sizes."""
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    test: TestSettings = TestSettings()
    adapt: AdaptSettings = AdaptSettings()

    @model_validator(mode="after")
    def _adapts(self) -> Settings:
        adapt, crop = self.adapt, self.data.augment.crop
        if adapt.target and self.train.ema_decay is not None:
            raise ValueError(
                "the teacher of an adaptation is the moving average already (adapt.teacher_decay): leave "
                "train.ema_decay out"
            )
        if adapt.masked_block is not None and adapt.masked_block > crop:
            raise ValueError(
                f"adapt.masked_block {adapt.masked_block} is larger than data.augment.crop {crop}"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.test.stride > self.test.window:
            raise ValueError(f"test.stride {self.test.stride} is larger than test.window {self.test.window}")
        names = {tuple(c.name for c in own.classes) for own in self.data.own.values()}
        if len(names) > 1:
            raise ValueError(
                "the datasets under data.own have different classes; one run has one set of classes"
            )
        for name, own in self.data.own.items():
            stray = [index for index in own.map.values() if not 0 <= index < len(own.classes)]
            if stray:
                raise ValueError(
                    f"data.own.{name}.map points at class {stray[0]}, but there are {len(own.classes)} classes"
                )
            named = [c.name for c in own.classes]
            twice = sorted({each for each in named if named.count(each) > 1})
            if twice:
                raise ValueError(f"data.own.{name} has two classes called '{twice[0]}'; names must differ")
            if own.ignore_colors and str(own.ignore) in own.map:
                raise ValueError(
                    f"data.own.{name}.ignore_colors need a value to ignore, but its map gives {own.ignore} a class"
                )
            parse_size(own.test_size)
        for size in self.test.sizes.values():
            parse_size(size)
        return self


LARGEST = 32_768
"""Pixels of a side: what JPEG and the usual decoders can hold at most."""
TEST_SIZES: dict[str, str] = {
    "cityscapes": "1024x512",
    "gta": "1280x720",
    "synthia": "1280x720",
    "urbansyn": "2048x1024",
    "mapillary": "1024x512",
    "bdd100k": "1280x720",
    "acdc": "960x540",
    "cityscapes-c": "2048x1024",
}
"""Test sizes of the 512 recipe; a preset of the 1024 recipe states its own under `test.sizes`."""


def parse_size(text: str) -> tuple[int, int] | None:
    """'1024x512' or '1024x512!' -> (1024, 512) as (width, height); 'native' -> None. ValueError for anything else."""
    if text == "native":
        return None
    width, cross, height = text.lower().removesuffix("!").partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"size '{text}' is neither 'native' nor WIDTHxHEIGHT, for example 1024x512")
    if len(width) > 5 or len(height) > 5 or max(int(width), int(height)) > LARGEST:
        raise ValueError(f"size '{text[:40]}' is larger than {LARGEST} pixels")
    return int(width), int(height)


def is_exact(text: str) -> bool:
    """Whether a size is taken to the pixel ('1024x512!'); without the mark, images keep their ratio within it."""
    return text.endswith("!")


def test_size(settings: Settings, dataset: str) -> str:
    """The size at which images of a dataset are predicted: 'WxH' or 'native'."""
    if dataset in settings.test.sizes:
        return settings.test.sizes[dataset]
    if dataset in settings.data.own:
        return settings.data.own[dataset].test_size
    return TEST_SIZES.get(dataset, "native")


test_size.__test__ = False  # type: ignore[attr-defined]  # not a test case, whatever pytest thinks of the name
