"""Every setting and its default, once: the models, and how a run's `Settings` is put together.

A run's settings come from a preset or a configuration file (both TOML), then from `--set KEY=VALUE` pairs,
then from named options of the command. Unknown keys are refused. The result is frozen and is written into
the run folder and into every checkpoint. The defaults are the 512x512 recipe of the paper (arXiv 2312.04265).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reincli.errors import ReinError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Rgb = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]


class Strict(BaseModel):
    """Base of all settings: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneSettings(Strict):
    """The foundation model. `width`, `depth` and `heads` are for the family `vit` alone, a ViT of any size."""

    name: str = "dinov2_l"
    """A family of the tables, `vit`, or the name of any model of timm that has blocks."""
    width: Positive | None = None
    depth: Positive | None = None
    heads: Positive | None = None
    patch_size: Positive = 16
    taps: tuple[int, ...] | None = None
    """Blocks whose outputs the head reads; None: at 1/3, 1/2, 2/3 and the end, or what the family is known for."""
    output_stride: Literal[8, 16, 32] | None = None
    """Of a ResNet: 8 (the released form, None) keeps stages 3 and 4 at stride 8 by dilation; 32 dilates nothing."""
    weights: str | None = None
    """Backbone file, raw or converted; None: the family's usual names under `checkpoints/`. 'random': none."""


class AdapterSettings(Strict):
    """Rein (section 3 of the paper). `rank` None keeps one full token table a block instead of a product."""

    tokens: Positive = 100
    rank: Positive | None = 16
    link_features: bool = True
    """False: the head keeps its own learned query features (SAM, CLIP)."""


class HeadSettings(Strict):
    """The Mask2Former head. `queries` is used where no adapter gives the queries."""

    queries: Positive = 100
    channels: Positive = 256
    heads: Positive = 8
    points: Positive = 4
    pixel_layers: Positive = 6
    pixel_ffn: Positive = 1024
    decoder_layers: Positive = 9
    decoder_ffn: Positive = 2048


class ModelSettings(Strict):
    """What is built. `tune`: `rein` trains adapters and head, `frozen` the head alone, `full` everything."""

    tune: Literal["rein", "frozen", "full"] = "rein"
    train_backbone: bool = False
    """With `rein`: train the backbone too (for tiny backbones without learnt features)."""
    backbone: BackboneSettings = BackboneSettings()
    adapter: AdapterSettings = AdapterSettings()
    head: HeadSettings = HeadSettings()


class AugmentSettings(Strict):
    """Resize, crop, flip and colour, in this order."""

    resize: Literal["shortest_edge", "range"] = "shortest_edge"
    """`shortest_edge`: short side one of int(short_side*0.1*k), k=5..20; `range`: `size` times a uniform ratio."""
    short_side: Positive = 512
    long_side_max: Positive = 2048
    size: tuple[Positive, Positive] = (2048, 1024)
    """(width, height) that `range` scales."""
    ratio: tuple[float, float] = (0.5, 2.0)
    crop: Positive = 512
    max_class_share: Fraction = 0.75
    flip: Fraction = 0.5
    photometric: bool = True


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
    test_size: str = "native"
    splits: dict[str, SplitSettings]


class DataSettings(Strict):
    """Where images come from. Sources are written NAME or NAME:SPLIT, for example `acdc:val`."""

    root: str = "data"
    train: tuple[str, ...] = ("gta",)
    val: tuple[str, ...] = ("cityscapes:val", "bdd100k:val", "mapillary:val")
    mean: tuple[str, ...] | None = None
    """Domains that enter the mean; None: all of `val`."""
    own: dict[str, OwnDataset] = {}
    augment: AugmentSettings = AugmentSettings()
    rare_class_sampling: bool = False
    """Draw a class first, rare ones more often, then an image that has it (DAFormer, arXiv 2111.14887, section 3.4)."""
    rare_class_temperature: Annotated[float, Field(gt=0)] = 0.01
    """Small: almost only the rarest classes; large: all classes alike."""
    rare_class_pixels: Positive = 3000
    """Pixels of the class that an image must have to be drawn for it."""
    workers: Annotated[int, Field(ge=0)] = 4
    """Loader processes; never more than the machine has cores."""


