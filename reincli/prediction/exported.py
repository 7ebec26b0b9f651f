"""A model in a file for another runtime (ONNX, OpenVINO), as a predictor like any other.

The file holds all that is needed: classes, colours, windows, sizes.
Shapes: B windows, K classes, (H, W) the file's size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reincli.config import Settings
from reincli.engine.device import is_out_of_memory
from reincli.errors import ReinError, instead_of
from reincli.model.segmentor import MEAN
from reincli.prediction.exported_about import About, Port, read_about, require_agreement
from reincli.prediction.exported_seal import broken_seal, weights_beside
from reincli.prediction.predict import Predictor
from reincli.prediction.windows import Budget

SUFFIXES = (".onnx", ".xml")
"""Of files that can be predicted with; OpenVINO's `.xml` has its weights in a `.bin` beside it."""
KEY = "rein"
"""Under which a file keeps what it says of itself, as JSON."""
INSTALL = "pip install 'reincli[export]'"


def is_exported(path: Path) -> bool:
    """Whether a file is for another runtime, by its name."""
    return path.suffix.lower() in SUFFIXES


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
        options.log_severity_level = 4  # what goes wrong is raised, and told once
        options.intra_op_num_threads = threads or torch.get_num_threads()
        try:
            self.session = module.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no class in common
            if lacks_memory(error):
                raise not_enough_memory(path, self.runtime) from None
            raise ReinError(
                f"onnxruntime cannot open '{path}': {message_of(error)}.",
                "The file is damaged or no ONNX file, or its weights (.onnx.data) do not lie beside it under their old "
                "name: bring them, or export it again.",
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

    def ports(self) -> tuple[Port, list[Port]]:
        """As `Session.ports`."""

        def port(each: Any) -> Port:
            sides = tuple(side if isinstance(side, int) else None for side in each.shape)
            return Port(each.type == "tensor(uint8)", sides)

        return port(self.session.get_inputs()[0]), [port(each) for each in self.session.get_outputs()]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """As `Session.run`."""
        try:
            return list(self.session.run(None, {self.name: images}))
        except Exception as error:  # as above
            raise cannot_run(self.runtime, error) from None


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
            self.text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
        except RuntimeError as error:
            if lacks_memory(error):
                raise not_enough_memory(path, self.runtime) from None
            raise ReinError(
                f"OpenVINO cannot open '{path}': {message_of(error)}.",
                "Both files are needed, .xml and .bin, whole and from the same export: copy both again, or export "
                "anew.",
            ) from None
        self.provider = kind

    def about(self) -> str | None:
        """What the file says of itself."""
        return self.text

    def ports(self) -> tuple[Port, list[Port]]:
        """As `Session.ports`."""

        def port(each: Any) -> Port:
            sides = tuple(None if side.is_dynamic else side.get_length() for side in each.partial_shape)
            return Port(each.element_type.to_string() == "u8", sides)

        return port(self.compiled.inputs[0]), [port(each) for each in self.compiled.outputs]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """As `Session.run`."""
        try:
            found = self.compiled([images])
        except (RuntimeError, UnicodeDecodeError) as error:
            if is_out_of_memory(error):  # fewer windows at a time are tried
                raise
            raise cannot_run(self.runtime, error) from None
        return [found[each] for each in self.compiled.outputs]


def open_session(
    path: Path, device: str = "auto", threads: int | None = None
) -> tuple[OnnxSession | OpenVinoSession, About]:
    """Open a file by the runtime that it is for.

    Raises:
        ReinError: it is missing or damaged, not ours, or the runtime is not there.
    """
    if not path.is_file():
        hint = f"{instead_of(path, SUFFIXES)} Or export one: rein export CHECKPOINT"
        raise ReinError(f"There is no file '{path}'.", hint)
    kind = OpenVinoSession if path.suffix.lower() == ".xml" else OnnxSession
    try:
        path = where_it_lies(path)
        session = kind(path, device, threads)
        about = read_about(path, session.about())
        require_agreement(path, session, about)
    except PermissionError:
        raise ReinError(f"No permission to read '{path}'.", "Check its owner and mode.") from None
    except UnicodeDecodeError as error:  # names and what the file says of itself are text for both runtimes
        raise ReinError(
            f"'{path}' is damaged: a text in it is not UTF-8 ({error.reason}).",
            "Copy it again from where it was made, or export it again.",
        ) from None
    return session, about


def where_it_lies(path: Path) -> Path:
    """A file, or what a link to it leads to, where its weights lie beside that and not beside the link."""
    real = Path(os.path.realpath(path))
    return path if weights_beside(path) or not weights_beside(real) else real


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
        self.temperature = self.about.temperature
        self.device, self.precision = torch.device("cpu"), self.about.precision
        self.notes = [f"'{path.name}' runs by {self.session.runtime} ({self.session.provider})."]
        changed = broken_seal(where_it_lies(path))
        self.doubts = [changed] if changed is not None else []
        self.notes += self.doubts
        self.tell: Callable[[str], None] = self.notes.append
        self.replay = None
        self.padded = False
        self.budget = Budget(
            self.device, self.about.batch or self.settings.test.window_batch, lambda t: self.tell(t)
        )

    def require_scores(self) -> None:
        """ReinError where the file answers with labels."""
        if self.about.answer == "labels":
            raise ReinError(
                f"'{self.path}' answers with labels alone: it does not say how sure it is.",
                "Export it with --what scores, or use the checkpoint.",
                usage=True,
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
        found = torch.cat(parts)
        self._require_sense(found)
        return found[..., :height, :width]

    def _require_sense(self, found: Tensor) -> None:
        """ReinError where an answer is no number, or no class: that of other weights than were exported."""
        if self.about.answer == "labels":
            good = int(found.max()) < len(self.classes)
        else:
            good = bool(torch.isfinite(found.sum()))
        if not good:
            raise ReinError(
                f"'{self.path}' answers with what is no number or no class: its weights are damaged.",
                "Export it again.",
            )

    def _filled(self, windows: Tensor) -> Tensor:
        """Windows at the file's size: what is smaller is filled up with the mean colour, right and below."""
        height, width = windows.shape[2:]
        wide, high = self.about.size
        if height > high or width > wide:
            slide = "--mode slide"
            if self.settings.test.window > wide:  # those of another setting
                slide += f" --set test.window={wide} --set test.stride={self.about.settings.test.stride}"
            raise ReinError(
                f"'{self.path.name}' takes images of {wide}x{high}, and this one is {width}x{height}.",
                f"Use {slide}, or --size {wide}x{high}." if wide == high else f"Use --size {wide}x{high}.",
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


def cannot_run(runtime: str, error: Exception) -> ReinError:
    """What a runtime says that opened a file and cannot use it."""
    return ReinError(
        f"{runtime} cannot run the file: {message_of(error)}.",
        "Its weights are damaged, or memory is short. Export it again, or --size smaller.",
    )


def lacks_memory(error: Exception) -> bool:
    """Whether a runtime says that memory ran out: the file is as good as it was then."""
    text = str(error)
    return is_out_of_memory(error) or "bad_alloc" in text or "Failed to allocate memory" in text


def not_enough_memory(path: Path, runtime: str) -> ReinError:
    """For a file that is opened."""
    return ReinError(
        f"Memory ran out while {runtime} opened '{path}'.",
        "See what else takes it (free), or export the checkpoint at a smaller --size.",
    )


def message_of(error: Exception) -> str:
    """The first line of a runtime's message that says something: OpenVINO begins with places in its source."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("Exception from ")]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
