"""Everything that decides a run, and the sizes at which images are tested."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reincli.config.data import DataSettings
from reincli.config.model import ModelSettings
from reincli.config.training import AdaptSettings, OptimSettings, TrainSettings
from reincli.config.values import Positive, Side, Strict


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
            if any(s.format != "png" for s in own.splits.values()) and str(own.ignore) in own.map:
                raise ValueError(
                    f"data.own.{name} needs a value for what no object covers, but its map gives {own.ignore} a class"
                )
            parse_size(own.test_size)
        for size in self.test.sizes.values():
            parse_size(size)
        return self


def unused(settings: Settings) -> list[str]:
    """A sentence on each table that was filled in and that nothing reads, as other settings are."""
    model = settings.model
    tables = (
        (
            "model.minor",
            model.minor,
            model.minor_kind,
            f"model.tune = '{model.tune}' has no minor directions",
        ),
        (
            "model.head.plain",
            model.head.plain,
            model.head.kind == "plain",
            f"the head is '{model.head.kind}'",
        ),
        ("adapt", settings.adapt, settings.adapt.target, "no adapt.target is named"),
    )
    told = []
    for name, table, is_read, why in tables:
        changed = [key for key, value in table if value != getattr(type(table)(), key)]
        if changed and not is_read:
            told.append(f"Not used: {', '.join(f'{name}.{key}' for key in changed)}; {why}.")
    return told


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
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
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
