"""Writing a model for another runtime, and proving what was written: it is run at once and compared with PyTorch.

Deformable attention is written as gathers and positions as constants, so that no operator is asked for that a runtime
may lack. A file whose answers are farther from PyTorch's than the bound is not kept.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import platform
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reincli.engine.device import DTYPES
from reincli.engine.weight_files import patient
from reincli.errors import ReinError
from reincli.generated.streets import DOMAINS, generate
from reincli.media.images import read_image
from reincli.media.whole_files import clear_dead, temporary_beside
from reincli.model.attention import write_out_flat_attention
from reincli.model.exportable import Exportable
from reincli.prediction import exported_seal
from reincli.prediction.export_proof import Proof, compare, prove, refuse_what_is_far, said
from reincli.prediction.exported import KEY, message_of, open_session, runtime_module
from reincli.prediction.predict import LoadedModel

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
"""Modules of the extra that a format is written or proven with."""
OPSET = 18
"""Of ONNX: the newest that PyTorch's exporter writes without conversion; TensorRT knows its operators from 10.0 on."""
PRECISIONS = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16"),
    "torch": ("fp32", "bf16", "fp16"),
}
TRIALS = 3
"""Images that a file is proven on, where none are given."""


@dataclass(frozen=True)
class Request:
    """What is to be written.

    Attributes:
        target: the file. form: of `FORMATS`. size: (width, height). batch: images at a time; None: any number.
        answer, layout: of `model.exportable`. precision: of `PRECISIONS`.
        images: to prove it on, and to calibrate int8; none: generated streets.
    """

    target: Path
    form: str
    size: tuple[int, int]
    batch: int | None
    answer: str
    layout: str
    precision: str
    images: tuple[Path, ...] = ()


