"""`rein visualize`: draw predictions on images, folders of images and globs."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reincli.commands.console import note, problem, progress, result
from reincli.config import load_settings, parse_size
from reincli.errors import ReinError

if TYPE_CHECKING:
    import numpy as np

    from reincli.engine.predict import Predictor

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
RELEASED = Path("checkpoints/dinov2_rein_and_head.pth")
IN_FLIGHT = 3
"""Pictures that are read ahead, and that wait to be written, while one is predicted."""


@dataclass(frozen=True)
class Picture:
    """An image and where its drawing goes: `target`, and `label` for the class indices."""

    image: Path
    target: Path

    @property
    def label(self) -> Path:
        return self.target.with_name(f"{self.target.stem}_labelTrainIds.png")


@dataclass(frozen=True)
class Look:
    """How a prediction is made and drawn; the words of the command line."""

    style: str
    alpha: float
    legend: bool
    labels: bool
    mode: str | None
    size: str


@dataclass
class Tally:
    """What has come of the pictures so far."""

    written: int = 0
    failed: list[str] = field(default_factory=list)


def run(
    inputs: list[str],
    *,
    checkpoint: Path | None = None,
    backbone: Path | None = None,
    preset: str | None = None,
    config: Path | None = None,
    out: Path = Path("work_dirs/show"),
    style: str = "overlay",
    alpha: float = 0.5,
    legend: bool = True,
    labels: bool = False,
    force: bool = False,
    mode: str | None = None,
    size: str = "native",
    precision: str = "auto",
    device: str = "auto",
    suffix: str | None = None,
    match: str | None = None,
) -> None:
    """Predict and draw every image; see `rein visualize --help` for the options.

    Raises:
        ReinError: nothing to read, a checkpoint that does not fit, or (at the end) images that failed.
        KeyboardInterrupt: stopped by the user; says how far it came.
    """
    _require_size(size)
    settings = load_settings(preset, config) if preset or config else None
    pictures, missing = find_pictures(inputs, out, suffix=suffix, match=match)
    for each in missing:
        problem(f"There is no image or folder at '{each}'.")
    todo = [p for p in pictures if force or not (p.target.exists() and (p.label.exists() or not labels))]
    if len(todo) < len(pictures):
        note(f"{_count(len(pictures) - len(todo))} already drawn are kept; --force draws them again.")
    tally = Tally(failed=list(missing))
    if todo:
        from reincli.engine.predict import load_predictor

        chosen = checkpoint or default_checkpoint()
        predictor = load_predictor(
            chosen, backbone=backbone, settings=settings, device=device, precision=precision
        )
        for remark in predictor.notes:
            note(remark)
        _draw_all(todo, predictor, Look(style, alpha, legend, labels, mode, size), tally, out)
    result(f"{_count(tally.written)} drawn into '{out}'.")
    if tally.failed:
        raise ReinError(
            f"{len(tally.failed)} of {len(pictures) + len(missing)} inputs could not be drawn.",
            "They are named above; the others are done.",
        )


def default_checkpoint() -> Path:
    """The newest finished run under `work_dirs/`, else the released checkpoint; the user is told which.

    Raises:
        ReinError: there is neither.
    """
    runs = sorted(Path("work_dirs").glob("*/last.pth"), key=lambda path: path.stat().st_mtime)
    if runs:
        note(f"Checkpoint: '{runs[-1]}', the newest run (--checkpoint takes another).")
        return runs[-1]
    if RELEASED.exists():
        note(f"Checkpoint: '{RELEASED}' (--checkpoint takes another).")
        return RELEASED
    raise ReinError(
        f"There is no checkpoint: no 'work_dirs/*/last.pth' and no '{RELEASED}'.",
        "Give one with --checkpoint FILE, or make one: rein demo, rein train --preset gta2citys",
        usage=True,
    )


# --- which images ------------------------------------------------------------------------------------------


def find_pictures(
    inputs: list[str], out: Path, *, suffix: str | None = None, match: str | None = None
) -> tuple[list[Picture], list[str]]:
    """Images behind the inputs with their targets under `out`, and the inputs that do not exist.

    A folder is walked; its images keep their path below it. What lies under `out` is never an input.

    Args:
        inputs: files, folders and globs.
        out: folder of the drawings.
        suffix: in folders, only names that end so; None: those of images.
        match: in folders, only relative paths or names that match this pattern.

    Raises:
        ReinError: no image at all, or a drawing would replace an image.
    """
    found: dict[Path, tuple[Path, Path]] = {}  # resolved: (image, relative name), in order and once
    missing = []
    drawn = out.resolve()
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            if path.resolve() == drawn:
                raise ReinError(
                    f"--out '{out}' is the input folder itself.", "Choose another folder.", usage=True
                )
            images = [(file, file.relative_to(path)) for file in _walk(path, drawn, suffix, match)]
        elif path.exists():
            images = [(path, Path(path.name))]
        else:
            images = _glob(text, drawn)
            if not images:
                missing.append(text)
        for file, name in images:
            found.setdefault(file.resolve(), (file, name))
    if not found:
        limits = "".join(
            f" {word} '{value}'" for word, value in (("ending with", suffix), ("matching", match)) if value
        )
        raise ReinError(
            f"No image{limits} was found at {', '.join(repr(text) for text in inputs)}.",
            f"Expected an image, a folder or a glob; images end with {', '.join(IMAGE_SUFFIXES)}.",
            usage=True,
        )
    pictures = [Picture(image, out / name) for image, name in _distinct(list(found.values()))]
    for picture in pictures:
        for target in (picture.target, picture.label):
            if target.resolve() in found:
                raise ReinError(
                    f"The drawing '{target}' would replace an input.", "Choose another --out.", usage=True
                )
    return pictures, missing


def _walk(folder: Path, drawn: Path, suffix: str | None, match: str | None) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and Path(parent, f).resolve() != drawn
        )
        for name in sorted(files):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            wanted = name.endswith(suffix) if suffix else name.lower().endswith(IMAGE_SUFFIXES)
            if match and not (fnmatch.fnmatch(relative, match) or fnmatch.fnmatch(name, match)):
                wanted = False
            if wanted and not name.startswith("."):
                yield path


def _glob(pattern: str, drawn: Path) -> list[tuple[Path, Path]]:
    """Images that a glob names; their drawings keep the path below the part without a wildcard."""
    if not glob.has_magic(pattern):
        return []
    parts = Path(pattern).parts
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    return [
        (file, file.relative_to(fixed))
        for file in files
        if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES and drawn not in file.resolve().parents
    ]


def _distinct(found: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Give each image its own drawing: NAME.png; where that is taken twice, with more of the path or suffix."""
    names = {image: name.with_suffix(".png") for image, name in found}
    taken = Counter(names.values())
    twice = [image for image, name in names.items() if taken[name] > 1]
    if twice:
        common = os.path.commonpath([image.absolute().parent for image in twice])
        for image in twice:
            names[image] = image.absolute().relative_to(common).with_suffix(".png")
        taken = Counter(names.values())
        for image in twice:
            if taken[names[image]] > 1:  # street.jpg beside street.png
                names[image] = names[image].with_name(image.name + ".png")
    return list(names.items())


