"""What every decomposition does with a weight before its formula, and the one it all comes down to."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import NonFiniteError, ShapeError, TensorTypeError
from limbeck.settings import require


def double(weight: Tensor, ndim: int, what: str = "the weight") -> Tensor:
    """A weight in float64 and out of any graph, refused if it has the wrong dimensions or is not finite."""
    if not weight.is_floating_point():
        raise TensorTypeError(
            f"{what} is {str(weight.dtype).removeprefix('torch.')}; floating-point numbers are needed"
        )
    if weight.ndim != ndim or 0 in weight.shape:
        raise ShapeError(f"{what} has the shape {list(weight.shape)}; {ndim} dimensions, none of them 0, are needed")
    weight = weight.detach()
    if weight.device.type == "mps":  # has no float64
        weight = weight.cpu()
    weight = weight.double()
    if not weight.isfinite().all():
        raise NonFiniteError(f"{what} is non-finite: there are NaN or infinite values in it")
    return weight


def check_rank(name: str, rank: object) -> None:
    """Refuse what is no rank."""
    fine = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    require(fine, name, rank, "a whole number, 1 or more")


def halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of a tall and a flat matrix, with the root of the singular values in each of them."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def squares(matrix: Tensor) -> Tensor:
    """The squares of the singular values of matrices ``[..., m, n]``, largest first.

    From the products of the rows (or columns) with each other: many times faster than the singular values of a long
    matrix, and as exact as sums of squares need it.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        matrix = matrix.mT
    return torch.linalg.eigvalsh(matrix @ matrix.mT).clamp_min(0).flip(-1)
