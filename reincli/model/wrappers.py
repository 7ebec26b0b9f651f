"""What lies around a network's tensors: tables in tables, prefixes of wrappers, chunks of blocks.

Pure functions of dicts. Which tensors tell a family is asked of `layouts` and `hugging_face`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from reincli.errors import ReinError
from reincli.model import hugging_face
from reincli.model.layouts import LAYOUTS, State, inverse, rename

TABLES = (
    "state_dict", "model", "teacher", "model_state", "model_state_dict", "module", "ema", "model_ema",
    "state_dict_ema", "ema_state_dict", "student", "net", "network", "weights", "backbone", "encoder", "params",
)  # fmt: skip
"""Keys under which files keep their table of tensors, those preferred first."""
AVERAGES = ("state_dict_ema", "model_ema", "ema")
"""Keys of an average beside what was averaged, which is preferred, as timm and the authors of ConvNeXt evaluate it.
MMEngine's `ema_state_dict` is none: it keeps the average in `state_dict`, and there what it is of."""
WITHIN = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and recomputation put into names, at their start or within."""
OWN_PARTS = {"backbone", "decode_head", "neck", "rein", "pixel_decoder", "mask_decoder", "plain_decoder"}
"""Parts of a segmentation model: a file that holds one of them alone keeps its name."""
PLAIN_HEAD = "network.decoder."
"""The plain head in its authors' names, which all begin as a wrapper's would."""
PREFERRED = ("teacher", "ema", "momentum", "target")
"""Of two copies of one network in a file, the one that its authors evaluate."""
TRAINED = ("reins.", "fpn")
"""Parts of the original's backbones that are trained; the rest is the foundation model."""


def unwrap(content: object, path: Path | str = "") -> dict[str, Tensor]:
    """The state dict inside a loaded file: itself, under one of the usual keys, or the one table of a network in it.

    Shared prefixes are cut. `path` names the file in errors.

    Raises:
        ReinError: no tensors there, or several tables of which none has a usual key.
    """
    what, top = f"'{path}'" if path else "The file", content
    while isinstance(content, Mapping):
        key = _table_of(content)
        if key is None:
            break
        content = content[key]
    if not _is_network(content):
        tables = dict(_networks(top))
        if len(tables) > 1:
            raise ReinError(
                f"{what} holds {len(tables)} tables of tensors, under {', '.join(list(tables)[:5])}, and none "
                "of a usual name.",
                "Save the tensors of the one you mean alone, and give that file.",
            )
        content = next(iter(tables.values()), content)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        raise ReinError(
            f"{what} holds no table of tensors{f' (its keys: {keys})' if keys else ''}.",
            "Save those of the network alone, torch.save(network.state_dict(), FILE), and give that file.",
        )
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for part in WITHIN:
        state = {name.replace(part, ""): value for name, value in state.items()}
    while shared := _shared_prefix(state):
        state = {name[len(shared) :]: value for name, value in state.items()}
    return state


def average_taken(content: object) -> str | None:
    """A remark where a file holds an average beside what was averaged, of which `unwrap` takes the first."""
    if not isinstance(content, Mapping):
        return None
    taken, plain = _table_of(content), _plain_table(content)
    return f"It holds '{taken}' beside '{plain}': the average is taken." if taken != plain else None


def _table_of(node: Mapping[Any, Any]) -> str | None:
    """The key of the table to look into: an average, where it has as many tensors as what it is of."""
    plain = _plain_table(node)
    if plain is None:
        return None
    return next((key for key in AVERAGES if _count(node.get(key)) == _count(node[plain])), plain)


def _plain_table(node: Mapping[Any, Any]) -> str | None:
    return next((key for key in TABLES if _has_tensors(node.get(key))), None)


def _count(node: object) -> int:
    """Tensors in a table, or in the usual table within."""
    if not isinstance(node, Mapping):
        return 0
    own = sum(isinstance(value, Tensor) for value in node.values())
    return own or max((_count(node.get(key)) for key in TABLES), default=0)


def _is_network(node: object) -> bool:
    """Whether a table holds tensors under dotted names, as modules have; those of an optimiser have none."""
    return isinstance(node, Mapping) and any(
        isinstance(value, Tensor) and "." in str(name) for name, value in node.items()
    )


