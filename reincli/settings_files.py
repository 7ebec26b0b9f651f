"""How a run's `Settings` is put together, and TOML in and out.

Settings come from a preset or a configuration file (both TOML), then from `--set KEY=VALUE` pairs, then from named
options of the command. Unknown keys are refused. The result is frozen and is written into the run folder and into
every checkpoint.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from reincli.config import Settings
from reincli.errors import ReinError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
