"""Bad inputs as data: what is harmed, which command meets it, how it must end and what it must say.

`{}` in a command stands for the folder of a copied world: `run/`, `toy/`, `backbone.pth`, `toy.toml`, `scores.json`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HEAD = "decode_head.cls_embed.weight"


@dataclass(frozen=True)
class Bad:
    """A trial."""

    name: str
    harm: Callable[[Path], object]
    words: str
    code: int
    says: str
    keeps: tuple[str, ...] = ()
    """Files that must be the same afterwards."""


def change(name: str, edit: Callable[[Any], object]) -> Callable[[Path], object]:
    """Edit the content of a weights file."""

    def harm(root: Path) -> None:
        content = torch.load(root / name, weights_only=True)
        edit(content)
        (root / name).unlink()  # hard links of a run stay as they were
        torch.save(content, root / name)

    return harm


def put(name: str, value: object) -> Callable[[Path], object]:
    """Replace the tensor of the class head by another value."""
    return change("run/last.pth", lambda c: c["state_dict"].update({HEAD: value}))


def flip(name: str, at: float) -> Callable[[Path], object]:
    """Flip one bit of a file at a share of its length."""

    def harm(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[int(len(data) * at)] ^= 16
        (root / name).unlink()
        (root / name).write_bytes(data)

    return harm


def nothing(root: Path) -> None:
    """Harm nothing."""


EVAL = "eval {}/run/last.pth --device cpu"
SELF: dict[str, Any] = {}
SELF["state_dict"] = SELF

CONTENTS = [
    Bad(f"content: {name}", harm, EVAL, 1, says)
    for name, harm, says in (
        ("rein is a number", change("run/last.pth", lambda c: c.update(rein=5)), "'rein' is 5, not a table"),
        ("no classes", change("run/last.pth", lambda c: c["rein"].pop("classes")), "'rein.classes' is missing"),
        ("names missing", change("run/last.pth", lambda c: c["rein"]["classes"].update(names=None)), "not a list"),
        ("names numbers", change("run/last.pth", lambda c: c["rein"]["classes"].update(names=[1, 2, 3])), "not a list"),
        ("colours", change("run/last.pth", lambda c: c["rein"]["classes"].update(colors=[[1, 2]])), "not a colour"),
        ("settings", change("run/last.pth", lambda c: c["rein"]["settings"].update(x=1)), "settings cannot be used"),
        ("iteration text", change("run/last.pth", lambda c: c["meta"].update(iter="abc")), "not a number of iterat"),
        ("iteration none", change("run/last.pth", lambda c: c["meta"].update(iter=None)), "'meta.iter' is missing"),
        ("training text", change("run/last.pth", lambda c: c.update(training="x")), "'training' is no table"),
        ("not finite", put("nan", torch.full((4, 32), math.nan)), "are NaN or infinite"),
        ("no dimension", put("0-d", torch.tensor(1.0)), "no whole segmentation head"),
        ("integers", put("int", torch.ones(4, 32, dtype=torch.long)), "of the wrong type"),
        ("complex", put("complex", torch.ones(4, 32, dtype=torch.complex64)), "complex numbers"),
        ("sparse", put("sparse", torch.ones(4, 32).to_sparse()), "is sparse"),
        ("meta", put("meta", torch.ones(4, 32, device="meta")), "has no numbers"),
        ("huge", put("huge", torch.ones(1).expand(4, 10**11)), "stands for"),
        ("head in part", change("run/last.pth", lambda c: [
            c["state_dict"].pop(n) for n in list(c["state_dict"]) if "input_convs" in n]), "no whole segmentation"),
        ("contains itself", lambda root: torch.save(SELF, root / "run/last.pth"), "contains itself"),
        ("bit flipped", flip("run/last.pth", 0.5), "checksum"),
        ("backbone bit flipped", flip("backbone.pth", 0.5), "checksum"),
        ("cut short", lambda root: os.truncate(root / "run/last.pth", 5000), "cannot be read"),
        ("empty", lambda root: os.truncate(root / "run/last.pth", 0), "cannot be read"),
        ("backbone not finite", change("backbone.pth", lambda c: next(iter(c.values())).fill_(math.inf)), "infinite"),
        ("another backbone", change("backbone.pth", lambda c: [v.normal_() for v in c.values()]), "another backbone"),
    )
]  # fmt: skip
"""What a checkpoint or backbone may hold. The backbone's file is that of the copied world."""

OVERWRITES = [
    Bad(f"over an input: {words}", nothing, words, 2, says, keeps)
    for words, says, keeps in (
        (EVAL + " --json {}/run/last.pth", "this command reads", ("run/last.pth",)),
        (EVAL + " --report {}/run/iter_4.pth", "this command reads", ("run/iter_4.pth", "run/last.pth")),
        (EVAL + " --json {}/backbone.pth", "this command reads", ("backbone.pth",)),
        (EVAL + " --json {}/toy/images/val/0.png", "this command reads", ("toy/images/val/0.png",)),
        (EVAL + " --json {}/toy.toml", "did not write it", ("toy.toml",)),
        (EVAL + " --out {}/toy/labels", "this command reads", ("toy/labels/val/0.png",)),
        (EVAL + " --out {}/toy/images", "this command reads", ("toy/images/val/0.png",)),
        (EVAL + " --json {}/x --report {}/x", "Two outputs would be one file", ()),
        (EVAL + " --json {}/toy", "is a folder", ()),
        ("compare {}/scores.json {}/scores.json --json {}/scores.json", "this command reads", ("scores.json",)),
        ("bench --checkpoint {}/run/last.pth --json {}/run/last.pth", "this command reads", ("run/last.pth",)),
        ("visualize {}/toy/images/val --checkpoint {}/run/last.pth --gt {}/toy/labels/val --style error --labels "
         "--out {}/toy/labels/val", "did not write it", ("toy/labels/val/0.png",)),
        ("visualize {}/toy/images/val/0.png --checkpoint {}/run/last.pth --out {}/toy/images/val",
         "would replace an input", ("toy/images/val/0.png",)),
        ("convert-weights {}/backbone.pth {}/backbone.pth --force", "same file", ("backbone.pth",)),
        ("train --config {}/toy.toml --work-dir {}/run", "There is a run", ("run/last.pth",)),
        ("train --config {}/toy.toml --work-dir {}", "is in the way", ("backbone.pth",)),
    )
]  # fmt: skip

WORDS = [
    Bad(f"words: {words}", nothing, words, code, says)
    for words, code, says in (
        ("eval /dev/zero", 1, "is a device or a pipe"),
        ("eval {}/toy", 1, "is a folder"),
        ("eval {}/none.pth", 1, "no weights file"),
        (EVAL + " --size 99999999x99999999", 2, "larger than"),
        (EVAL + " --set optim.lr=nan", 2, "lr"),
        (EVAL + " --set train.iterations=true", 2, "iterations"),
        ("visualize {}/toy/images/val/0.png --checkpoint {}/run/last.pth --start nan", 2, "is no time"),
        ("visualize {}/toy/images/val/0.png --checkpoint {}/run/last.pth --end inf", 2, "is no time"),
        ("visualize camera:99999999999999999999 --checkpoint {}/run/last.pth", 2, "No image or video"),
        ("visualize " + "y" * 300 + ".png --checkpoint {}/run/last.pth", 2, "No image or video"),
    )
]
ALL = [*CONTENTS, *OVERWRITES, *WORDS]
