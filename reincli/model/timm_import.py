"""Importing timm where the installed torchvision was built for another torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


def import_timm() -> ModuleType:
    """timm, also beside a torchvision whose compiled part does not fit the installed torch.

    A torchvision built for CUDA beside a CPU torch fails to import with "operator torchvision::nms does not
    exist", and timm, which imports it, fails too. Nothing here uses those operators, so their schemas are
    declared and the import is tried again. On a matched pair this does nothing.
    """
    try:
        return importlib.import_module("timm")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] in ("torchvision", "timm")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # kept below: it unregisters when collected
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    timm = importlib.import_module("timm")
    timm.reincli_torchvision_schemas = library  # type: ignore[attr-defined]
    return timm