# --- predict and draw --------------------------------------------------------------------------------------


def _draw_all(pictures: list[Picture], predictor: Predictor, look: Look, tally: Tally, out: Path) -> None:
    """Read ahead, predict, draw and write; the three overlap, and few pictures are in memory at a time."""
    from reincli.data.images import read_image

    writing: deque[Future[None]] = deque()
    reading: deque[Future[np.ndarray]] = deque()
    ahead = iter(pictures)

    def written(at_most: int) -> None:
        while len(writing) > at_most:
            writing.popleft().result()
            tally.written += 1

    readers, writers = ThreadPoolExecutor(2), ThreadPoolExecutor(2)
    try:
        with progress("predicting", len(pictures)) as advance:
            for picture in pictures:
                while len(reading) < IN_FLIGHT and (following := next(ahead, None)) is not None:
                    reading.append(readers.submit(read_image, following.image))
                try:
                    image = reading.popleft().result()
                    label = predictor.predict(image, size=look.size, mode=look.mode)
                except ReinError as error:
                    named = str(picture.image) in str(error)
                    problem(str(error) if named else f"{picture.image}: {error}")
                    tally.failed.append(str(picture.image))
                else:
                    writing.append(writers.submit(_draw, picture, image, label, predictor, look))
                    written(at_most=IN_FLIGHT)
                advance(note=picture.target.name)
            written(at_most=0)
    except KeyboardInterrupt:
        written(at_most=0)
        done = f"{tally.written} of {_count(len(pictures))} are in '{out}'."
        raise KeyboardInterrupt(f"{done} The same command goes on from there.") from None
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)


def _draw(picture: Picture, image: np.ndarray, label: np.ndarray, predictor: Predictor, look: Look) -> None:
    """Draw one prediction and write it; the drawing last, since it stands for the whole being done."""
    from reincli.data.images import write_png
    from reincli.ops import paint

    classes = predictor.classes
    if look.labels:
        write_png(picture.label, label)
    drawing = paint.render(
        image,
        label,
        classes.palette(),
        classes.names if look.legend else (),
        style=look.style,
        alpha=look.alpha,
    )
    write_png(picture.target, drawing)


def _require_size(size: str) -> None:
    try:
        parse_size(size)
    except ValueError as error:
        raise ReinError(f"--size: {error}.", usage=True) from None


def _count(number: int) -> str:
    return f"{number} picture" + ("" if number == 1 else "s")
