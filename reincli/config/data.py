"""Where images come from, what own datasets are, and how training crops are cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reincli.config.values import Fraction, Positive, Rgb, Side, Strict


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
    format: Literal["png", "coco", "yolo"] = "png"
    """Of the labels: pictures in a folder; a COCO file (instances or panoptic); a folder of YOLO's segment files."""
    masks: str | None = None
    """Folder of a panoptic file's masks; None: that of the file's own name."""
    image_suffix: str = ".png"
    label_suffix: str = ".png"
    domain: str | None = None
    """Name under which the split is scored; None: the split's own name."""

    @model_validator(mode="after")
    def _labelled(self) -> SplitSettings:
        if self.format != "png" and self.labels is None:
            raise ValueError(
                f"the split has format '{self.format}' and no labels; they are its file or folder"
            )
        return self


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
