"""Fingerprints of backbones: a checkpoint knows with which weights it was trained, however a file stores them.

A fingerprint is a few values of every tensor of the loaded backbone, in a fixed order. So it is made in milliseconds,
and is the same for the raw file and a converted one, for `.pth` and `.safetensors`, whatever names they use: what
conversion resamples (positions and the patch kernel) is left out. Values stored in half precision are recognised: two
backbones are the same where all values agree once both are rounded to one of the usual types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reincli.errors import ReinError
from reincli.model.backbones import Backbone
from reincli.model.layouts import inverse, rename

SAMPLES = 8
"""Values of a tensor that are kept, spread over it."""
TYPES = (torch.float32, torch.float16, torch.bfloat16)
KNOWINGLY = "--any-backbone"
"""The option that goes on with another backbone."""


@dataclass(frozen=True)
class Fingerprint:
    """`values`: (n,) float32. `file`: where the backbone was read from."""

    values: Tensor
    file: str

    def as_content(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"values": self.values, "file": self.file}


def fingerprint_of(backbone: Backbone, file: str) -> Fingerprint:
    """The fingerprint of a backbone as it was loaded: in float32, nothing merged yet."""
    back = inverse(backbone.layout.names)
    resampled = {
        rename(name, back) or name
        for name in (backbone.layout.kernel, backbone.layout.positions)
        if name is not None
    }
    parts = []
    for name, tensor in sorted(backbone.state_dict().items()):
        if name not in resampled and tensor.is_floating_point() and tensor.numel():
            flat = tensor.detach().reshape(-1)
            places = torch.linspace(0, flat.numel() - 1, min(SAMPLES, flat.numel()), dtype=torch.float64)
            parts.append(flat[places.long().to(flat.device)].float().cpu())
    return Fingerprint(torch.cat(parts) if parts else torch.empty(0), file)


def read_fingerprint(content: object) -> Fingerprint | None:
    """The fingerprint in a checkpoint; None where it holds none, as the original's do."""
    if not isinstance(content, Mapping) or not isinstance(content.get("values"), Tensor):
        return None
    values = content["values"]
    if values.ndim != 1 or not values.is_floating_point():
        return None
    return Fingerprint(values.float(), str(content.get("file", "")))


def differing(first: Fingerprint, second: Fingerprint) -> float:
    """Share of the values that differ, 0 for the same backbone and 1 for one of another form."""
    a, b = first.values, second.values
    if a.shape != b.shape:
        return 1.0
    shares = [float((a.to(dtype) != b.to(dtype)).float().mean()) if a.numel() else 0.0 for dtype in TYPES]
    if any(torch.equal(v, v.bfloat16().float()) for v in (a, b)):  # rounded twice, by another type before
        shares.append(float((~torch.isclose(a, b, rtol=2**-7, atol=1e-7)).float().mean()))
    return min(shares)


def require_same(
    trained: Fingerprint | None, loaded: Fingerprint | None, checkpoint: str, *, knowingly: bool
) -> list[str]:
    """Compare the backbone that a checkpoint was trained with and the one that was loaded.

    Returns:
        Remarks: one where the user goes on knowingly.

    Raises:
        ReinError: they are not the same.
    """
    if trained is None or loaded is None:
        return []
    share = differing(trained, loaded)
    if not share:
        return []
    told = f"'{checkpoint}' was trained with another backbone ('{trained.file}') than '{loaded.file}': "
    told += f"{max(share, 0.01):.0%} of the weights that were compared differ"
    if knowingly:
        return [f"{told}. Going on with it."]
    raise ReinError(
        f"{told}, so its predictions would mean nothing.",
        f"Give the one that it was trained with: --backbone FILE. To go on knowingly: {KNOWINGLY}",
    )
