"""Tucker-2: a convolution as a 1x1, a small one with the window, and a 1x1 (Kim et al., ICLR 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.compress.lowrank.matrices import check_rank, double
from limbeck.settings import require


def tucker2(kernel: Tensor, r_in: int, r_out: int, iterations: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """The factors of ``K[o, i] = sum_pq U_out[o, p] core[p, q] U_in[i, q]``, both with orthonormal columns.

    Starts from the leading singular vectors of the two unfoldings (HOSVD) and improves one side given the other in
    turn (higher-order orthogonal iteration); the error never grows by that.

    Args:
        kernel: ``[O, I, h, w]``.
        r_in: rank of the inputs, 1 or more; above I it is taken for I.
        r_out: rank of the outputs, 1 or more; above O it is taken for O.
        iterations: of both sides, 0 or more.

    Returns:
        ``U_in [I, r_in]``, ``core [r_out, r_in, h, w]``, ``U_out [O, r_out]``, of the kernel's dtype and device.

    Raises:
        HyperParameterError: a rank below 1, or iterations below 0.
        ShapeError, TensorTypeError, NonFiniteError: the kernel is no finite tensor of four dimensions.

    >>> [list(part.shape) for part in tucker2(torch.randn(8, 6, 3, 3), 2, 4)]
    [[6, 2], [4, 2, 3, 3], [8, 4]]
    """
    check_rank("r_in", r_in)
    check_rank("r_out", r_out)
    fine = isinstance(iterations, int) and iterations >= 0
    require(fine, "iterations", iterations, "a whole number, 0 or more")
    exact = double(kernel, 4)
    left, right = bases(exact)
    left, right = left[:, :r_out], right[:, :r_in]
    for _ in range(iterations):
        left = _leading(torch.einsum("oihw,iq->oqhw", exact, right).flatten(1), r_out)
        right = _leading(torch.einsum("oihw,op->iphw", exact, left).flatten(1), r_in)
    core = torch.einsum("oihw,op,iq->pqhw", exact, left, right)
    return right.to(kernel), core.to(kernel), left.to(kernel)


def bases(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """The left singular vectors of both unfoldings of a float64 kernel: ``[O, O]`` of outputs, ``[I, I]`` of inputs."""
    outside, inside = kernel.shape[:2]
    return _leading(kernel.flatten(1), outside), _leading(kernel.transpose(0, 1).flatten(1), inside)


def _leading(rows: Tensor, count: int) -> Tensor:
    """The leading left singular vectors as columns; from the products of the rows, which are few."""
    return torch.linalg.eigh(rows @ rows.mT).eigenvectors.flip(-1)[:, :count]
