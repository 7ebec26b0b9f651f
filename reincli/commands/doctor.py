"""`rein doctor`: what this machine has, and which data and weights are in place."""

from __future__ import annotations

import json
import os
import platform
import textwrap
import zipfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reincli.commands.console import note, result, table
from reincli.config import DataSettings
from reincli.data.downloads import Download, not_unpacked, plain_name
from reincli.errors import ReinError, typed

PACKAGES = (
    "reincli",
    "torch",
    "torchvision",
    "timm",
    "opencv-python-headless",
    "opencv-python",
    "numpy",
    "safetensors",
    "triton",
    "xformers",
    "onnx",
    "onnxruntime",
    "openvino",
)
WIDTH = 80
"""Columns of a terminal that texts fit."""
MAIN_SPLITS = ("train", "val")
"""A dataset is ready where those of its splits that exist in its layout are complete."""


@dataclass(frozen=True)
class DatasetState:
    """One dataset: images by split, what is wrong with the first that cannot be used, what lacks of the release."""

    name: str
    ready: bool
    splits: dict[str, int]
    problem: str
    remedy: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightState:
    """One weights file: how large it is, None where it is not there, what brings it, and why it is no weights file."""

    what: str
    file: str
    size: int | None
    remedy: str
    problem: str = ""


def run(*, as_json: bool = False) -> None:
    """Print versions, devices, precision, datasets and weights, as tables or as one JSON object."""
    report: dict[str, Any] = {"versions": versions(), **devices()}
    data, weights = datasets(Path(DataSettings().root)), weight_files(Path("checkpoints"))
    if as_json:
        report |= {"datasets": [asdict(each) for each in data], "weights": [asdict(each) for each in weights]}
        result(json.dumps(report, indent=2))
        return
    table(("package", "version"), report["versions"].items(), title="Versions")
    rows = [(each["name"], each["is"], each["precision"], each["kernels"]) for each in report["devices"]]
    table(("device", "what it is", "auto precision", "kernels"), rows, title="Devices")
    result(f"--device auto takes {report['device']}, --precision auto takes {report['precision']}.\n")
    _listing("Datasets under data/", [(each.name, *_dataset_lines(each)) for each in data])
    _listing("Weights", [(each.what, *_weights_lines(each)) for each in weights])
    note("A dataset or file that no job of yours needs may be missing.")


def versions() -> dict[str, str]:
    """Python, the packages that are installed, and what torch was built for; name -> version."""
    import torch

    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["torch"] = torch.__version__  # with the build, for example 2.13.0+cpu
    found["cuda"] = torch.version.cuda or "none (a CPU build of torch)"
    return found


def devices() -> dict[str, Any]:
    """`devices`: each with name, description, the precision that `auto` picks on it and the kernels; what `auto` picks.

    `kernels` is "Triton" with its version, or "plain PyTorch" with the reason.
    """
    import torch

    from reincli.engine.device import pick_device, pick_precision

    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    found = []
    for name in names:
        device = pick_device(name)
        precision = pick_precision("auto", device)
        kernels = _kernels(device, precision)
        found.append({"name": name, "is": _describe(device), "precision": precision, "kernels": kernels})
    chosen = pick_device("auto")
    return {"devices": found, "device": str(chosen), "precision": pick_precision("auto", chosen)}


