"""Optimal brain damage: the loss as a parabola in each weight."""

from __future__ import annotations

from torch import Tensor

from limbeck.errors import HyperParameterError
from limbeck.scores._checks import real, same_shape


def obd(h: Tensor, weight: Tensor) -> Tensor:
    """The saliency ``h w^2 / 2`` of each weight: what the loss rises by when it is set to zero at a minimum.

    Args:
        h: the diagonal of the second derivatives, zero or more: those of Gauss and Newton, or `fisher`.
        weight: of the same shape.

    Returns:
        The saliencies, in that shape; sum over a filter for the filter's.

    Raises:
        ShapeError: the shapes differ.
        HyperParameterError: a second derivative is below zero.
        TensorTypeError, NonFiniteError: as in `l1`.

    Source:
        LeCun, Denker, Solla: Optimal Brain Damage (NIPS 1989).

    >>> import torch
    >>> obd(torch.tensor([10.0, 0.5, 4.0]), torch.tensor([1.0, -3.0, 0.5]))
    tensor([5.0000, 2.2500, 0.5000])
    """
    curvature, w = real("obd", "h", h), real("obd", "weight", weight)
    same_shape("obd", h=curvature, weight=w)
    if bool((curvature < 0).any()):
        raise HyperParameterError(
            f"obd: h is {float(curvature.min()):.4g} somewhere; second derivatives are zero or more at a minimum "
            "(Gauss-Newton, or the mean squared gradients of single samples, always are)"
        )
    return 0.5 * curvature * w.square()


def fisher(gradients: Tensor) -> Tensor:
    """The diagonal of the empirical Fisher matrix: the mean of the squared gradients of single samples.

    The square of a batch's mean gradient is something else, and near zero at a minimum.

    Args:
        gradients: ``[samples, ...]``, the gradient of each sample's own loss.

    Returns:
        ``[...]``, zero or more.

    Raises:
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    >>> import torch
    >>> fisher(torch.tensor([[1.0, -1.0], [-1.0, -3.0]]))
    tensor([1., 5.])
    """
    return real("fisher", "gradients", gradients).square().mean(0)
