"""Weights in files: read safely, written whole."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from reincli.engine.archive import is_archive, read_archive
from reincli.engine.file_kinds import INDEX, SAFETENSORS, ZIP, kind_of
from reincli.engine.tensor_pickle import ForbiddenError, read_tensors
from reincli.engine.validation import check_content, check_file
from reincli.errors import ReinError, instead_of, typed
from reincli.media.whole_files import replace_whole

FOLDER = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
)  # fmt: skip
"""Files in which a folder of Hugging Face keeps a model, the first that is there."""
ELSEWHERE = ("tf_model.h5", "flax_model.msgpack", "model.onnx")
"""What such a folder has for other libraries."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
NEWEST = ("last.pth",)
"""What is meant of a run's folder."""
SHOWN, DEEPEST = 3, 3
"""Weights that are named of a folder without a usual one, and the levels below in which they are looked for."""


def read_file(path: Path, *, map_only: bool = False) -> Any:
    """Content of a weights file, known by its first bytes. No code in it is ever run.

    Args:
        path: a file of `torch.save`, TorchScript or safetensors; the index of a model in parts; or the folder in
            which such a model lies.
        map_only: leave the numbers in the file until they are asked for, to look at names and shapes alone.

    Raises:
        ReinError: no such file, cut short, no weights at all, or a pickle that asks for what runs programs.
    """
    path = _in_folder(path) if path.is_dir() else path
    if not path.exists():
        raise ReinError(f"There is no weights file at '{path}'.", instead_of(path, SUFFIXES))
    content = _load(path, map_only)
    check_content(content, path)
    return content


def _load(path: Path, map_only: bool) -> Any:
    try:
        check_file(path)
        return _read(path, kind_of(path), map_only)
    except ReinError:
        raise
    except ForbiddenError as error:
        raise ReinError(
            f"'{path}' asks to run code while loading ({error}); it was refused and nothing was run.",
            "No weights need that: fetch the file from its publisher, as .safetensors where there is one.",
        ) from None
    except PermissionError:
        raise ReinError(f"No permission to read '{path}'.", "Check its owner and mode.") from None
    except MemoryError:
        raise ReinError(
            f"'{path}' does not fit into memory.", "It may be damaged: compare its size."
        ) from None
    except (Exception, RecursionError) as error:  # every library names a damaged file in its own way
        reason = _sentence(str(error)) or type(error).__name__
        raise ReinError(
            f"'{path}' ({path.stat().st_size:,} bytes) cannot be read as weights: {reason}.",
            "It is cut short, damaged, or another kind of file: fetch it again and compare its size.",
        ) from None


def _sentence(text: str, most: int = 120) -> str:
    """The first sentence of a library's message, cut between words."""
    line = text.strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    return line if len(line) <= most else line[:most].rsplit(" ", 1)[0] + " ..."


def _in_folder(folder: Path) -> Path:
    found = next((folder / name for name in FOLDER if (folder / name).is_file()), None)
    if found is None:
        message = f"'{folder}' is a folder without {FOLDER[1]} or {FOLDER[3]}"
        below = _weights_below(folder)
        if below:
            shown = ", ".join(f"'{path}'" for path in below[:SHOWN])
            more = f" and {len(below) - SHOWN} more" if len(below) > SHOWN else ""
            raise ReinError(
                f"{message}; weights in it: {shown}{more}.",
                f"Give the file that you mean, '{below[0]}' for example.",
            )
        if (folder / ".metadata").is_file():
            command = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
            raise ReinError(
                f"'{folder}' is a distributed checkpoint of PyTorch's, in parts.",
                f"Join them into one file, and give that: {command} {typed(folder)} joined.pth",
            )
        others = [name for name in ELSEWHERE if (folder / name).is_file()]
        raise ReinError(
            f"{message}; it has {others[0]}, which is not PyTorch's."
            if others
            else f"{message}, or any other weights.",
            "Give a .pth or .safetensors file.",
        )
    return found


def _weights_below(folder: Path) -> list[Path]:
    """Files with a suffix of weights in a folder and a few levels below, sorted, a run's newest first."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        if len(Path(place).relative_to(folder).parts) >= DEEPEST:
            folders.clear()
        found += [Path(place) / name for name in names if name.endswith(SUFFIXES)]
    return sorted(found, key=lambda path: (path.name not in NEWEST, path))


def _read(path: Path, kind: str, map_only: bool) -> Any:
    if kind == SAFETENSORS:
        from safetensors.torch import load_file

        return load_file(path)
    if kind == INDEX:
        return _read_parts(path, map_only)
    if kind == ZIP and is_archive(path):
        try:
            return read_archive(path)
        except pickle.UnpicklingError as error:
            raise ForbiddenError(str(error)) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on the pickle: what matters is said here
            if path.suffix == ".safetensors":  # torch goes by the suffix of a path
                with open(path, "rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=map_only and kind == ZIP)
    except pickle.UnpicklingError:
        return read_tensors(path)  # it holds more than tensors


def _read_parts(index: Path, map_only: bool) -> dict[str, Tensor]:
    """All tensors of a model in parts, by its list {"weight_map": {tensor: file}}."""
    try:
        table = json.loads(index.read_text("utf-8-sig")).get("weight_map")
    except ValueError:
        raise ReinError(
            f"'{index}' ({index.stat().st_size:,} bytes) is no whole JSON.",
            "Fetch it again from the model's page.",
        ) from None
    if not isinstance(table, dict) or not table:
        raise ReinError(f"'{index}' lists no parts (no weight_map).", "Fetch it again from the model's page.")
    parts = sorted({str(name) for name in table.values()})
    missing = [name for name in parts if Path(name).name != name or not (index.parent / name).is_file()]
    if missing:
        raise ReinError(
            f"{len(missing)} of {len(parts)} parts that '{index}' lists are not beside it: {missing[0]}.",
            f"Fetch them into '{index.parent}'.",
        )
    result: dict[str, Tensor] = {}
    for name in parts:
        result |= read_file(index.parent / name, map_only=map_only)
    absent = [name for name in table if name not in result]
    if absent:
        raise ReinError(
            f"{len(absent)} tensors that '{index}' lists are in none of its parts: {absent[0]}.",
            "Fetch the parts again: they are of another version.",
        )
    return result


def write_file(path: Path, content: Any) -> None:
    """Save `.pth` or `.safetensors` (a flat dict of tensors): temporary name, flush, rename.

    Raises:
        ReinError: no space or no permission; what was there before is untouched.
    """
    with replace_whole(path) as temporary, open(temporary, "wb") as file:
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            file.write(save({name: tensor.contiguous() for name, tensor in content.items()}))
        else:
            with patient(file) as taken:
                torch.save(content, taken)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def patient(file: BinaryIO) -> Iterator[IO[bytes]]:
    """What PyTorch may write to in the place of a file: a full disk is an OSError at the end of the body, else none."""
    taken = _Patient(file)
    yield cast(IO[bytes], taken)
    taken.close()


class _Patient:
    """A file that PyTorch writes to: after a first failure it takes everything and keeps the failure for `close`.

    PyTorch answers a full disk in other ways at other places: some of them hide what was wrong, some end the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """As a file does; never fails."""
        if self.failure is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Left to `close`."""

    def close(self) -> None:
        """Raise what went wrong."""
        if self.failure is not None:
            raise self.failure
