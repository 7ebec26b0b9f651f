"""A model in a file for another runtime (ONNX, OpenVINO), as a predictor like any other.

The file holds all that is needed: classes, colours, windows, sizes.
Shapes: B windows, K classes, (H, W) the file's size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reincli.config import Settings
from reincli.data.labels import Classes
from reincli.errors import ReinError
from reincli.model.segmentor import MEAN
from reincli.prediction.predict import Predictor
from reincli.prediction.windows import Budget
from reincli.settings_files import build_settings

SUFFIXES = (".onnx", ".xml")
"""Of files that can be predicted with; OpenVINO's `.xml` has its weights in a `.bin` beside it."""
KEY = "rein"
"""Under which a file keeps what it says of itself, as JSON."""
INSTALL = "pip install 'reincli[export]'"


def is_exported(path: Path) -> bool:
    """Whether a file is for another runtime, by its name."""
    return path.suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class About:
    """What a file says of itself.

    Attributes:
        size: (width, height) of its images. batch: images at a time; None: any number.
        answer, layout, precision: as exported. settings: of the model. classes: names and colours.
        raw: all of it, as JSON holds it.
    """

    size: tuple[int, int]
    batch: int | None
    answer: str
    layout: str
    precision: str
    settings: Settings
    classes: Classes
    raw: dict[str, Any]


class Session(Protocol):
    """A file that was opened by a runtime."""

    runtime: str

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """All answers to (B, 3, H, W) or (B, H, W, 3) uint8."""


def read_about(path: Path, text: str | None) -> About:
    """What a file says of itself.

    Raises:
        ReinError: it says nothing, or nothing that this version reads.
    """
    if text is None:
        raise ReinError(
            f"'{path}' was not written by `rein export`: it does not say what its classes and sizes are.",
            "Export a checkpoint: rein export CHECKPOINT",
        )
    try:
        raw = json.loads(text)
        width, height = raw["size"]
        names, colours = raw["classes"], [tuple(each) for each in raw["colors"]]
        return About((int(width), int(height)), raw["batch"], raw["answer"], raw["layout"], raw["precision"],
                     build_settings(raw["settings"], (), {}), Classes(tuple(names), tuple(colours)), raw)  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise ReinError(
            f"What '{path}' says of itself cannot be read ({type(error).__name__}: {error}).",
            "It is of another version of rein, or damaged: export it again.",
        ) from None