class OptimSettings(Strict):
    """AdamW, and the poly schedule with an optional linear warm-up."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    power: float = 0.9
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    warmup_factor: float = 1e-6


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
    validate_every: Annotated[int, Field(ge=0)] = 10_000
    """Iterations between validations, and one at the end; 0: none at all."""
    validate_first: bool = False
    """Validate before the first iteration too."""
    checkpoint_every: Positive = 4_000
    keep_checkpoints: Positive = 3
    log_every: Positive = 50
    tensorboard: bool = False
    """Write what is logged for TensorBoard too (extra `tensorboard`)."""
    points: Positive = 12_544
    """Points on which a mask is matched and trained (112 x 112)."""
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Scale gradients down to this Euclidean norm; None: leave them."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an exponential moving average of the weights, validate and save that (0.999); None: none."""
    stop_after_skipped: Positive = 20
    """Steps in a row whose gradient is not finite (they change no weight) before training gives up."""
    seed: Annotated[int, Field(ge=0)] = 42
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    start_from: str | None = None
    """Checkpoint whose adapters and head this run starts from."""


class TestSettings(Strict):
    """How an image is predicted and at which size: the size changes the score by points."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    mode: Literal["slide", "whole"] = "slide"
    window: Positive = 512
    stride: Positive = 341
    window_batch: Positive | None = None
    """Windows in one forward pass, of several images where one has fewer; None: by the memory at hand."""
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
    """mIoU in percent by domain, as published for this setting."""
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    test: TestSettings = TestSettings()

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
            parse_size(own.test_size)
        for size in self.test.sizes.values():
            parse_size(size)
        return self


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
    """'1024x512' -> (1024, 512) as (width, height); 'native' -> None. ValueError for anything else."""
    if text == "native":
        return None
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"size '{text}' is neither 'native' nor WIDTHxHEIGHT, for example 1024x512")
    return int(width), int(height)


def test_size(settings: Settings, dataset: str) -> str:
    """The size at which images of a dataset are predicted: 'WxH' or 'native'."""
    if dataset in settings.test.sizes:
        return settings.test.sizes[dataset]
    if dataset in settings.data.own:
        return settings.data.own[dataset].test_size
    return TEST_SIZES.get(dataset, "native")


test_size.__test__ = False  # type: ignore[attr-defined]  # not a test case, whatever pytest thinks of the name


# --- presets and files -------------------------------------------------------------------------------------


def presets_folder() -> Path:
    """Where the presets lie: beside this file in an installed wheel, beside the package in a checkout."""
    here = Path(__file__).parent
    installed = here / "presets"
    return installed if installed.is_dir() else here.parent / "presets"


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(path.stem for path in presets_folder().glob("*.toml"))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict. ReinError where it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ReinError(
            f"No settings file at '{path}'.", "Give the path of a TOML file.", usage=True
        ) from None
    except IsADirectoryError:
        raise ReinError(f"'{path}' is a folder, not a TOML file.", usage=True) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReinError(f"'{path}' is not valid TOML: {error}.", usage=True) from None


def read_preset(name: str) -> dict[str, Any]:
    """The raw TOML of a preset, its name filled in. ReinError for a name that does not exist."""
    path = presets_folder() / f"{name}.toml"
    if name not in preset_names():
        hint = f"{nearest(name, preset_names())} See: rein presets"
        raise ReinError(f"No preset is named '{name}'.", hint, usage=True)
    return {"name": name, **read_toml(path)}


def read_config(path: Path) -> dict[str, Any]:
    """The raw TOML of an own configuration; dataset roots in it become absolute (they are relative to it)."""
    raw = {"name": path.stem, **read_toml(path)}
    own = raw.get("data", {}).get("own", {}) if isinstance(raw.get("data", {}), dict) else {}
    for dataset in own.values() if isinstance(own, dict) else ():
        if isinstance(dataset, dict) and isinstance(dataset.get("root"), str):
            dataset["root"] = str((path.parent / dataset["root"]).resolve())
    return raw


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """'optim.lr=6e-5' -> (['optim', 'lr'], 6e-5). Values are TOML; a bare word is text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ReinError(f"--set '{text}' is not KEY=VALUE.", "For example: --set optim.lr=6e-5", usage=True)
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return key.strip().split("."), parsed


