"""Bad inputs as data: what is harmed, which command meets it, how it must end and what it must say.

`{}` in a command stands for the folder of a copied world: `run/`, `toy/`, `backbone.pth`, `toy.toml`, `scores.json`.
`ALL` is the table; `at_random` makes further ones from a seed.
"""

from __future__ import annotations

import math
import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

HEAD = "decode_head.cls_embed.weight"
ANY = -1
"""Exit code: 0, 1 or 2. What happens to be harmless is used."""


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
        ("empty", lambda root: os.truncate(root / "run/last.pth", 0), "is empty"),
        ("backbone not finite", change("backbone.pth", lambda c: next(iter(c.values())).fill_(math.inf)), "infinite"),
        ("another backbone", change("backbone.pth", lambda c: [v.normal_() for v in c.values()]), "another backbone"),
    )
]  # fmt: skip
"""What a checkpoint or backbone may hold. The backbone's file is that of the copied world."""

VISUALIZE = "visualize {}/toy/images/val/0.png --checkpoint {}/run/last.pth --out {}/o --device cpu"
TRAIN = "train --config {}/toy.toml --work-dir {}/next --device cpu --backbone {}/backbone.pth"
RESUME = "train --resume {}/run --device cpu --set train.iterations=6"


def alone(harm: Callable[[Path], object]) -> Callable[[Path], object]:
    """Leave the run its last checkpoint alone, so that no other one helps."""

    def both(root: Path) -> None:
        harm(root)
        for path in (root / "run").glob("iter_*.pth"):
            path.unlink()

    return both


ELSEWHERE = [
    Bad(
        f"{command}: {bad.name}",
        alone(bad.harm) if command == "resume" else bad.harm,
        words,
        bad.code,
        "error: ",
        keeps,
    )
    for command, words, keeps in (
        ("visualize", VISUALIZE, ()),
        ("resume", RESUME, ("run/settings.toml", "run/log.jsonl")),
        (
            "start",
            "train --config {}/toy.toml --work-dir {}/next --device cpu --set train.start_from={}/run/last.pth",
            (),
        ),
        ("calibrate", "calibrate {}/run/last.pth --out {}/w.pth --device cpu", ()),
        ("export", "export {}/run/last.pth --out {}/e.onnx", ()),
        ("original", "convert-weights {}/run/last.pth {}/c.pth --kind original", ()),
    )
    for bad in CONTENTS
    if not (bad.name.endswith("training text") and command != "resume")
    if not ("backbone" in bad.name and command == "original")  # which reads none
]
"""The same files, met by other commands; the words are those of `CONTENTS` or of a check before it."""

OVERWRITES = [
    Bad(f"over an input: {words}", nothing, words, 2, says, keeps)
    for words, says, keeps in (
        (EVAL + " --json {}/run/last.pth", "this command reads", ("run/last.pth",)),
        (EVAL + " --report {}/run/iter_4.pth", "did not write it", ("run/iter_4.pth", "run/last.pth")),
        (EVAL + " --json {}/backbone.pth", "this command reads", ("backbone.pth",)),
        (EVAL + " --json {}/toy/images/val/0.png", "this command reads", ("toy/images/val/0.png",)),
        (EVAL + " --json {}/toy.toml", "did not write it", ("toy.toml",)),
        (EVAL + " --out {}/toy/labels", "this command reads", ("toy/labels/val/0.png",)),
        (EVAL + " --out {}/toy/images", "this command reads", ("toy/images/val/0.png",)),
        (EVAL + " --json {}/x --report {}/x", "Two outputs would be one file", ()),
        (EVAL + " --json {}/toy", "is a folder", ()),
        (EVAL + " --json {}/toy.toml/scores.json", "is a file, and a folder was expected", ("toy.toml",)),
        (EVAL + " --out {}/toy.toml", "is a file, and a folder was expected", ("toy.toml",)),
        (VISUALIZE.replace("{}/o", "{}/toy.toml"), "is a file, and a folder was expected", ("toy.toml",)),
        ("compare {}/scores.json {}/scores.json --json {}/scores.json", "this command reads", ("scores.json",)),
        ("bench --checkpoint {}/run/last.pth --json {}/run/last.pth", "this command reads", ("run/last.pth",)),
        ("visualize {}/toy/images/val --checkpoint {}/run/last.pth --gt {}/toy/labels/val --style error --labels "
         "--out {}/toy/labels/val", "this command reads", ("toy/labels/val/0.png",)),
        ("visualize {}/toy/images/val/0.png --checkpoint {}/run/last.pth --out {}/toy/images/val",
         "would replace an input", ("toy/images/val/0.png",)),
        ("convert-weights {}/backbone.pth {}/backbone.pth --force", "same file", ("backbone.pth",)),
        ("train --config {}/toy.toml --work-dir {}/run", "There is a run", ("run/last.pth",)),
        ("train --config {}/toy.toml --work-dir {}", "is in the way", ("backbone.pth",)),
    )
]  # fmt: skip

