"""Weights in files: read safely, written whole."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from reincli.engine.archive import is_archive, read_archive
from reincli.engine.validation import check_content, check_file
from reincli.errors import ReinError
from reincli.media.images import replace_whole


def read_file(path: Path) -> Any:
    """Content of a `.pth`/`.pt` or `.safetensors` file. No code in it is ever run.

    Raises:
        ReinError: no such file, cut short, no weights at all, or a pickle that asks for more than tensors.
    """
    if path.is_dir():
        raise ReinError(
            f"'{path}' is a folder; a weights file was expected.", "Give a .pth or .safetensors file."
        )
    if not path.exists():
        raise ReinError(f"There is no weights file at '{path}'.", "Check the path.")
    content = _load(path)
    check_content(content, path)
    return content


def _load(path: Path) -> Any:
    try:
        check_file(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if is_archive(path):
            return read_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ReinError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from None
    except PermissionError:
        raise ReinError(f"No permission to read '{path}'.", "Check its owner and mode.") from None
    except MemoryError:
        raise ReinError(
            f"'{path}' does not fit into memory.", "It may be damaged: compare its size."
        ) from None
    except (Exception, RecursionError) as error:  # every library names a damaged file in its own way
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ReinError(
            f"'{path}' ({path.stat().st_size:,} bytes) cannot be read as weights: {reason}.",
            "It is cut short, damaged, or another kind of file: fetch it again and compare its size.",
        ) from None


def _refused(path: Path, error: Exception) -> ReinError:
    with open(path, "rb") as file:
        start = file.read(4)
    if not start.startswith(b"PK") and not start.startswith(b"\x80"):
        return ReinError(
            f"'{path}' is not a weights file (it starts with {start!r}).", "Give a .pth or .safetensors file."
        )
    names: list[str] = []
    with contextlib.suppress(Exception):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    found = f": {', '.join(names[:3])}" if names else ""
    return ReinError(
        f"'{path}' asks to run code while loading{found}; it was refused and nothing was run.",
        "Save its tensors alone where you trust it: "
        "torch.save({'state_dict': checkpoint['state_dict']}, 'weights.pth'), or use safetensors.",
    )


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
            patient = _Patient(file)
            torch.save(content, cast(BinaryIO, patient))
            patient.close()
        file.flush()
        os.fsync(file.fileno())


class _Patient:
    """A file that `torch.save` writes to: after a first failure it takes everything and keeps the failure for `close`.

    PyTorch answers a full disk in other ways at other places, and some of them hide what was wrong.
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
