"""What a file is by its first bytes, whatever its name says: weights in their forms, and what is brought instead."""

from __future__ import annotations

import zipfile
from pathlib import Path

from reincli.errors import ReinError

SAFETENSORS, ZIP, PICKLE, INDEX = "safetensors", "zip", "pickle", "index"
"""The forms that hold weights: see `weight_files`."""

FETCH_WHOLE = "Fetch the file itself and compare its size."
PYTORCH = "Give the PyTorch file of these weights, .pth or .safetensors."
EXPORTED = "Give the checkpoint that it was made from."
UNPACK = "Unpack it, and give the weights file inside."

STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer (the few lines that stand for the file), not the weights",
     "Fetch what it stands for: 'git lfs pull' in its repository, or the page's own download link."),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\x89HDF", "an HDF5 file (of Keras or TensorFlow)", PYTORCH),
    (b"GGUF", "a GGUF file", PYTORCH),
    (b"\x89PNG", "a PNG image", FETCH_WHOLE),
    (b"\xff\xd8\xff", "a JPEG image", FETCH_WHOLE),
    (b"%PDF", "a PDF", FETCH_WHOLE),
)  # fmt: skip


def kind_of(path: Path) -> str:
    """'safetensors', 'zip', 'pickle' or 'index' (the list of a sharded model).

    Raises:
        ReinError: it is something else, which is named.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    size = path.stat().st_size
    if not start:
        raise ReinError(
            f"'{path}' is empty (0 bytes).",
            "A download or a writing was cut off: fetch it again, or make it anew.",
        )
    for first, name, hint in STARTS:
        if start.startswith(first):
            raise ReinError(f"'{path}' is {name}.", hint)
    if start[257:262] == b"ustar":
        raise ReinError(f"'{path}' is a tar archive.", UNPACK)
    if start[:1] == b"\x08" and start[2:3] == b"\x12":  # its version and the name of what made it
        raise ReinError(f"'{path}' is an ONNX file, not a checkpoint.", EXPORTED)
    if start.startswith(b"PK"):
        return _zip_kind(path)
    if start[:1] == b"\x80":
        return PICKLE
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header < 1 << 30:
        return SAFETENSORS
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if b"<net " in text:
        raise ReinError(f"'{path}' is an OpenVINO file, not a checkpoint.", EXPORTED)
    if text[:1] == b"<":
        raise ReinError(
            f"'{path}' is a web page ({size:,} bytes), not the weights: the address showed a page about them.",
            "Fetch it from the address of the file itself; on Hugging Face that has /resolve/, not /blob/.",
        )
    if text[:1] == b"{":
        if path.name.endswith(".index.json"):
            return INDEX
        raise ReinError(
            f"'{path}' is JSON text, not weights.",
            "Give the .pth or .safetensors file; of a model in parts, its file *.index.json.",
        )
    graphs = (path.with_suffix(".xml") if path.suffix.lower() == ".bin" else None,
              path.with_suffix("") if path.name.lower().endswith(".onnx.data") else None)  # fmt: skip
    graph = next((each for each in graphs if each is not None and each.is_file()), None)
    if graph is not None:
        raise ReinError(f"'{path}' holds the weights of '{graph}', which lies beside it.", f"Give '{graph}'.")
    told = "text" if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start) else "no known form"
    raise ReinError(
        f"'{path}' is not a weights file (it is {told} and starts with {start[:12]!r}).",
        "Give a .pth or .safetensors file.",
    )


def _zip_kind(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        raise ReinError(
            f"'{path}' ({path.stat().st_size:,} bytes) cannot be read as weights: its end is missing.",
            "It is cut short: fetch it again and compare its size.",
        )
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return ZIP
    if any(name.endswith("/archive_format") for name in names):
        raise ReinError(
            f"'{path}' is a program of torch.export, which is for other programs, not a checkpoint.",
            f"{EXPORTED} An exported file that is read here is one in ONNX or OpenVINO: rein export CHECKPOINT",
        )
    within = [name for name in names if name.endswith((".pth", ".pt", ".safetensors", ".bin"))]
    told = within[0] if within else names[0] if names else "nothing"
    raise ReinError(
        f"'{path}' is a zip archive of {len(names)} files ({told}), not a weights file.",
        UNPACK if within else "Give a .pth or .safetensors file.",
    )
