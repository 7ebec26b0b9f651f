"""torch.compile around a model."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from reincli.model.hierarchical import Hierarchical
from reincli.model.segmentor import Segmentor


def fused(model: Segmentor, *, uncut: bool = False) -> nn.Module:
    """The model as torch.compile fuses it, once for each size of its input; weights and names stay where they are.

    Backbone and head of a plain transformer are one graph. A backbone that timm runs itself is left as it is: its
    blocks are refined by hooks that come and go with each call, and each call would compile anew.

    `uncut`: where processes exchange gradients, do not cut the graph so that the first ones travel early. PyTorch's
    cutter knows no activations that are worked out again, and ends in an error of its own.
    """
    if uncut:
        from torch._dynamo import config

        config.optimize_ddp = False
    if isinstance(model.backbone, Hierarchical):
        model.backbone.__dict__["forward"] = torch.compiler.disable(model.backbone.forward)
    return cast(nn.Module, torch.compile(model, dynamic=False))
