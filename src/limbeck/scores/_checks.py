"""What every score does before its formula: refuse bad input, choose the precision.

Scores are computed now and then, not in every training step, so values are always looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import NonFiniteError, ShapeError, TensorTypeError


def shape(x: Tensor) -> str:
    """A shape as people write it: ``[64, 3, 3, 3]``."""
    return str(list(x.shape))


def real(score: str, what: str, x: Tensor, *, dimensions: int = 1) -> Tensor:
    """The tensor in float32 at least, without its history.

    Raises:
        TensorTypeError: it is no floating-point tensor.
        ShapeError: it is empty, or has fewer dimensions than the score needs.
        NonFiniteError: it holds NaN or infinity.
    """
    if not isinstance(x, Tensor):
        raise TensorTypeError(f"{score}: the {what} is a {type(x).__name__}; a floating-point tensor is needed")
    if not x.is_floating_point():
        raise TensorTypeError(
            f"{score}: the {what} is {str(x.dtype).removeprefix('torch.')}; a floating-point tensor is needed"
        )
    if x.ndim < dimensions:
        raise ShapeError(
            f"{score}: the {what} has the shape {shape(x)}; at least {dimensions} dimension{'s'[: dimensions > 1]} "
            "are needed"
        )
    if x.numel() == 0:
        raise ShapeError(f"{score}: the {what} is empty: it has the shape {shape(x)}")
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if not bool(torch.isfinite(wide).all()):
        nan, inf = int(torch.isnan(wide).sum()), int(torch.isinf(wide).sum())
        raise NonFiniteError(
            f"{score}: the {what} is non-finite: it holds {nan} NaN and {inf} inf among {x.numel()} values"
        )
    return wide


def same_shape(score: str, **tensors: Tensor) -> None:
    """Refuse tensors whose shapes differ, naming all of them."""
    if len({tuple(x.shape) for x in tensors.values()}) > 1:
        told = ", ".join(f"{name} {shape(x)}" for name, x in tensors.items())
        raise ShapeError(f"{score}: the shapes differ: {told}")