def export(loaded: LoadedModel, request: Request, tell: Callable[[str], None] = lambda text: None) -> Proof:
    """Write, run, compare, and keep the file if it is near enough.

    Args:
        loaded: a model with its weights; it is used up. tell: called with what is done now.

    Raises:
        ReinError: the size does not divide, the backbone cannot be written, the file is too far off; nothing is kept.
    """
    check_size(loaded, request)
    width, height = request.size
    low = DTYPES.get(request.precision, torch.float32) if request.form == "torch" else torch.float32
    model = Exportable(loaded.model, (height, width), request.answer, request.layout, low)
    pictures = trial_images(request)
    # in a folder of its own until it is proven: weights beyond 2 GB lie beside the graph, under names that it holds
    folder = temporary_beside(request.target)
    try:
        folder.mkdir(parents=True)
        clear_dead(folder.parent)
        written = folder / request.target.name
        for name in NEEDS[request.form]:
            runtime_module(name)
        tell("tracing")
        about = describe(loaded, request)
        if request.form == "torch":
            proof = write_torch(model, request, written, about, pictures)
        else:
            proof = write_onnx(model, request, written, about, pictures, tell)
        refuse_what_is_far(proof, request.precision)
        proof.bytes = sum(each.stat().st_size for each in folder.iterdir())
        for each in sorted(folder.iterdir(), key=lambda path: path == written):  # the graph last
            os.replace(each, request.target.parent / each.name)
        return proof
    except OSError as error:
        raise ReinError(
            f"Cannot write '{request.target}': {error.strerror}.", "Check free space and permission."
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_size(loaded: LoadedModel, request: Request) -> None:
    """ReinError for a size that the backbone cannot take, with those that it can."""
    multiple = loaded.model.backbone.multiple
    if any(side % multiple or not side for side in request.size):
        near = "x".join(str(max(1, round(side / multiple)) * multiple) for side in request.size)
        raise ReinError(
            f"A size of {request.size[0]}x{request.size[1]} (width x height) does not divide by {multiple}, as this "
            "backbone needs.",
            f"Take multiples of {multiple}: --size {near}",
            usage=True,
        )
    fixed = getattr(loaded.model.backbone, "fixed", None)
    if fixed and (fixed[1], fixed[0]) != request.size:
        raise ReinError(
            f"This backbone takes images of {fixed[1]}x{fixed[0]} alone.",
            f"Take that: --size {fixed[1]}x{fixed[0]}",
            usage=True,
        )


def describe(loaded: LoadedModel, request: Request) -> dict[str, Any]:
    """What a file says of itself; `read_about` reads it."""
    settings = loaded.settings.model_dump(mode="json")
    test = settings["test"]
    width, height = request.size
    if width == height and test["mode"] == "slide":
        overlap = test["stride"] / test["window"]
        test |= {"window": width, "stride": max(1, round(overlap * width))}
    elif width != height:
        test["mode"] = "whole"
    test |= {"compile": False, "cuda_graphs": False, "window_batch": request.batch}
    return {
        "format": 1, "size": [width, height], "batch": request.batch, "answer": request.answer,
        "layout": request.layout, "input": "uint8 RGB 0-255", "precision": request.precision,
        "temperature": loaded.temperature,
        "classes": list(loaded.classes.names), "colors": [list(each) for each in loaded.classes.colors],
        "window": test["window"], "stride": test["stride"], "mode": test["mode"],
        "settings": settings, "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip


def trial_images(request: Request) -> list[Tensor]:
    """(H, W, 3) uint8 pictures at the file's size: those that were given, else generated streets."""
    width, height = request.size
    if request.images:
        import cv2

        found = [read_image(path) for path in request.images]
        resized = [cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in found]
    else:
        resized = [generate(seed, DOMAINS[seed % len(DOMAINS)], (width, height))[0] for seed in range(TRIALS)]
    return [torch.from_numpy(np.ascontiguousarray(each)) for each in resized]


def given_batches(pictures: list[Tensor], request: Request) -> list[Tensor]:
    """Pictures as the file takes them; a fixed batch repeats them."""
    count = request.batch or 1
    turned = (
        pictures if request.layout == "nhwc" else [each.permute(2, 0, 1).contiguous() for each in pictures]
    )
    batches = [
        torch.stack([turned[(first + n) % len(turned)] for n in range(count)])
        for first in range(0, len(turned), count)
    ]
    if request.batch is None and len(turned) > 1:
        batches.append(torch.stack(turned[:2]))  # another number of images
    return batches


# --- formats -----------------------------------------------------------------------------------------------


def write_torch(
    model: Exportable, request: Request, path: Path, about: dict[str, Any], pictures: list[Tensor]
) -> Proof:
    """A program of `torch.export`, read back before it is compared."""
    example = model.example(request.batch or 2)
    with torch.no_grad():
        program = refused_as_one_sentence(
            lambda: torch.export.export(model, (example,), dynamic_shapes=free_batch(request), strict=False)
        )
        with open(path, "wb") as file, patient(file) as taken, without_remarks():
            torch.export.save(program, taken, extra_files={f"{KEY}.json": json.dumps(about)})
        again = torch.export.load(path).module()
        proof = Proof(nodes=len(program.graph.nodes))
        proof.operators = dict(Counter(str(n.target) for n in program.graph.nodes if n.op == "call_function"))
        for batch in given_batches(pictures, request):
            compare(proof, model(batch), again(batch), request.answer)
    return proof


def write_onnx(
    model: Exportable, request: Request, path: Path, about: dict[str, Any], pictures: list[Tensor],
    tell: Callable[[str], None],
) -> Proof:  # fmt: skip
    """An ONNX file, or what OpenVINO makes of it, opened by its runtime and compared."""
    graph = path.with_suffix(".onnx")
    write_out_flat_attention(model.model.backbone)
    example = model.example(request.batch or 2)
    outputs = ["class_logits", "mask_logits"] if request.answer == "queries" else [request.answer]
    with torch.no_grad():
        program = refused_as_one_sentence(
            lambda: torch.onnx.export(
                model, (example,), dynamo=True, opset_version=OPSET, optimize=True, verbose=False,
                input_names=["images"], output_names=outputs, dynamic_shapes=free_batch(request),
            )
        )  # fmt: skip
    assert program is not None
    program.model.metadata_props[KEY] = json.dumps(about)
    backbone = nodes_of_backbone(program.model.graph)
    for node in program.model.graph:
        node.metadata_props.clear()  # where each came from in the source, with paths of this machine
    with serialized(request):
        program.save(str(graph))
    nodes = [node.op_type for node in program.model.graph]
    del program
    if request.precision in ("fp16", "int8") and request.form == "onnx":
        tell(f"writing {request.precision}")
        with serialized(request):
            lower(graph, request, given_batches(pictures, request), about, backbone)
    if request.form == "openvino":
        with serialized(request):
            write_openvino(graph, path, request, about)
    tell("comparing")
    session, _ = open_session(path)
    proof = Proof(nodes=len(nodes), operators=dict(Counter(nodes)))
    prove(proof, model, session, given_batches(pictures, request), request.answer)
    del session
    if request.form == "onnx":
        with serialized(request):
            write_proof(path, about | {"proof": said(proof)})
        kept = (path, exported_seal.weights_beside(path))
        for each in sorted(
            path.parent.iterdir()
        ):  # weights in fp32 beyond 2 GB, of which a smaller file was made
            if each not in kept:
                each.unlink()
        exported_seal.seal(path)
    return proof


def write_openvino(graph: Path, path: Path, request: Request, about: dict[str, Any]) -> None:
    """`.xml` and `.bin` out of an ONNX file, which is removed."""
    openvino = runtime_module("openvino")
    converted = openvino.convert_model(str(graph))
    converted.set_rt_info(json.dumps(about), KEY)
    converted.set_rt_info(exported_seal.OPEN, exported_seal.NAME)
    try:
        openvino.save_model(converted, str(path), compress_to_fp16=request.precision == "fp16")
    except RuntimeError as error:  # it does not say which: "iostream error"
        raise ReinError(
            f"OpenVINO cannot write '{request.target}': {message_of(error)}.",
            "Check free space: the file is needed twice while it is made.",
        ) from None
    for each in graph.parent.iterdir():
        if each.name.startswith(graph.name):
            each.unlink()
    exported_seal.seal(path)


def nodes_of_backbone(graph: Any) -> list[str]:
    """Names of the products of the backbone's layers; those of attention, adapters and head are not among them."""
    return [
        node.name
        for node in graph
        if node.op_type in ("MatMul", "Gemm", "Conv")
        and "model.backbone.body" in node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        and "linear" in node.metadata_props.get("pkg.torch.onnx.fx_node", "")
    ]


def lower(
    graph: Path, request: Request, batches: list[Tensor], about: dict[str, Any], backbone: list[str]
) -> None:
    """An ONNX file in fp16, or in int8 by calibration, in place of the one in fp32.

    Of int8 are the `backbone` layers alone: where a query looks is a matter of signs, and masks want more digits.
    """
    import onnx

    if request.precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = onnx.load(str(graph))
        keep = [
            "Resize",
            "LayerNormalization",
            "InstanceNormalization",
            "Softmax",
            "GatherElements",
            "Floor",
            "Clip",
        ]
        onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=keep), str(graph))
        return
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        """The trial images, one batch after another."""

        def __init__(self) -> None:
            self.left = [{"images": batch.numpy()} for batch in batches]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop(0) if self.left else None

    whole = graph.with_name(f"whole-{graph.name}")
    os.replace(graph, whole)
    nodes = onnx.load(str(whole), load_external_data=False).graph.node
    types = sorted({node.op_type for node in nodes if node.name in set(backbone)})  # else all are calibrated
    with without_remarks():
        quantize_static(str(whole), str(graph), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                        nodes_to_quantize=backbone, op_types_to_quantize=types)  # fmt: skip
    whole.unlink()
    write_proof(graph, about)


