"""Proof of a written file: its answers on some images beside PyTorch's, and the bound beyond which it is not kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reincli.errors import ReinError
from reincli.model.exportable import Exportable
from reincli.prediction.exported_about import Session

BOUNDS = {"fp32": (1e-3, 0.999), "fp16": (3e-2, 0.99), "bf16": (1e-1, 0.97), "int8": (math.inf, 0.95)}
"""Largest relative error of scores, and least share of equal labels, by precision. fp32's is wide since a query's
attention is a matter of a sign: a single one that rounding turns moves the scores by some 1e-4."""


@dataclass
class Proof:
    """What came out.

    Attributes:
        error: largest relative L2 error of an image's answer. alike: least share of pixels of one label.
        nodes: of the graph. operators: how often each. bytes: of the file, weights beside it too.
    """

    error: float = 0.0
    alike: float = 1.0
    images: int = 0
    nodes: int = 0
    operators: dict[str, int] = field(default_factory=dict)
    bytes: int = 0


def prove(proof: Proof, model: Exportable, session: Session, batches: list[Tensor], answer: str) -> None:
    """Compare a file's answers with PyTorch's."""
    with torch.no_grad():
        for batch in batches:
            found = [torch.from_numpy(np.asarray(each)) for each in session.run(batch.numpy())]
            compare(proof, model(batch), tuple(found) if len(found) > 1 else found[0], answer)


def compare(proof: Proof, ours: Any, other: Any, answer: str) -> None:
    """Take in the answers to one batch."""
    if answer == "labels":
        alike = [(a == b).float().mean() for a, b in zip(ours, other, strict=True)]
    elif answer == "scores":
        alike = [(a.argmax(0) == b.argmax(0)).float().mean() for a, b in zip(ours, other, strict=True)]
        proof.error = max(proof.error, relative(ours, other))
    else:
        alike = [((a > 0) == (b > 0)).float().mean() for a, b in zip(ours[1], other[1], strict=True)]
        proof.error = max(proof.error, *(relative(a, b) for a, b in zip(ours, other, strict=True)))
    proof.alike = min(proof.alike, *(float(each) for each in alike), 1.0)
    proof.images += len(alike)


def relative(ours: Tensor, other: Tensor) -> float:
    """|ours - other| / |ours|; infinite where a number is none."""
    error = float((ours.double() - other.double()).norm() / ours.double().norm())
    return error if math.isfinite(error) else math.inf


def refuse_what_is_far(proof: Proof, precision: str) -> None:
    """ReinError beyond the bound."""
    most, least = BOUNDS[precision]
    if proof.error > most or proof.alike < least:
        raise ReinError(
            f"The file's answers are too far from PyTorch's: relative error {proof.error:.1e} (bound {most:.0e}), "
            f"{proof.alike:.2%} of the labels alike (bound {least:.1%}). It was not kept.",
            "Take another precision (--precision fp32)." if precision != "fp32" else "Take --format torch.",
        )


def said(proof: Proof) -> dict[str, Any]:
    """For the file."""
    return {"relative_error": proof.error, "labels_alike": proof.alike, "images": proof.images}
