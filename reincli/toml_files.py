"""TOML in files and on the command line: read in the encodings that Windows writes, and what is none explained."""

from __future__ import annotations

import codecs
import datetime
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

from reincli.errors import ReinError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_FILE = 10**6
"""Bytes of a file of settings."""
SAVE_UTF8 = "Save it in UTF-8, as editors offer when saving."
DEEPEST = 1000
"""Dots of a key."""


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict, in UTF-8 or with the mark of UTF-16. ReinError where it is missing or no TOML."""
    try:
        with open(path, "rb") as file:  # a device may never end
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ReinError(
                f"'{path}' is larger than {LARGEST_FILE:,} bytes: no file of settings is.",
                "Is it the right file?",
                usage=True,
            )
        text = _text(data)
        if "\0" in text:
            raise ReinError(
                f"'{path}' holds the character NUL: it is in UTF-16 or UTF-32 without a mark, or no text.",
                SAVE_UTF8,
                usage=True,
            )
        return parse_toml(text, f"'{path}'")
    except FileNotFoundError:
        beside = path.with_name(f"{path.name}.toml")
        hint = f"Did you mean '{beside}'?" if beside.is_file() else "Give the path of a TOML file."
        raise ReinError(f"No settings file at '{path}'.", hint, usage=True) from None
    except IsADirectoryError:
        raise ReinError(f"'{path}' is a folder, not a TOML file.", "Give a file in it.", usage=True) from None
    except PermissionError:
        raise ReinError(f"No permission to read '{path}'.", "Check its owner and mode.", usage=True) from None
    except UnicodeDecodeError as error:
        raise ReinError(
            f"'{path}' is no text in UTF-8 (byte {error.start} is none of it).",
            SAVE_UTF8,
            usage=True,
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(path, str(error)) from None


def parse_toml(text: str, what: str) -> dict[str, Any]:
    """TOML whose values settings may have.

    Args:
        text: the TOML. what: stands for it in sentences.

    Raises:
        tomllib.TOMLDecodeError: it is none. ReinError: it is nested too deep, or has dates or NUL characters.
    """
    try:
        if any(line.partition("=")[0].count(".") > DEEPEST for line in text.splitlines()):
            raise RecursionError  # it would take minutes
        raw = tomllib.loads(text)
        _require_plain(raw, "", what)
    except RecursionError:
        raise ReinError(f"{what} is nested too deep.", "Settings are tables in tables.", usage=True) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        raise ReinError(
            f"{what} has a number of thousands of digits.", "Write it with fewer.", usage=True
        ) from None
    return raw


def _require_plain(value: Any, dotted: str, what: str) -> None:
    """ReinError for what TOML has and settings have not."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _require_plain(key, dotted, what)
            _require_plain(inner, f"{dotted}.{key}".strip("."), what)
    elif isinstance(value, list):
        for inner in value:
            _require_plain(inner, dotted, what)
    elif isinstance(value, datetime.date | datetime.time):
        raise ReinError(
            f"'{dotted}' in {what} is the date or time {value}; no setting is one.",
            "Text stands in quotes.",
            usage=True,
        )
    elif isinstance(value, str) and "\0" in value:
        raise ReinError(f"'{dotted}' in {what} has the character NUL.", "Take it out.", usage=True)


def _text(data: bytes) -> str:
    """What a text file says; Windows marks its encoding in the first bytes."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if utf16 else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


TYPESET = {
    "\u201c": '"',
    "\u201d": '"',
    "\u201e": '"',
    "\u2018": "'",
    "\u2019": "'",
    "\u00a0": "a plain space",
}
"""Characters of word processors and web pages, and those of TOML that they stand for."""


def _not_toml(path: Path, message: str) -> ReinError:
    """Where a file is no TOML, the line itself, and what to write instead where that is known."""
    place = re.search(r"line (\d+)", message)
    lines = _text(path.read_bytes()).splitlines()
    number = int(place[1]) if place else len(lines)
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    where = f"'{path}' is not valid TOML at line {number}: {line}"
    value = line.partition("=")[2].strip()
    if "\\" in line and '"' in line:
        plain = value.strip('"').replace("\\", "/")
        return ReinError(
            where,
            f'In double quotes \\ begins an escape: write "{plain}", or take single quotes.',
            usage=True,
        )
    if "already" in message or "overwrite" in message or "twice" in message:
        return ReinError(where, "This key or table is there twice: keep one of them.", usage=True)
    odd = next((letter for letter in line.partition("#")[0] if letter in TYPESET), "")
    if odd:
        return ReinError(
            where,
            f"It has {unicodedata.name(odd)}, as word processors write it: type {TYPESET[odd]}.",
            usage=True,
        )
    if re.fullmatch(r"[+-]?(\d+,\d+|\.\d+)", value.partition("#")[0].strip()):
        return ReinError(
            where, "A number has a point, a digit before it, and no comma: 0.5, 40_000.", usage=True
        )
    if value in ("True", "False", "None"):
        instead = {"True": "true", "False": "false"}.get(value)
        hint = f"Write {instead}." if instead else "TOML has no None: leave the line out."
        return ReinError(where, hint, usage=True)
    if value and value[0].isalpha() and value not in ("true", "false", "inf", "nan"):
        return ReinError(where, f'Text stands in quotes: "{value}".', usage=True)
    return ReinError(
        where, 'A line is KEY = VALUE (text in quotes) or [TABLE]; "#" begins a remark.', usage=True
    )