def write_proof(path: Path, about: dict[str, Any]) -> None:
    """Put what a file says of itself into it; weights beside it stay where they are."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: json.dumps(about), exported_seal.NAME: exported_seal.OPEN})
    onnx.save(model, str(path))


def free_batch(request: Request) -> Any:
    """Any number of images, where the batch is not fixed."""
    return None if request.batch else {"images": {0: torch.export.Dim("batch", min=1, max=1024)}}


def refused_as_one_sentence(trace: Callable[[], Any]) -> Any:
    """What the exporter says, in a sentence."""
    try:
        with without_remarks(), contextlib.redirect_stdout(io.StringIO()):
            return trace()
    except ReinError:
        raise
    except Exception as error:  # the exporter's errors have no class in common
        cause: BaseException = error
        while cause.__cause__ is not None:  # the outer ones tell how to report an error to PyTorch
            cause = cause.__cause__
        lines = [line for line in str(cause).strip().splitlines() if line.strip()] or [type(cause).__name__]
        raise ReinError(
            f"PyTorch's exporter cannot write this model: {lines[0][:200]}",
            "A batch of 1 (--batch 1) is easier to write; of the backbones, plain transformers are.",
        ) from error


@contextlib.contextmanager
def serialized(request: Request) -> Iterator[None]:
    """ONNX writes while the body runs; what its libraries say where they cannot is a sentence."""
    try:
        yield
    except (ReinError, OSError, MemoryError):
        raise
    except Exception as error:  # protobuf's, onnxruntime's and the quantiser's have no class in common
        raise ReinError(
            f"'{request.target}' cannot be written as {request.precision}: {message_of(error)}.",
            "Memory is short, or the model is beyond what one file holds (2 GB): see what else takes memory (free), or "
            "take a smaller --size or --format torch.",
        ) from error


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Exporters and quantisers are quiet about their own parts: there is nothing in it that a user could mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
