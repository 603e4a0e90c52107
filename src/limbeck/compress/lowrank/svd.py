"""A linear layer as two, by the singular value decomposition of its weights, and ranks by energy."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.compress.lowrank.matrices import check_rank, double, halves
from limbeck.errors import NonFiniteError, ShapeError
from limbeck.settings import finite, require

# What counts as all of the energy: a relative error of 1e-6 is less than float32 keeps in a sum.
ROUNDING = 1e-12


def svd_linear(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The matrices of two linear layers in a row that come nearest to one (Eckart, Young 1936).

    ``W = U S V'``; the first layer is ``sqrt(S_k) V_k'``, the second ``U_k sqrt(S_k)`` and has the bias.  The root on
    both sides makes their gradients equally large.  What is lost is, in the Frobenius norm, the root of the sum of the
    squares of the other singular values.

    Args:
        weight: ``[out, in]``.
        rank: k, 1 or more; above ``min(out, in)`` it is taken for that, with which the product is exact.

    Returns:
        ``[k, in]`` and ``[out, k]``, of the weight's dtype and device.

    Raises:
        HyperParameterError: the rank is below 1.
        ShapeError, TensorTypeError, NonFiniteError: the weight is no finite matrix.

    >>> down, up = svd_linear(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2)
    >>> (up @ down).diag().round(decimals=4).tolist()
    [3.0, 2.0, 0.0]
    """
    check_rank("rank", rank)
    up, down = halves(double(weight, 2), rank)
    return down.to(weight), up.to(weight)


def rank_for_energy(values: Tensor, energy: float) -> int:
    """The smallest k whose k largest singular values have this part of the energy: the sum of all their squares.

    Values that together hold less than 1e-12 of it count as rounding errors, so that an energy of 1 gives the rank of
    a matrix whose entries are float32.

    Args:
        values: singular values, in any order, zero or more.
        energy: in (0, 1].

    Returns:
        1 or more, also where all values are 0.

    Raises:
        HyperParameterError: the energy is outside (0, 1].
        ShapeError: there are no values.
        NonFiniteError: a value is not finite.

    >>> [rank_for_energy(torch.tensor([3.0, 2.0, 1.0]), e) for e in (0.6, 0.9, 0.95, 1.0)]
    [1, 2, 3, 3]
    """
    require(finite(energy) and 0 < energy <= 1, "energy", energy, "a part of the energy, in (0, 1]")
    if values.ndim != 1 or not len(values):
        raise ShapeError(f"singular values are a vector of one or more, not of the shape {list(values.shape)}")
    if not values.isfinite().all():
        raise NonFiniteError("the singular values are non-finite")
    kept = kept_parts(values.detach().double().sort(descending=True).values.square())
    return 1 + int((kept < energy - ROUNDING).sum())


def kept_parts(energies: Tensor) -> Tensor:
    """Which part of the sum the first 1, 2, ... hold; all of it if the sum is 0."""
    total = energies.sum()
    return torch.ones_like(energies) if total == 0 else energies.cumsum(0) / total