TOO_LONG = "y" * 300
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
        (f"visualize {TOO_LONG}.png --checkpoint {{}}/run/last.pth", 1, "longer than the system allows"),
        (VISUALIZE + " --start 2:1:1:1", 2, "is no time"),
        (VISUALIZE + " --size 0x5", 2, "size"),
        (VISUALIZE + " --size 5", 2, "size"),
        (VISUALIZE + " --style none", 2, "none"),
        (VISUALIZE + " --alpha 7", 2, "alpha"),
        (VISUALIZE + " --device gpu", 2, "gpu"),
        (VISUALIZE + " --precision fp8", 2, "fp8"),
        (VISUALIZE + " --style error", 2, "--gt"),
        (VISUALIZE + f" --out {{}}/{TOO_LONG}", 1, "longer than"),
        ("visualize {}/nowhere --checkpoint {}/run/last.pth", 2, "No image or video"),
        ("visualize {}/toy.toml --checkpoint {}/run/last.pth", 1, "Cannot decode the image"),
        ("visualize {}/toy/images/val/0.png --checkpoint {}/toy/images/val/0.png", 1, "is a PNG image"),
        (EVAL + " --data none:val", 2, "none"),
        (EVAL + " --data toy:none", 2, "none"),
        (EVAL + " --mode all", 2, "all"),
        (EVAL + " --own {}/none.toml", 2, "No settings file"),
        (EVAL + " --config {}/run", 2, "is a folder"),
        (EVAL + " --preset nothing", 2, "No preset"),
        (EVAL + " --set nothing", 2, "is not KEY=VALUE"),
        (EVAL + " --set nothing=1", 2, "no setting 'nothing'"),
        (EVAL + " --submit {}/a.png", 2, ".zip"),
        (EVAL + " --backbone {}/none.pth", 1, "none.pth"),
        (EVAL + " --backbone {}/run/last.pth", 1, "error: "),
        (EVAL + " --backbone {}/toy.toml", 1, "error: "),
        ("compare {}/scores.json {}/none.json", 1, "none.json"),
        ("compare {}/scores.json {}/toy.toml", 1, "toy.toml"),
        ("compare {}/scores.json {}/backbone.pth", 1, "backbone.pth"),
        ("train --config {}/toy.toml --resume {}/run", 2, "takes its settings from the run"),
        ("train --resume {}/toy", 2, "toy"),
        ("train --resume {}/nowhere", 2, "nowhere"),
        ("train --config {}/toy.toml --device cpu --backbone {}/none.pth --work-dir {}/next", 1, "none.pth"),
        ("train --config {}/toy.toml --device tpu --work-dir {}/next", 2, "tpu"),
        ("train --config {}/toy.toml --gpus 0 --work-dir {}/next", 2, "'--gpus'"),
        (
            "train --config {}/toy.toml --data-root /dev/null --work-dir /dev/null/x --device cpu",
            2,
            "is no folder",
        ),
        ("prepare-data nothing {}", 2, "No dataset"),
        ("prepare-data gta {}/nowhere/at/all", 2, "no folder"),
        ("prepare-data gta {}/toy.toml", 2, "is a file"),
        ("prepare-data cityscapes {}/toy", 1, "error: "),
        ("convert-weights {}/none.pth {}/c.pth", 1, "no raw weights"),
        ("convert-weights {}/backbone.pth {}/c.pth --height 500", 2, "does not divide"),
        ("convert-weights {}/backbone.pth {}/c.pth --kind none", 2, "none"),
        ("convert-weights {}/toy.toml {}/c.pth", 1, "toy.toml"),
        ("convert-weights {}/backbone.pth {}/c.pth --kind original", 1, "error: "),
        ("export {}/run/last.pth --out {}/e.pth", 2, ".onnx"),
        ("export {}/run/last.pth --out {}/e.onnx --format none", 2, "none"),
        ("export {}/run/last.pth --out {}/e.onnx --size 5", 2, "5"),
        ("bench --what nothing", 2, "nothing"),
        ("bench --size 1x", 2, "1x"),
        ("calibrate {}/run/last.pth --out {}/w.safetensors", 2, "tensors alone"),
        ("calibrate {}/run/last.pth --data toy:none", 2, "none"),
        ("presets nothing", 2, "nothing"),
    )
]

