"""What a user names as input - images, videos, folders, globs, lists, cameras - and where each drawing goes."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2

from reincli.errors import ReinError
from reincli.media.picture_kinds import holds_more, picture_kind

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
                  ".ogv", ".mts", ".m2ts")  # fmt: skip
OTHER_PICTURES = (".gif", ".avif", ".heic", ".heif", ".jxl", ".psd", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef",
                  ".arw")  # fmt: skip
"""Pictures that are passed over in folders, and counted."""
SEVERAL_SUFFIXES = (".tif", ".tiff", ".png", ".webp", ".gif")
"""Kinds of pictures that may have pages or frames."""
LIST_SUFFIXES = (".txt", ".lst")
CAMERA = re.compile(r"camera:(\d{1,4})")

Kind = Literal["image", "video"]


@dataclass(frozen=True)
class Input:
    """An image or video.

    Attributes:
        source: the file.
        kind: which of the two.
        name: its path below what the user named, to find it again in a folder of labels.
        target: where its drawing goes.
    """

    source: Path
    kind: Kind
    name: Path
    target: Path

    @property
    def label(self) -> Path:
        """Where its class indices go: a PNG, or for a video a folder of them."""
        stem = f"{self.target.stem}_labelTrainIds"
        return self.target.with_name(stem + ".png" if self.kind == "image" else stem)

    def anomaly(self, suffix: str) -> Path:
        """Where its anomaly goes: a file of that suffix, or for a video a folder of them."""
        stem = f"{self.target.stem}_anomaly"
        return self.target.with_name(stem + suffix if self.kind == "image" else stem)


@dataclass
class Inputs:
    """Everything that was named: files, numbers of cameras, what is not there; passed over in folders by suffix.

    `passed` are pictures of other kinds, `others` all other files; `several` is how many images have further pages or
    frames, which are not read.
    """

    files: list[Input] = field(default_factory=list)
    cameras: list[int] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    several: int = 0


def find_inputs(
    named: Sequence[str],
    out: Path,
    *,
    suffix: str | None = None,
    match: str | None = None,
    every: int = 1,
) -> Inputs:
    """Files behind what the user named, with their targets under `out`.

    A folder is walked; its files keep their path below it. What lies under `out` is never an input.

    Args:
        named: files, folders, globs, text files with one path a line, 'camera:0'.
        out: folder of the drawings.
        suffix: in folders, only names that end so; None: those of images and videos.
        match: in folders, only relative paths or names that match this pattern.
        every: of the images take only every so many.

    Raises:
        ReinError: nothing at all, or a drawing would replace an input.
    """
    result = Inputs()
    found: dict[Path, tuple[Path, Path]] = {}  # resolved: (file, relative name), in order and once
    for text in named:
        camera = CAMERA.fullmatch(text)
        if camera:
            result.cameras.append(int(camera[1]))
            continue
        files = _files(text, out, suffix, match, result.missing)
        if suffix is None and Path(text).is_dir():
            besides = _besides(Path(text), out)
            for end, count in besides.items():
                (result.passed if end in OTHER_PICTURES else result.others)[end] += count
        for file, name in files:
            found.setdefault(Path(os.path.realpath(file)), (file, name))
    if not found and not result.cameras:
        raise _nothing(named, result.missing, suffix, match)
    kinds = {file: kind_of(file) for file, _ in found.values()}
    chosen = [(f, n) for f, n in found.values() if kinds[f] == "image"][::every]
    result.several = sum(f.suffix.lower() in SEVERAL_SUFFIXES and holds_more(f) for f, _ in chosen)
    chosen += [(f, n) for f, n in found.values() if kinds[f] == "video"]
    relative = dict(chosen)
    for file, target in _distinct(chosen, kinds):
        result.files.append(Input(file, kinds[file], relative[file], out / target))
    for each in result.files:
        for target in (each.target, each.label):
            if Path(os.path.realpath(target)) in found:
                raise ReinError(
                    f"The drawing '{target}' would replace an input.", "Choose another --out.", usage=True
                )
    return result


def lists_of(named: Sequence[str]) -> list[Path]:
    """The lists of paths among what the user named."""
    return [Path(text) for text in named if Path(text).suffix.lower() in LIST_SUFFIXES]


def kind_of(path: Path) -> Kind:
    """Image or video: by the suffix, else by looking into the file."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in IMAGE_SUFFIXES or picture_kind(path) or cv2.haveImageReader(str(path)):
        return "image"
    from reincli.media.video import Video

    try:
        Video(path)
    except ReinError:
        return "image"  # reading it will say what is wrong
    return "video"


def _files(
    text: str, out: Path, suffix: str | None, match: str | None, missing: list[str]
) -> list[tuple[Path, Path]]:
    """(file, relative name) behind one word of the user."""
    path, drawn = Path(text), out.resolve()
    if path.is_dir():
        if path.resolve() == drawn:
            raise ReinError(
                f"--out '{out}' is the input folder itself.", "Choose another folder.", usage=True
            )
        return [(file, file.relative_to(path)) for file in _walk(path, drawn, suffix, match)]
    if path.exists():
        if path.suffix.lower() in LIST_SUFFIXES:
            return _listed(path, missing)
        return [(path, Path(path.name))]
    files = _glob(text, drawn)
    if not files:
        missing.append(text)
    return files


