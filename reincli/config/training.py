"""How a model is trained, adapted to unlabelled images, and how the small backbone is made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reincli.config.model import BackboneSettings
from reincli.config.values import Below1, Fraction, Positive, Seed, Strict


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
