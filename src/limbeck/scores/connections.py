"""Single connections: which weights go, and how dropout follows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.scores._checks import real
from limbeck.settings import finite, require


def std_mask(weight: Tensor, q: float) -> Tensor:
    """Which weights of a layer stay: those with ``|w| >= q * std``.

    Args:
        weight: of any shape.
        q: the quality factor, zero or more; 0 keeps every weight.

    Returns:
        bool, in the weight's shape; the standard deviation is that of all weights, no Bessel correction.

    Raises:
        HyperParameterError: q is outside its range.
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    Source:
        Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Neural Networks (NIPS 2015).

    >>> import torch
    >>> std_mask(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]), 1.0).tolist()
    [True, False, False, False, True]
    """
    require(finite(q) and q >= 0, "q", q, "zero or more")
    w = real("std_mask", "weight", weight)
    return w.abs() >= q * torch.std(w, correction=0)


def dropout_rescale(rate: float, *, kept: int, whole: int) -> float:
    """The dropout rate for retraining a layer that has fewer connections: ``rate * sqrt(kept / whole)``.

    Args:
        rate: of the first training, in [0, 1).
        kept: connections that are left, zero or more.
        whole: connections that there were, one or more.

    Returns:
        The new rate.

    Raises:
        HyperParameterError: a number is outside its range.

    Source:
        Han et al. (NIPS 2015): D_r = D_o * sqrt(C_ir / C_io).

    >>> dropout_rescale(0.5, kept=25, whole=100)
    0.25
    """
    require(finite(rate) and 0 <= rate < 1, "rate", rate, "in [0, 1)")
    require(whole >= 1, "whole", whole, "at least 1 connection")
    require(0 <= kept <= whole, "kept", kept, f"between 0 and the {whole} there were")
    return rate * math.sqrt(kept / whole)