def _kernels(device: Any, precision: str) -> str:
    from reincli.config import HeadSettings
    from reincli.engine.device import DTYPES
    from reincli.ops.deformable import triton_reason
    from reincli.ops.triton_use import triton_version

    if device.type == "cpu":
        return "PyTorch"
    head = HeadSettings()
    reason = triton_reason(device, head.channels // head.heads, DTYPES[precision])
    return f"Triton {triton_version()}" if reason is None else f"plain PyTorch: {reason}"


def _describe(device: Any) -> str:
    import torch

    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    if device.type == "mps":
        return f"Apple GPU, {torch.mps.recommended_max_memory() / 2**30:.0f} GiB of the Mac's memory"
    from reincli.engine.device import fast_bf16

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fast = fast_bf16()
    bf16 = "no fast bf16" if fast is None else f"bf16 by {fast}"
    return f"{usable} cores, {torch.get_num_threads()} threads, {bf16}"


def datasets(root: Path) -> list[DatasetState]:
    """State of each built-in dataset under the data root."""
    from reincli.data.layouts import DATASETS

    return [dataset_state(name, DataSettings(root=str(root))) for name in DATASETS]


def dataset_state(name: str, data: DataSettings) -> DatasetState:
    """Which splits of one dataset are complete: all images have their labels, where they are handed out with them."""
    from reincli.data.completeness import remark
    from reincli.data.sources import dataset_root, find_samples, splits_of, without_labels

    complete: dict[str, int] = {}
    remarks: list[str] = []
    trouble = None
    seen = []
    for split, folders in splits_of(name, data).items():
        if folders in seen:
            continue  # another name for the same
        seen.append(folders)
        if any(each.labels is None for each in folders):
            continue  # below: nothing to train or score on, but a benchmark's images
        try:
            samples = find_samples(f"{name}:{split}", data)
            complete[split] = len(samples)
            remarks.append(remark(name, split, [s.name for s in samples], [s.domain for s in samples]))
        except ReinError as error:
            if split in MAIN_SPLITS:
                trouble = trouble or error
    root = dataset_root(name, data)
    for split, images in without_labels(name, root).items():
        complete[split] = len(images)
        remarks.append(remark(name, split, [s.name for s in images], [s.domain for s in images]))
    message, hint = (trouble.message, trouble.hint) if trouble else ("", "")
    remarks = [text for text in remarks if text]
    waiting = [path.name for path, what in not_unpacked(name, root) if remarks or not _all_there(what, root)]
    if waiting and trouble is None:
        what = f"'{waiting[0]}' and {len(waiting) - 1} more" if len(waiting) > 1 else f"'{waiting[0]}'"
        remarks.append(f"Not unpacked: {what} in '{root}': rein prepare-data {name} {typed(root)}")
    return DatasetState(name, trouble is None, complete, message, hint, tuple(remarks))


def _all_there(download: Download, root: Path) -> bool:
    """Whether every folder that an archive brings lies there: it was unpacked by hand."""
    return all((root / folder).is_dir() for folder in download.brings)


def weight_files(folder: Path) -> list[WeightState]:
    """The usual weights: raw backbones, converted ones that are there, and the released adapters and head."""
    from reincli.engine.backbone_files import shipped_path
    from reincli.model.families import FAMILIES

    found = []
    for name, family in FAMILIES.items():
        if family.shipped:
            path = shipped_path(family)
            found.append(weight_state(f"{name}, comes along", path, "Install this package anew."))
            continue
        path = folder / family.file
        found.append(weight_state(f"{name}, raw", path, _remedy(name, path)))
    for path in sorted(folder.glob("*_converted*.pth")):
        found.append(weight_state("converted", path, "Make it anew: rein convert-weights --help"))
    path = folder / "dinov2_rein_and_head.pth"
    remedy = "Train one: rein train --preset gta2citys. Released ones: rein download --list"
    found.append(weight_state("adapters and head", path, remedy))
    return found


def _remedy(name: str, path: Path) -> str:
    """What brings the raw weights of a family: a file that a browser has renamed, or an address."""
    from reincli.model.families import FAMILIES

    renamed = [
        each for each in sorted(path.parent.glob("*")) if plain_name(each.name) == path.name != each.name
    ]
    if renamed:
        return f"Rename '{renamed[0].name}', which is there, to '{path.name}'."
    family = FAMILIES[name]
    return (
        f"rein download {name}, or by hand: {family.address}"
        if family.is_open
        else f"Download {family.address}"
    )


def weight_state(what: str, path: Path, remedy: str) -> WeightState:
    """What is there; of a file its first bytes say whether it can hold weights."""
    from reincli.engine.file_kinds import kind_of

    problem, size = "", None
    try:
        if path.is_file():
            size = path.stat().st_size
            kind_of(path)
        elif os.path.lexists(path):
            problem = f"'{path}' is no file."
    except ReinError as error:
        problem = error.message
    except (OSError, zipfile.BadZipFile) as error:
        problem = f"'{path}' cannot be read: {error}."
    return WeightState(what, str(path), size, remedy, problem)


def _dataset_lines(state: DatasetState) -> list[str]:
    complete = ", ".join(f"{split} {count:,}" for split, count in state.splits.items())
    if state.ready:
        return [f"{complete} images", *state.remarks]
    return [
        f"{complete} images, but not all: {state.problem}" if complete else state.problem,
        state.remedy,
        *state.remarks,
    ]


def _weights_lines(state: WeightState) -> list[str]:
    if state.problem:
        return [state.problem, state.remedy]
    if state.size is None:
        return [f"not there: {state.file}", state.remedy]
    return [f"{state.file}, {state.size / 1e6:,.0f} MB"]


def _listing(title: str, entries: list[tuple[str, ...]]) -> None:
    """Names at the left, lines of text at the right; too long for the cells of a table."""
    indent = max(len(name) for name, *_ in entries) + 4
    result(title)
    for name, *texts in entries:
        lines = [line for text in texts for line in _wrapped(text, WIDTH - indent)]
        result(f"  {name:{indent - 2}}{lines[0]}")
        for line in lines[1:]:
            result(" " * indent + line)
    result("")


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most this width; paths and addresses stay whole, so that they can be copied."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
