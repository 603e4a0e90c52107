"""A convolution as a column and a row: k x 1 and then 1 x k (Jaderberg, Vedaldi, Zisserman, BMVC 2014, scheme 2)."""

from __future__ import annotations

from torch import Tensor

from limbeck.compress.lowrank.matrices import check_rank, double, halves


def as_matrix(kernel: Tensor) -> Tensor:
    """Columns of the window against rows: ``[..., O, I, h, w]`` to ``[..., I * h, O * w]``."""
    return kernel.movedim(-4, -2).flatten(-2).flatten(-3, -2)


def spatial(kernel: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The kernels of two convolutions in a row, ``K[o, i, y, x] = sum_r across[o, r, 0, x] down[r, i, y, 0]``.

    The nearest such pair in the Frobenius norm, by the singular values of the kernel written as a matrix
    ``[I * h, O * w]``; each side has their roots.

    Args:
        kernel: ``[O, I, h, w]``.
        rank: maps between the two, 1 or more; above ``min(I * h, O * w)`` it is taken for that, and exact.

    Returns:
        ``[rank, I, h, 1]`` and ``[O, rank, 1, w]``, of the kernel's dtype and device.

    Raises:
        HyperParameterError: the rank is below 1.
        ShapeError, TensorTypeError, NonFiniteError: the kernel is no finite tensor of four dimensions.

    >>> import torch
    >>> [list(part.shape) for part in spatial(torch.randn(8, 6, 3, 5), 4)]
    [[4, 6, 3, 1], [8, 4, 1, 5]]
    """
    check_rank("rank", rank)
    outside, inside, height, width = double(kernel, 4).shape
    tall, flat = halves(as_matrix(double(kernel, 4)), rank)
    down = tall.mT.reshape(-1, inside, height, 1)
    across = flat.reshape(-1, outside, width).transpose(0, 1).unsqueeze(2)
    return down.to(kernel), across.contiguous().to(kernel)