SETTINGS = [
    Bad(f"setting: {pair[:60]}", nothing, f"{TRAIN} --set {pair}", 2, pair.partition("=")[0].rpartition(".")[2])
    for pair in (
        "data.train=[]", "data.train=[1]", "data.train=1", "data.val=true", "data.root=1979-05-27", "data.workers=-1",
        "data.workers=100000", "data.augment.crop=80000", "data.augment.crop=0", "data.augment.crop=1.5",
        "data.augment.ratio=[2,1]", "data.augment.ratio=[0,1]", "data.augment.ratio=[1]", "data.augment.ratio=[nan,1]",
        "data.augment.flip=2", "data.augment.size=[0,5]", "data.augment.resize=none", "data.rare_classes=-1",
        "model.head.heads=7", "model.head.heads=0", "model.head.channels=65", "model.head.channels=48",
        "model.head.queries=true", "model.head.queries=1e9", "model.adapter.tokens=1000000000000",
        "model.adapter.rank=-1", "model.adapter.scale=inf", "model.backbone.depth=100000",
        "model.backbone.patch_size=64", "model.backbone.width=9999999",
        "model.backbone.output_stride=9", "model.tune=none",
        "optim.betas=[2,3]", "optim.betas=[0.9]", "optim.eps=-1", "optim.eps=0", "optim.lr=inf", "optim.lr=nan",
        "optim.lr=-1", "optim.lr=0", "optim.lr=true", "optim.lr=x", "optim.weight_decay=-1", "optim.power=-2",
        "optim.warmup_iterations=-1", "optim.warmup_factor=2", "train.iterations=true", "train.iterations=0",
        "train.iterations=1.5", "train.iterations=99999999999", "train.seed=999999999999999999999999999999",
        "train.seed=-1", "train.points=10000000000000", "train.points=0", "train.batch_size=0",
        "train.ema_decay=1", "train.ema_decay=nan", "train.clip_grad_norm=0", "train.precision=int4",
        "train.checkpoint_every=0", "train.keep_checkpoints=0", "train.log_every=no", "train.log_to=[none]",
        "test.window=10000000", "test.window=0", "test.stride=-3", "test.mode=all", "test.window_batch=0",
        "x=[[[[[[]]]]]]", "optim.lr.x=1", "data.own.toy.classes=[]", "data.own.toy.root=3",
    )
]  # fmt: skip
TOML = [
    Bad(f"TOML: {text[:40]!r}", lambda root, text=text: (root / "toy.toml").write_text(text), TRAIN, 2, says)
    for text, says in (
        ("x", "not valid TOML"), ("x = ", "not valid TOML"), ("a = 1\na = 2", "is there twice"),
        ("a = 1979-05-27", "date or time"), ("[data]\nval = [07:32:00]", "date or time"),
        ("x = " + "[" * 9000, "too deep"),
        ("a" + ".a" * 9000 + " = 1", "too deep"), ("x = " + "9" * 5000, "thousands of digits"),
        ("[data]\nroot = 'a\0b'", "NUL"), ('[data]\nroot = "a\\u0000b"', "NUL"), ("data = 3", "data"),
        ("[data.own]\ntoy = 3", "own"), ("[data.own.toy]\nroot = 'x'", "toy"), ("#" * 1_000_001, "is larger than"),
        ("lr = True", "Write true"), ("\ufeff[optim]\nlr = x", "quotes"), ("[optim]\nlr = 'x'", "lr"),
    )
]  # fmt: skip


