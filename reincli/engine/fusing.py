"""torch.compile around a model."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from reincli.model.hierarchical import Hierarchical
from reincli.model.segmentor import Segmentor


def fused(model: Segmentor) -> nn.Module:
    """The model as torch.compile fuses it, once for each size of its input; weights and names stay where they are.

    Backbone and head of a plain transformer are one graph. A backbone that timm runs itself is left as it is: its
    blocks are refined by hooks that come and go with each call, and each call would compile anew.
    """
    if isinstance(model.backbone, Hierarchical):
        model.backbone.__dict__["forward"] = torch.compiler.disable(model.backbone.forward)
    return cast(nn.Module, torch.compile(model, dynamic=False))
