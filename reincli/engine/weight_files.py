"""Weights in files: read safely, written whole."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from reincli.engine.archive import is_archive, read_archive
from reincli.errors import ReinError


def read_file(path: Path, *, map_only: bool = False) -> Any:
    """Content of a `.pth`/`.pt` or `.safetensors` file. No code in it is ever run.

    Args:
        map_only: leave the numbers in the file until they are asked for, to look at names and shapes alone.

    Raises:
        ReinError: no such file, cut short, no weights at all, or a pickle that asks for more than tensors.
    """
    if path.is_dir():
        raise ReinError(
            f"'{path}' is a folder; a weights file was expected.", "Give a .pth or .safetensors file."
        )
    if not path.exists():
        raise ReinError(f"There is no weights file at '{path}'.", "Check the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if is_archive(path):
            return read_archive(path)
        mapped = map_only and zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from None
    except PermissionError:
        raise ReinError(f"No permission to read '{path}'.", "Check its owner and mode.") from None
    except Exception as error:  # every library names a damaged file in its own way
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            if path.suffix == ".safetensors":
                from safetensors.torch import save

                file.write(save({name: tensor.contiguous() for name, tensor in content.items()}))
            else:
                torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        reason = getattr(error, "strerror", None) or "the disk is full or not writable"
        raise ReinError(f"Cannot write '{path}': {reason}.", "Check free space and permission.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