def picture(name: str, array: np.ndarray) -> Callable[[Path], object]:
    """Replace a picture."""
    return lambda root: cv2.imwrite(str(root / name), array)


def cut(name: str, length: int) -> Callable[[Path], object]:
    """Cut a file short."""
    return lambda root: os.truncate(root / name, length)


def text(name: str, content: str) -> Callable[[Path], object]:
    """Replace a file by text."""
    return lambda root: (root / name).write_text(content)


def folder(name: str) -> Callable[[Path], object]:
    """Replace a file by a folder."""

    def harm(root: Path) -> None:
        (root / name).unlink()
        (root / name).mkdir()

    return harm


IMAGE, LABEL = "toy/images/val/0.png", "toy/labels/val/0.png"
GREY = np.zeros((64, 96), np.uint8)
DATA = [
    Bad(f"{name}: {words.split()[0]}", harm, words, 2 if name.startswith("settings") else 1, says)
    for name, harm, words, says in (
        ("image cut", cut(IMAGE, 300), EVAL, "0.png"),
        ("image cut", cut(IMAGE, 300), VISUALIZE, "0.png"),
        ("image empty", cut(IMAGE, 0), EVAL, "0.png"),
        ("image empty", cut(IMAGE, 0), VISUALIZE, "0.png"),
        ("image is text", text(IMAGE, "hello"), EVAL, "0.png"),
        ("image is text", text(IMAGE, "hello"), VISUALIZE, "0.png"),
        ("image is a folder", folder(IMAGE), EVAL, "error: "),
        ("image is gone", lambda root: (root / IMAGE).unlink(), EVAL, "error: "),
        ("label cut", cut(LABEL, 60), EVAL, "0.png"),
        ("label empty", cut(LABEL, 0), EVAL, "0.png"),
        ("label is text", text(LABEL, "hello"), EVAL, "0.png"),
        ("label is gone", lambda root: (root / LABEL).unlink(), EVAL, "label"),
        ("label in colour", picture(LABEL, np.full((64, 96, 3), (7, 60, 200), np.uint8)), EVAL, "colours"),
        ("label in grey colours", picture(LABEL, np.zeros((64, 96, 3), np.uint8)), EVAL, "channels are equal"),
        ("label of 16 bits", picture(LABEL, np.full((64, 96), 999, np.uint16)), EVAL, "999"),
        ("label of another size", picture(LABEL, GREY[:32]), EVAL, "0.png"),
        ("label of values that are none", picture(LABEL, GREY + 77), EVAL, "77"),
        ("labels of nothing", lambda root: [picture(f"toy/labels/val/{n}.png", GREY + 255)(root) for n in range(3)],
         EVAL, "Nothing could be scored"),
        ("train image cut", lambda root: [cut(f"toy/images/train/{n}.png", 300)(root) for n in range(3)], RESUME,
         "png"),
        ("train label value", picture("toy/labels/train/1.png", GREY + 77), RESUME, "77"),
        ("train label cut", cut("toy/labels/train/1.png", 60), RESUME, "1.png"),
        ("no train images", lambda root: [(root / f"toy/images/train/{n}.png").unlink() for n in range(3)], RESUME,
         "error: "),
        ("settings of the run", text("run/settings.toml", "x ="), RESUME, "error: "),
        ("log is a folder", folder("run/log.jsonl"), RESUME, "log.jsonl' cannot be read: Is a directory"),
        ("settings of the run", cut("run/settings.toml", 0), RESUME, "error: "),
        ("scores", text("scores.json", "{"), "compare {}/scores.json {}/scores.json", "scores.json"),
        ("scores", text("scores.json", "[]"), "compare {}/scores.json {}/scores.json", "scores.json"),
        ("scores", text("scores.json", '{"domains": 3}'), "compare {}/scores.json {}/scores.json", "scores.json"),
        ("scores", text("scores.json", "[" * 100_000), "compare {}/scores.json {}/scores.json", "scores.json"),
        ("scores", cut("scores.json", 0), "compare {}/scores.json {}/scores.json", "scores.json"),
    )
]  # fmt: skip


