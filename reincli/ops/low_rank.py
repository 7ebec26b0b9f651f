"""What SoMA and RecycleLoRA take out of a weight: products of two factors of low rank.

Shapes: (o, in) of a weight, r rank, n = min(o, in).
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""A (r, in) and B (o, r), float32: the product is B A."""


def minor_factors(weight: Tensor, rank: int) -> Factors:
    """The last triplets of the singular value decomposition: A = sqrt(S_r) V_r^T, B = U_r sqrt(S_r).

    Source: SoMA, arXiv 2412.04077, section 3. Worked out in float64 from the eigenvectors of the smaller Gram matrix,
    whose span is that of the triplets: W V_r = U_r S_r needs no division by what is nearly 0, and the product is the
    same to float32 on every machine.

    Args:
        weight: (o, in). rank: r <= n.

    Raises:
        RuntimeError, ValueError: it does not converge, or holds numbers that are not finite.
    """
    exact = weight.detach().double()
    basis = minor_basis(exact, rank)
    if exact.shape[0] < exact.shape[1]:  # (o, r): left vectors
        left, right = basis, basis.T @ exact
        root = right.norm(dim=1).sqrt()
        return (right * _inverse(root)[:, None]).float(), (left * root).float()
    left = exact @ basis
    root = left.norm(dim=0).sqrt()
    return (basis * root).T.float(), (left * _inverse(root)).float()


def minor_basis(exact: Tensor, rank: int) -> Tensor:
    """Orthonormal vectors (n, r) of the smallest singular values: right ones, of a wide matrix left ones; float64."""
    gram = exact @ exact.T if exact.shape[0] < exact.shape[1] else exact.T @ exact
    if not bool(torch.isfinite(gram).all()):
        raise ValueError("it holds numbers that are not finite")
    return torch.linalg.eigh(gram).eigenvectors[:, :rank].flip(1)  # ascending there, descending here


def _inverse(sizes: Tensor) -> Tensor:
    """1 / s, and 0 where s is 0."""
    return torch.where(sizes > 0, 1 / sizes, torch.zeros_like(sizes))


def redundant_columns(weight: Tensor, rank: int, sub_rank: int) -> tuple[Factors, Factors]:
    """The last and the first columns of a column-pivoted QR decomposition, W P = Q R, with their pivots.

    Source: RecycleLoRA, CVPR 2026 Findings. B holds columns of Q; row i of A is 0 but for a one at the pivot of B's
    column i. Of a wide matrix Q has n columns, and the pivots are the first n of all (the authors' choice there is not
    known). The sign of a column is LAPACK's.

    Args:
        weight: (o, in). rank, sub_rank: r of the pair of the last columns and of the pair of the first.

    Returns:
        (A, B) of the last columns, and of the first.
    """
    exact = weight.detach().double().cpu().numpy()
    if not np.isfinite(exact).all():
        raise ValueError("it holds numbers that are not finite")
    rotation = None
    if (
        exact.shape[0] > exact.shape[1]
    ):  # the pivots follow from the columns' lengths, which R keeps: much faster
        rotation, exact = scipy.linalg.qr(exact, mode="economic")
    columns, _, pivots = scipy.linalg.qr(exact, pivoting=True, mode="economic")
    if rotation is not None:
        columns = rotation @ columns
    count = columns.shape[1]
    return (
        _chosen(columns, pivots, range(count - rank, count), weight),
        _chosen(columns, pivots, range(sub_rank), weight),
    )


def _chosen(columns: np.ndarray, pivots: np.ndarray, which: range, weight: Tensor) -> Factors:
    a = torch.zeros(len(which), weight.shape[1])
    a[torch.arange(len(which)), torch.from_numpy(pivots[which.start : which.stop]).long()] = 1
    b = torch.from_numpy(np.ascontiguousarray(columns[:, which.start : which.stop])).float()
    return a.to(weight.device), b.to(weight.device)