def _networks(node: object, name: str = "") -> Iterator[tuple[str, object]]:
    """All tables within that are a network's, by their dotted names, those within them left out."""
    if _is_network(node):
        yield name or "its top", node
        return
    inner: Iterator[tuple[object, object]] = iter(())
    if isinstance(node, Mapping):
        inner = iter(node.items())
    elif isinstance(node, list | tuple):
        inner = iter(enumerate(node))
    for key, value in inner:
        yield from _networks(value, f"{name}.{key}".strip("."))


def _has_tensors(node: object) -> bool:
    """Whether a table holds a tensor, or a usual table that does."""
    if not isinstance(node, Mapping):
        return False
    return any(isinstance(value, Tensor) for value in node.values()) or any(
        _has_tensors(node.get(key)) for key in TABLES
    )


def _shared_prefix(state: State) -> str:
    """'module.' where every name starts with it and it is a wrapper's; else empty."""
    first = {name.partition(".")[0] for name in state if "." in name}
    if len(first) != 1 or len(state) < 2 or not all("." in name for name in state):
        return ""
    part = first.pop()
    own = part in OWN_PARTS or part.isdigit() or any(name.startswith(PLAIN_HEAD) for name in state)
    return "" if own else f"{part}."


def plain_backbone(state: State) -> dict[str, Tensor]:
    """The backbone's tensors under its publisher's names, out of a backbone file or a whole model's state dict.

    Raises:
        ReinError: there are several backbones and none is to be preferred.
    """
    state = unchunked(state)
    for form in hugging_face.FORMS:
        inside = within(state, form.signs)
        if inside is not None:
            return form.published(inside)
    for signs in _signs():
        inside = within(state, signs)
        if inside is not None:
            return inside
    if any(name.startswith("backbone.") for name in state):
        return _under(state, "backbone.")
    return dict(state)


def _signs() -> Iterator[tuple[str, ...]]:
    """All sets of names by which a family is known, in the order of the tables."""
    for layout in LAYOUTS.values():
        if layout.signs:
            yield layout.signs
        if layout.timm_signs:
            yield layout.timm_signs
        if layout.aliases:
            back = inverse(layout.aliases)
            yield tuple(rename(sign, back) or sign for sign in layout.signs)


def within(state: State, signs: Sequence[str]) -> dict[str, Tensor] | None:
    """The tensors under the prefix at which all signs of a family stand; None where there is no such prefix.

    Raises:
        ReinError: several prefixes, and none is of a copy that is preferred.
    """
    rare = signs[-1]
    prefixes = [name[: -len(rare)] for name in state if name == rare or name.endswith(f".{rare}")]
    prefixes = [each for each in prefixes if all(each + sign in state for sign in signs)]
    if not prefixes:
        return None
    best = [each for each in prefixes if set(PREFERRED) & set(each.split("."))]
    chosen = prefixes if len(prefixes) == 1 else best
    if len(chosen) != 1:
        raise ReinError(
            f"The file holds {len(prefixes)} networks of one form, under {', '.join(prefixes)}.",
            "Save the tensors of the one you mean alone, and give that file.",
        )
    return _under(state, chosen[0])


def _under(state: State, prefix: str) -> dict[str, Tensor]:
    inside = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    if prefix.endswith("backbone."):
        return {name: value for name, value in inside.items() if not name.startswith(TRAINED)}
    return inside


def unchunked(state: State) -> dict[str, Tensor]:
    """'blocks.CHUNK.BLOCK.' -> 'blocks.BLOCK.': training of DINOv2 keeps its blocks in chunks.

    Its block numbers run on through the chunks; where they start anew in each, they are counted on.
    """
    pattern = re.compile(r"(.*?\bblocks\.)(\d+)\.(\d+)\.")
    found = [match for match in map(pattern.match, state) if match]
    if not found:
        return dict(state)
    places = sorted({(int(match[2]), int(match[3])) for match in found})
    running = len({block for _, block in places}) == len(places)
    number = {place: place[1] if running else index for index, place in enumerate(places)}

    def plain(name: str) -> str:
        match = pattern.match(name)
        if match is None:
            return name
        return f"{match[1]}{number[int(match[2]), int(match[3])]}.{name[match.end() :]}"

    return {plain(name): value for name, value in state.items()}