def runtime_module(name: str) -> Any:
    """A runtime's module.

    Raises:
        ReinError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise ReinError(f"{name} is not installed.", f"Install the extra: {INSTALL}") from None


class OnnxSession:
    """An ONNX file in onnxruntime.

    Args:
        path: the file. device: 'auto', 'cpu', 'cuda' or the name of one of onnxruntime's providers.
    """

    runtime = "onnxruntime"

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        module = runtime_module("onnxruntime")
        providers = self._providers(module, device)
        options = module.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or torch.get_num_threads()
        try:
            self.session = module.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no class in common
            raise ReinError(
                f"onnxruntime cannot open '{path}': {_first_line(error)}.",
                "The file is damaged or no ONNX file: export it again.",
            ) from None
        self.provider = self.session.get_providers()[0]
        self.name = self.session.get_inputs()[0].name

    @staticmethod
    def _providers(module: Any, device: str) -> list[str]:
        there = module.get_available_providers()
        if device == "cpu":
            return ["CPUExecutionProvider"]
        if device == "auto":
            return [name for name in there if name.startswith(("CUDA", "CPU"))]
        wanted = "CUDAExecutionProvider" if device.startswith("cuda") else device
        if wanted not in there:
            raise ReinError(
                f"onnxruntime has no provider '{wanted}' here; it has {', '.join(there)}.",
                "Use --device cpu, or install onnxruntime-gpu for CUDA and TensorRT.",
            )
        return [wanted, "CPUExecutionProvider"]

    def about(self) -> str | None:
        """What the file says of itself."""
        text: str | None = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        return text

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """As `Session.run`."""
        return list(self.session.run(None, {self.name: images}))


class OpenVinoSession:
    """An OpenVINO file; what it says of itself lies in its runtime information."""

    runtime = "openvino"

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        module = runtime_module("openvino")
        core = module.Core()
        kind = "CPU" if device in ("auto", "cpu") else device.upper()
        try:
            model = core.read_model(str(path))
            # in full precision, unless the file has less: some processors would take bf16 unasked
            count = threads or torch.get_num_threads()
            hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": count}
            options: dict[str, Any] = hints if kind == "CPU" else {}
            self.compiled = core.compile_model(model, kind, options)
        except RuntimeError as error:
            raise ReinError(
                f"OpenVINO cannot open '{path}': {_first_line(error)}.",
                "Both files are needed, .xml and .bin, from the same export.",
            ) from None
        self.text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
        self.provider = kind

    def about(self) -> str | None:
        """What the file says of itself."""
        return self.text

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """As `Session.run`."""
        found = self.compiled([images])
        return [found[each] for each in self.compiled.outputs]


def open_session(
    path: Path, device: str = "auto", threads: int | None = None
) -> tuple[OnnxSession | OpenVinoSession, About]:
    """Open a file by the runtime that it is for.

    Raises:
        ReinError: it is missing or damaged, not ours, or the runtime is not there.
    """
    if not path.exists():
        raise ReinError(f"There is no file '{path}'.", "Export one: rein export CHECKPOINT")
    kind = OpenVinoSession if path.suffix.lower() == ".xml" else OnnxSession
    session = kind(path, device, threads)
    return session, read_about(path, session.about())


class ExportedPredictor(Predictor):
    """A file of another runtime, used like a checkpoint: windows, test-time augmentation, scores, drawings.

    Args:
        path: the file. settings: over those in the file (what is scored, window, stride).
        device: as of the sessions.

    Raises:
        ReinError: as `open_session`; the file answers with queries, which are for other programs.
    """

    def __init__(self, path: Path, settings: Settings | None = None, device: str = "auto") -> None:
        self.session, self.about = open_session(path, device)
        if self.about.answer == "queries":
            raise ReinError(
                f"'{path}' answers with queries, not with classes.",
                "Export it with --what scores or --what labels.",
            )
        self.path, self.classes = path, self.about.classes
        self.settings = settings or self.about.settings
        self.device, self.precision = torch.device("cpu"), self.about.precision
        self.notes = [f"'{path.name}' runs by {self.session.runtime} ({self.session.provider})."]
        self.tell: Callable[[str], None] = self.notes.append
        self.replay = None
        self.padded = False
        self.budget = Budget(
            self.device, self.about.batch or self.settings.test.window_batch, lambda t: self.tell(t)
        )

    def _scores(self, windows: Tensor) -> Tensor:
        """(B, 3, h, w) uint8 -> (B, K, h, w) float32; label maps count as scores of 0 and 1."""
        found = self._answer(windows)
        if self.about.answer == "labels":
            return F.one_hot(found.long(), len(self.classes)).permute(0, 3, 1, 2).float()
        return found

    def _labels(self, windows: Tensor) -> Tensor:
        """(B, 3, h, w) uint8 -> (B, 1, h, w) uint8."""
        found = self._answer(windows)
        return (found if self.about.answer == "labels" else found.argmax(1).to(torch.uint8))[:, None]

    def _answer(self, windows: Tensor) -> Tensor:
        """What the file says of windows, cut to their size; as many at a time as it takes."""
        height, width = windows.shape[2:]
        filled = self._filled(windows)
        if self.about.layout == "nhwc":
            filled = filled.permute(0, 2, 3, 1)
        step = self.about.batch or len(filled)
        parts = []
        for first in range(0, len(filled), step):
            some = filled[first : first + step]
            spare = step - len(some)
            if spare:
                some = torch.cat([some, some[-1:].expand(spare, *some.shape[1:])])
            given = self.session.run(np.ascontiguousarray(some.numpy()))[0]
            parts.append(torch.from_numpy(given)[: step - spare])
        return torch.cat(parts)[..., :height, :width]

    def _filled(self, windows: Tensor) -> Tensor:
        """Windows at the file's size: what is smaller is filled up with the mean colour, right and below."""
        height, width = windows.shape[2:]
        wide, high = self.about.size
        if height > high or width > wide:
            raise ReinError(
                f"'{self.path.name}' takes images of {wide}x{high}, and this one is {width}x{height}.",
                f"Use --mode slide, or --size {wide}x{high}."
                if wide == high
                else f"Use --size {wide}x{high}.",
            )
        if (height, width) == (high, wide):
            return windows
        if not self.padded:
            self.padded = True
            self.tell(
                f"Smaller than {wide}x{high}: filled up, so that numbers differ a little from the checkpoint's."
            )
        canvas = (
            torch.tensor(MEAN).round().to(torch.uint8).view(1, 3, 1, 1).repeat(len(windows), 1, high, wide)
        )
        canvas[:, :, :height, :width] = windows
        return canvas


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