def archive(
    change: Callable[[bytearray, int], None], names: tuple[str, ...] = ("images/1.png",)
) -> Callable[[Path], object]:
    """GTA's first archive, changed at the head of its last entry."""

    def harm(root: Path) -> None:
        (root / "gta").mkdir()
        path = root / "gta" / "01_images.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name in names:
                opened.writestr(name, b"x" * 1000)
        data = bytearray(path.read_bytes())
        change(data, data.rindex(names[-1].encode()) - 46)
        path.write_bytes(data)

    return harm


def byte(at: int, value: int) -> Callable[[bytearray, int], None]:
    """Set a byte behind the signature of an entry."""

    def change(data: bytearray, entry: int) -> None:
        data[entry + at] = value

    return change


ARCHIVES = [
    Bad(f"archive: {name}", harm, "prepare-data gta {}/gta", 1, says)
    for name, harm, says in (
        ("encrypted", archive(byte(8, 1)), "encrypted"),
        ("method", archive(byte(10, 99)), "method 99"),
        ("size", archive(byte(27, 255)), "error: "),
        ("checksum", archive(byte(16, 7)), "damaged or cut short"),
        (
            "cut",
            archive(lambda data, entry: data.__delitem__(slice(entry + 5, None))),
            "damaged or cut short",
        ),
        ("empty", archive(lambda data, entry: data.clear()), "damaged or cut short"),
        ("leads out", archive(lambda data, entry: None, ("images/../../x.png",)), "leads out of the folder"),
        ("absolute", archive(lambda data, entry: None, ("/images/x.png",)), "leads out of the folder"),
        ("a link", archive(byte(41, 0xA1)), "is a link"),
        ("of other things", archive(lambda data, entry: None, ("cats/x.png",)), "holds nothing of"),
    )
]
ALL = [*CONTENTS, *ELSEWHERE, *OVERWRITES, *WORDS, *SETTINGS, *TOML, *DATA, *ARCHIVES]


def at_random(count: int, seed: int) -> list[Bad]:
    """Files with random damage: bytes set, a part cut off or doubled, anywhere."""
    chance = random.Random(seed)
    targets = (
        ("run/last.pth", EVAL), ("run/last.pth", RESUME), ("backbone.pth", EVAL), ("toy.toml", TRAIN),
        ("run/settings.toml", RESUME), (IMAGE, VISUALIZE), (LABEL, EVAL),
        ("scores.json", "compare {}/scores.json {}/scores.json"),
    )  # fmt: skip

    def damage(name: str, key: int) -> Callable[[Path], object]:
        def harm(root: Path) -> None:
            draw = random.Random(key)
            data = bytearray((root / name).read_bytes())
            for _ in range(draw.choice([1, 3, 30])):
                data[draw.randrange(len(data))] = draw.randrange(256)
            where = draw.randrange(len(data))
            data = draw.choice([data, data, data[:where], data + data[where:]])
            (root / name).unlink()
            (root / name).write_bytes(data)

        return harm

    found = []
    for number in range(count):
        name, words = chance.choice(targets)
        found.append(Bad(f"random {number}: {name}", damage(name, chance.randrange(2**31)), words, ANY, ""))
    return found
