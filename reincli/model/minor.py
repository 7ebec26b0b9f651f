"""Training in the minor directions of frozen weights: SoMA (arXiv 2412.04077) and RecycleLoRA (CVPR 2026 Findings).

From each weight W of the adapted layers a product of low rank is taken out, and goes on beside it as two factors that
train:  y = x W_res^T + b + f (x A^T) B^T  with  W_res = W - f B0 A0.  At the start A = A0 and B = B0, so the model is
the frozen one up to rounding; at the end W_res + f B A is one weight again, at no cost in inference.

The backbone stays as it is built, with its names: its linear layers get hooks, and their weights hold W_res. All that
trains is held here. A0 and B0 are kept in checkpoints: taken out is exactly what was taken out, on whatever machine.

Shapes: (out, in) of a weight, P slices of its rows with factors of their own (q, k, v of a fused layer), o = rows of a
slice, r rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reincli.config import MinorSettings
from reincli.errors import ReinError
from reincli.model.hierarchical import Hierarchical
from reincli.model.linear_layers import Place, places_of
from reincli.model.vit import ViT
from reincli.ops.low_rank import minor_basis, minor_factors, redundant_columns

Kind = Literal["soma", "recycle"]
RESIDUAL, WHOLE = "residual", "whole"
"""What stands beside A and B: the weight without what was taken out, or the whole weight (SoMA's released files)."""
RANKS: dict[Kind, int] = {"soma": 16, "recycle": 32}


class Pair(nn.Module):
    """Two factors beside one layer.

    Args:
        place: the layer. rank: r. factor: f.
        sub: whether it is the smaller pair of two, which has its own learning rate. decays: by the usual weight decay.

    Attributes:
        a: (P, r, in). b: (P, o, r). start_a, start_b: what they were at the start.
    """

    start_a: Tensor
    start_b: Tensor

    def __init__(
        self, place: Place, rank: int, factor: float, *, sub: bool = False, decays: bool = True
    ) -> None:
        super().__init__()
        self.place, self.factor, self.sub = place, factor, sub
        self.undecayed = () if decays else ("a", "b")
        self.pinned = self.undecayed
        count, rows, columns = len(place.taken), place.rows, place.linear.in_features
        self.a, self.b = (nn.Parameter(torch.zeros(count, *s)) for s in ((rank, columns), (rows, rank)))
        self.register_buffer("start_a", torch.zeros(count, rank, columns))
        self.register_buffer("start_b", torch.zeros(count, rows, rank))

    def forward(self, features: Tensor) -> Tensor:
        """f (x A^T) B^T: (..., in) -> (..., out)."""
        return F.linear(F.linear(features, self.a.flatten(0, 1)), self._across() * self.factor)

    def _across(self) -> Tensor:
        """B of all slices as one matrix (out, P r): each slice's rows know its own columns alone."""
        if self.place.slices == 1:
            return self.b[0]
        own = dict(zip(self.place.taken, self.b, strict=True))
        empty = self.b.new_zeros(self.place.rows, 0)
        return torch.block_diag(*(own.get(index, empty) for index in range(self.place.slices)))

    def set_start(self, index: int, a: Tensor, b: Tensor) -> None:
        """Begin a slice with these factors: (r, in), (o, r)."""
        for target, value in ((self.a, a), (self.start_a, a), (self.b, b), (self.start_b, b)):
            target.data[index].copy_(value)

    def starts_from_nothing(self) -> bool:
        """Whether nothing was taken out of the weight for this pair."""
        return not bool(self.start_a.any()) or not bool(self.start_b.any())


class Adapted(nn.Module):
    """What trains of one linear layer: one or two pairs, and its biases where these train.

    Args:
        place: the layer; it gets a hook, and stays a part of the backbone alone.
        main, sub: the pairs. biases: whether the layer's biases are trained (they are shared, not copied).
    """

    main: Pair
    sub: Pair | None

    def __init__(self, place: Place, main: Pair, sub: Pair | None, biases: bool) -> None:
        super().__init__()
        self.place = place
        self.main, self.sub = main, sub
        for name, bias in place.biases() if biases else ():
            self.register_parameter(name, bias)
        self.handle = place.linear.register_forward_hook(self.join)
        self.called_before = place.let_layer_be_called()

    def pairs(self) -> list[Pair]:
        """One or two."""
        return [self.main] if self.sub is None else [self.main, self.sub]

    def join(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The hook: what the frozen layer gave, and the pairs' share."""
        for pair in self.pairs():
            output = output + pair(given[0])
        return output

    @torch.no_grad()
    def add(self, factors: Callable[[Pair], tuple[Tensor, Tensor]], sign: int) -> None:
        """W += sign * f B A, summed in float64 and rounded once."""
        weight = self.place.linear.weight
        exact = weight.double()
        for pair in self.pairs():
            a, b = factors(pair)
            for index, part in enumerate(pair.place.taken):
                rows = slice(part * pair.place.rows, (part + 1) * pair.place.rows)
                exact[rows] += sign * pair.factor * (b[index].double() @ a[index].double())
        weight.copy_(exact)


class MinorDirections(nn.Module):
    """All that trains inside the blocks of a plain transformer.

    Args:
        backbone: its linear layers get hooks. settings: which of them. kind: of method.

    Attributes:
        form: of `RESIDUAL` and `WHOLE`.
        taken: whether the backbone's weights are W_res already.

    Raises:
        ReinError: no plain transformer, layers or blocks that are not there, a rank that is too large.
    """

    def __init__(self, backbone: ViT | Hierarchical, settings: MinorSettings, kind: Kind) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.form, self.taken = RESIDUAL, False
        self.rank = settings.rank or RANKS[kind]
        self.sub_rank = settings.sub_rank if kind == "recycle" else 0
        biases = settings.biases if settings.biases is not None else kind == "soma"
        self.blocks = nn.ModuleDict()
        for place in places_of(backbone, settings, kind):
            self._refuse_rank(place)
            if kind == "soma":
                layer = Adapted(place, Pair(place, self.rank, 1.0), None, biases)
            else:  # alpha 1 over the ranks taken together, and no weight decay
                factor = settings.factor or 1 / (self.rank + self.sub_rank)
                main = Pair(place, self.rank, factor, decays=False)
                sub = Pair(place, self.sub_rank, factor, sub=True, decays=False)
                layer = Adapted(place, main, sub, biases)
            _put(self.blocks, place.path, layer)

    def _refuse_rank(self, place: Place) -> None:
        rank, most = self.rank + self.sub_rank, min(place.rows, place.linear.in_features)
        if rank > most:
            together = f" and model.minor.sub_rank {self.sub_rank} together" if self.sub_rank else ""
            raise ReinError(
                f"model.minor.rank {self.rank}{together} is above the width: the weights at blocks."
                f"{'.'.join(place.path)} are {place.rows}x{place.linear.in_features}, of rank {most} at most.",
                f"Take {max(most - self.sub_rank, 1)} or less: --set model.minor.rank={max(most // 8, 1)}",
                usage=True,
            )

    def layers(self) -> Iterator[Adapted]:
        """All adapted layers, block by block."""
        for module in self.modules():
            if isinstance(module, Adapted):
                yield module

    @torch.no_grad()
    def begin(self) -> None:
        """Take the directions out of the weights as they are, and let training begin with them.

        Raises:
            ReinError: a decomposition does not converge.
        """
        for layer in self.layers():
            rows = layer.place.rows
            for index, part in enumerate(layer.place.taken):
                weight = layer.place.linear.weight[part * rows : (part + 1) * rows]
                try:
                    if layer.sub is None:
                        layer.main.set_start(index, *minor_factors(weight, self.rank))
                    else:
                        main, sub = redundant_columns(weight, self.rank, self.sub_rank)
                        layer.main.set_start(index, *main)
                        layer.sub.set_start(index, *sub)
                except (
                    RuntimeError,
                    ValueError,
                ) as error:  # what torch and LAPACK call it differs by version
                    raise ReinError(
                        f"The weights at blocks.{'.'.join(layer.place.path)} cannot be decomposed: "
                        f"{str(error).splitlines()[0]}.",
                        "Their file may be damaged: fetch it again, or leave the block out (model.minor.first_block).",
                    ) from None
        self.form = RESIDUAL
        self.take_out()

    def take_out(self) -> None:
        """W becomes W - f B0 A0, once; with `WHOLE`, where nothing was taken out, it stays."""
        if self.taken:
            raise RuntimeError("the directions were taken out of these weights already")
        for layer in self.layers():
            layer.add(lambda pair: (pair.start_a, pair.start_b), -1)
        self.taken = True

    def merge(self) -> None:
        """W becomes W_res + f B A, and the layers are plain again: for models that will not be trained or saved."""
        for layer in self.layers():
            layer.add(lambda pair: (pair.a, pair.b), 1)
            layer.handle.remove()
            layer.place.let_layer_be_called(layer.called_before)

    @torch.no_grad()
    def overlap(self) -> tuple[float, float] | None:
        """Share of A of the first `fc1` in the minor right directions of its weight, and what it is by chance.

        Tells whether A started from this weight's own decomposition (share near 1 at first, far above chance later) or
        from another's: |A V_r|^2 / |A|^2 against r / in. In square layers the start is too small to survive training.
        None where no such layer is adapted. The weight must be whole.
        """
        for layer in self.layers():
            linear = layer.place.linear
            if layer.place.path[-1] == "fc1" and linear.out_features >= linear.in_features:
                a = layer.main.a[0].double()
                basis = minor_basis(linear.weight[: layer.place.rows].double(), self.rank)
                return float((a @ basis).square().sum() / a.square().sum()), self.rank / linear.in_features
        return None

    def require_form(self, form: str, path: str) -> None:
        """Take over what a checkpoint says stands beside its A and B.

        Raises:
            ReinError: its tensors say otherwise: the two forms are never mixed.
        """
        nothing = [pair.starts_from_nothing() for layer in self.layers() for pair in layer.pairs()]
        if (form == WHOLE and not all(nothing)) or (form == RESIDUAL and all(nothing)):
            raise ReinError(
                f"'{path}' says that the {form} weight stands beside its A and B, but its tensors say otherwise.",
                "It was put together from parts of others: take it as it was written.",
            )
        self.form = form


def _put(tree: nn.ModuleDict, path: tuple[str, ...], layer: Adapted) -> None:
    """Hang a layer into nested tables by its path, so that its name here is its name there."""
    for name in path[:-1]:
        if name not in tree:
            tree[name] = nn.ModuleDict()
        inner: Any = tree[name]
        tree = inner
    tree[path[-1]] = layer
