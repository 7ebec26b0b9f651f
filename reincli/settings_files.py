"""How a run's `Settings` is put together, and TOML in and out.

Settings come from a preset or a configuration file (both TOML), then from `--set KEY=VALUE` pairs, then from named
options of the command. Unknown keys are refused. The result is frozen and is written into the run folder and into
every checkpoint.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from reincli.config import Settings
from reincli.errors import ReinError, nearest, typed
from reincli.toml_files import parse_toml, read_toml, tomllib


def presets_folder() -> Path:
    """Where the presets lie: beside this file in an installed wheel, beside the package in a checkout."""
    here = Path(__file__).parent
    installed = here / "presets"
    return installed if installed.is_dir() else here.parent / "presets"


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(path.stem for path in presets_folder().glob("*.toml"))


def read_preset(name: str) -> dict[str, Any]:
    """The raw TOML of a preset, its name filled in. ReinError for a name that does not exist."""
    path = presets_folder() / f"{name}.toml"
    if name not in preset_names():
        hint = f"{nearest(name, preset_names())} See: rein presets"
        if name.endswith(".toml"):
            hint = f"A file is given as: --config {typed(name)}"
        raise ReinError(f"No preset is named '{name}'.", hint, usage=True)
    return {"name": name, **read_toml(path)}


def read_config(path: Path) -> dict[str, Any]:
    """The raw TOML of an own configuration; dataset roots in it become absolute (they are relative to it)."""
    if str(path) in preset_names() and not path.exists():
        raise ReinError(
            f"'{path}' is a preset, not a file of settings.", f"Give it as: --preset {path}", usage=True
        )
    raw = {"name": path.stem, **read_toml(path)}
    own = raw.get("data", {}).get("own", {}) if isinstance(raw.get("data", {}), dict) else {}
    for dataset in own.values() if isinstance(own, dict) else ():
        if isinstance(dataset, dict) and isinstance(dataset.get("root"), str):
            dataset["root"] = str((path.parent / expanded(dataset["root"])).resolve())
        for split in _tables_of(dataset, "splits"):
            split |= {
                key: expanded(split[key]) for key in ("images", "labels") if isinstance(split.get(key), str)
            }
    return raw


def _tables_of(table: Any, key: str) -> list[dict[str, Any]]:
    """The tables within a table of tables; none where it is something else, which is said later."""
    inner = table.get(key) if isinstance(table, dict) else None
    return [each for each in inner.values() if isinstance(each, dict)] if isinstance(inner, dict) else []


PATHS = ("data.root", "model.backbone.weights", "train.start_from")
"""Settings that are paths: `~` and $VARIABLES are filled in."""


def expanded(text: str) -> str:
    """A path with `~` and $VARIABLES filled in.

    Raises:
        ReinError: a variable that is not set.
    """
    filled = os.path.expandvars(os.path.expanduser(text))
    unset = re.search(r"\$\{?([A-Za-z_]\w*)", filled)  # a folder may be called a$1
    if unset and not Path(filled).exists():
        raise ReinError(
            f"The path '{text}' names the variable {unset[1]}, which is not set.",
            "Set it, or write the path out.",
            usage=True,
        )
    return filled


def _expand_paths(raw: dict[str, Any]) -> None:
    for dotted in PATHS:
        *tables, key = dotted.split(".")
        table: Any = raw
        for part in tables:
            table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = expanded(table[key])


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """'optim.lr=6e-5' -> (['optim', 'lr'], 6e-5). Values are TOML; a bare word is text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ReinError(f"--set '{text}' is not KEY=VALUE.", "For example: --set optim.lr=6e-5", usage=True)
    try:
        parsed = parse_toml(f"value = {value.strip()}", f"--set '{key.strip()}'")["value"]
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
                f"'{'.'.join(keys)}' is not a setting: '{key}' is a value, not a table.",
                "Known settings: rein presets NAME prints them all.",
                usage=True,
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
    _expand_paths(merged)
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
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        return ReinError(
            f"Setting '{'.'.join(path[:-1])}' is a list that ends too early: it has no entry {path[-1]} (from 0).",
            "A colour is three numbers, [RED, GREEN, BLUE]." if path[-2] == "color" else "Write them all.",
            usage=True,
        )
    if first["type"] == "missing":
        return ReinError(f"Setting '{dotted}' is missing.", "It has no default.", usage=True)
    detail = _detail(first["type"], first.get("ctx", {}), first["msg"])
    if not dotted or (first["type"] == "value_error" and isinstance(first["input"], Mapping)):
        # of a whole table: the sentence names the settings that it means, the table would say nothing
        return ReinError(f"The settings do not fit together: {detail}.", usage=True)
    given = repr(first["input"])
    shown = given if len(given) <= 60 else f"{given[:60]}..."
    return ReinError(f"Setting '{dotted}' cannot be {shown}: {detail}.", usage=True)


EXPECTED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text in quotes",
    "tuple": "a list in [ ]", "list": "a list in [ ]", "dict": "a table", "model": "a table",
}  # fmt: skip


def _detail(kind: str, facts: Mapping[str, Any], message: str) -> str:
    """What pydantic complains about, in the words of TOML; our own validators' sentences as they are."""
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    bounds = {
        "greater_than": "over",
        "greater_than_equal": "at least",
        "less_than": "under",
        "less_than_equal": "at most",
    }
    if kind in bounds:
        number = next(iter(facts.values()))
        return f"it must be {bounds[kind]} {number}"
    if kind == "literal_error":
        return f"it is one of {facts['expected']}"
    if kind in ("too_short", "too_long"):
        length = facts.get("min_length", facts.get("max_length"))
        limit = "at least" if kind == "too_short" else "at most"
        return f"it has {facts['actual_length']} entries, {limit} {length} are expected"
    expected = next((words for name, words in EXPECTED.items() if kind.startswith(name)), None)
    return f"expected {expected}" if expected else message[:1].lower() + message[1:]


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
