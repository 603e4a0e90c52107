"""The size of a filter."""

from __future__ import annotations

from torch import Tensor

from limbeck.scores._checks import real


def l1(weight: Tensor) -> Tensor:
    """The sum of the absolute weights of each filter.

    Args:
        weight: ``[filters, ...]``: a convolution's ``[out, in, k, k]``, a linear layer's ``[out, in]``.

    Returns:
        ``[filters]``, zero or more, float32 at least.

    Raises:
        TensorTypeError: the weight is no floating-point tensor.
        ShapeError: it is empty, or has one dimension only.
        NonFiniteError: it holds NaN or infinity.

    Source:
        Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets (ICLR 2017), section 3.1.

    >>> import torch
    >>> l1(torch.tensor([[1.0, -1.0, 0.0, 2.0], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, -3.0]]))
    tensor([4., 2., 3.])
    """
    return real("l1", "weight", weight, dimensions=2).flatten(1).abs().sum(1)


def l2(weight: Tensor) -> Tensor:
    """The Euclidean norm of each filter.

    Args:
        weight: ``[filters, ...]``.

    Returns:
        ``[filters]``, zero or more, float32 at least.

    Raises:
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    Source:
        The norm of He, Kang, Dong, Fu, Yang: Soft Filter Pruning (IJCAI 2018), with p = 2.

    >>> import torch
    >>> l2(torch.tensor([[3.0, 4.0], [0.0, 5.0]]))
    tensor([5., 5.])
    """
    flat = real("l2", "weight", weight, dimensions=2).flatten(1)
    return (
        flat.double().square().sum(1).sqrt().to(flat.dtype)
    )  # squares of float32 may be too small or too large for it