def assign(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set `raw[k0][k1]… = value`, making tables on the way."""
    table = raw
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ReinError(
                f"'{'.'.join(keys)}' is not a setting: '{key}' is a value, not a table.", usage=True
            )
        table = inner
    table[keys[-1]] = value


def build_settings(
    raw: Mapping[str, Any], sets: Iterable[str] = (), options: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from raw TOML, `--set` pairs and named options, the later over the earlier.

    Args:
        raw: as read by `read_preset`, `read_config` or from a checkpoint.
        sets: 'KEY=VALUE' pairs with dotted keys.
        options: dotted key -> value of named options; None values are skipped.

    Raises:
        ReinError: unknown key (with the nearest known one), or a value that does not fit.
    """
    merged = json.loads(json.dumps(raw))
    for text in sets:
        assign(merged, *parse_assignment(text))
    for key, value in (options or {}).items():
        if value is not None:
            assign(merged, key.split("."), value)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise _readable(error) from None


def load_settings(
    preset: str | None = None,
    config: Path | None = None,
    sets: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings of a preset or of a TOML file; see `build_settings`."""
    if preset and config:
        raise ReinError("--preset and --config were both given.", "Give one of them.", usage=True)
    if not preset and not config:
        raise ReinError(
            "Neither --preset nor --config was given.", "See the presets: rein presets", usage=True
        )
    raw = read_preset(preset) if preset else read_config(Path(str(config)))
    return build_settings(raw, sets, options)


def _readable(error: ValidationError) -> ReinError:
    """The first complaint of pydantic as one sentence."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    dotted = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = known_keys(path[:-1])
        near = nearest(path[-1], known)
        everywhere = [key for key in all_keys() if key.endswith("." + path[-1])]
        if everywhere and "Known" in near:
            near = "Did you mean " + " or ".join(f"'{key}'" for key in everywhere[:2]) + "?"
        return ReinError(f"There is no setting '{dotted}'.", near, usage=True)
    if first["type"] == "missing":
        return ReinError(f"Setting '{dotted}' is missing.", "It has no default.", usage=True)
    detail = first["msg"].removeprefix("Value error, ")
    if not dotted:
        return ReinError(f"The settings do not fit together: {detail}.", usage=True)
    return ReinError(f"Setting '{dotted}' cannot be {first['input']!r}: {detail}.", usage=True)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_of(a))), None)


def known_keys(path: Iterable[str]) -> list[str]:
    """Names of the settings in the table at a dotted path; names of own datasets, splits, … are passed over."""
    model: type[BaseModel] = Settings
    for part in path:
        field = model.model_fields.get(part)
        if field is not None:
            model = _model_of(field.annotation) or model
    return list(model.model_fields)


def all_keys(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Every dotted key there is."""
    keys = []
    for name, field in model.model_fields.items():
        inner = _model_of(field.annotation)
        keys += all_keys(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys


# --- writing -----------------------------------------------------------------------------------------------


def to_toml(settings: Settings) -> str:
    """The whole resolved object as TOML that `read_toml` and `build_settings` read back; None is left out."""
    lines: list[str] = []
    _write_table(settings.model_dump(mode="json", exclude_none=True), (), lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    values = {k: v for k, v in table.items() if not _is_table(v)}
    if path and (values or not table):
        lines += ["", "[" + ".".join(_toml_key(part) for part in path) + "]"]
    lines += [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if _is_table(value):
            _write_table(value, (*path, key), lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _toml_key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else _toml_text(key)


def _toml_text(text: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for DEL, which TOML wants escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _toml_text(value)
    return repr(value)