def _walk(folder: Path, drawn: Path, suffix: str | None, match: str | None) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and Path(os.path.realpath(Path(parent, f))) != drawn
        )
        for name in sorted(files):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            wanted = name.endswith(suffix) if suffix is not None else _is_taken(path)
            if match and os.sep != "/":
                match = match.replace(os.sep, "/")
            if match and not (fnmatch.fnmatch(relative, match) or fnmatch.fnmatch(name, match)):
                wanted = False
            if wanted and not name.startswith("."):
                yield path


def _besides(folder: Path, out: Path) -> Counter[str]:
    """Files that are not taken from a folder, by suffix; hidden ones are not counted."""
    every = (path for path in _walk(folder, out.resolve(), "", None) if not _is_taken(path))
    return Counter(path.suffix.lower() for path in every)


def _is_taken(path: Path) -> bool:
    """Whether a file of a folder is taken; an AVIF where this build of OpenCV reads it."""
    return _is_known(path.name) or (path.suffix.lower() == ".avif" and cv2.haveImageReader(str(path)))


def _is_known(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)


def _glob(pattern: str, drawn: Path) -> list[tuple[Path, Path]]:
    """Files that a glob names; their drawings keep the path below the part without a wildcard."""
    if not glob.has_magic(pattern):
        return []
    parts = Path(pattern).parts
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    return [
        (file, file.relative_to(fixed))
        for file in files
        if file.is_file() and _is_known(file.name) and drawn not in Path(os.path.realpath(file)).parents
    ]


def _listed(path: Path, missing: list[str]) -> list[tuple[Path, Path]]:
    """Files that a text file names, one a line, relative to itself or to here; '#' begins a remark.

    Raises:
        ReinError: the file is no text.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ReinError(
            f"'{path}' is no list of paths: it is not text in UTF-8.", "Write one path a line.", usage=True
        ) from None
    found = []
    for line in (line.strip() for line in lines):
        if not line or line.startswith("#"):
            continue
        plain = next(
            (each for each in _as_paths(line) if (path.parent / each).is_file() or each.is_file()), None
        )
        if plain is None:
            missing.append(f"{line} (in {path})")
            continue
        file = next(each for each in (path.parent / plain, plain) if each.is_file())
        kept = plain if not plain.is_absolute() and ".." not in plain.parts else Path(plain.name)
        found.append((file, kept))
    return found


def _as_paths(line: str) -> tuple[Path, ...]:
    """A line as it stands, and with the slashes of here where it may have been written on Windows."""
    return (Path(line), Path(line.replace("\\", "/"))) if "\\" in line else (Path(line),)


def _nothing(named: Sequence[str], missing: list[str], suffix: str | None, match: str | None) -> ReinError:
    """The error for no input at all: where was looked, for what, and what is there instead."""
    limits = "".join(
        f" {word} '{value}'" for word, value in (("ending with", suffix), ("matching", match)) if value
    )
    others: Counter[str] = Counter()
    for folder in (Path(text) for text in named if Path(text).is_dir()):
        others.update(path.suffix.lower() or "no suffix" for path in folder.rglob("*") if path.is_file())
    there = ", ".join(f"{count} {kind}" for kind, count in others.most_common(4))
    lists = [line for line in missing if line.endswith(")")]
    where = ", ".join(repr(text) for text in named)
    return ReinError(
        f"No image or video{limits} was found at {where}" + (f" (there are: {there})" if there else "") + ".",
        (f"Not there: {lists[0]}. " if lists else "")
        + "Expected an image, a video, a folder, a glob, a list of paths (.txt) or camera:0; images end with "
        + f"{', '.join(IMAGE_SUFFIXES)}, videos with {', '.join(VIDEO_SUFFIXES[:5])} and the like.",
        usage=True,
    )


def _distinct(found: list[tuple[Path, Path]], kinds: dict[Path, Kind]) -> list[tuple[Path, Path]]:
    """Give each file its own drawing: NAME.png or .mp4; where that is taken twice, with more of path or suffix."""
    suffix = {file: ".png" if kinds[file] == "image" else ".mp4" for file, _ in found}
    names = {file: name.with_suffix(suffix[file]) for file, name in found}
    taken = Counter(names.values())
    twice = [file for file, name in names.items() if taken[name] > 1]
    if twice:
        common = os.path.commonpath([file.absolute().parent for file in twice])
        for file in twice:
            names[file] = file.absolute().relative_to(common).with_suffix(suffix[file])
        taken = Counter(names.values())
        for file in twice:
            if taken[names[file]] > 1:  # street.jpg beside street.png
                names[file] = names[file].with_name(file.name + suffix[file])
    return list(names.items())
