"""Uniform quantization: real numbers on an even grid of integers.

Pure functions of tensors, for studying and for checking; networks are quantized by `limbeck.compress.quantize`.
A *grid* says which integer stands for which number: ``number = scale * (integer - zero)``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError, TensorTypeError
from limbeck.settings import require, require_whole

MOST_BITS = 16


class Grid(NamedTuple):
    """An even grid of integers.

    Attributes:
        scale: distance of two neighbours, more than zero; a single number, or one per channel ``[channels]``.
        zero: the integer that stands for 0, of the same shape.
        low, high: the smallest and the largest integer.
        axis: the dimension of the channels; None where the whole tensor shares one scale.
    """

    scale: Tensor
    zero: Tensor
    low: int
    high: int
    axis: int | None = None

    def shaped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero, so that they broadcast along the axis of the channels."""
        if self.axis is None:
            return self.scale, self.zero
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero.reshape(shape)


def affine(x: Tensor, *, bits: int = 8) -> Grid:
    """The grid of ``2^bits`` integers from 0 that spans a tensor and 0.

    ``scale = (max - min) / (2^bits - 1)``, ``zero = round(-min / scale)``, with ``min <= 0 <= max``: 0 is always met
    exactly, since padding and ReLU make so many of it.

    Raises:
        HyperParameterError: `bits` outside [1, 16].
        TensorTypeError, ShapeError, NonFiniteError: no floating-point tensor, nothing in it, or NaN or infinity.

    >>> grid = affine(torch.tensor([-1.0, 0.0, 2.0]), bits=2)
    >>> float(grid.scale), int(grid.zero)
    (1.0, 1)
    """
    require_bits(bits)
    _require_numbers(x)
    return affine_between(x.detach().min(), x.detach().max(), bits=bits)


def affine_between(low: Tensor | float, high: Tensor | float, *, bits: int = 8) -> Grid:
    """The same from the ends of a range, as calibration finds them; 0 is included whether it lies between or not.

    Raises:
        HyperParameterError: `low` above `high`, or `bits` outside [1, 16].
        NonFiniteError: an end is NaN or infinite.

    >>> float(affine_between(1.0, 255.0).scale)
    1.0
    """
    require_bits(bits)
    lowest, highest = _real(low), _real(high)
    if not bool(torch.isfinite(lowest).all() and torch.isfinite(highest).all()):
        raise NonFiniteError(f"the range from {low} to {high} is non-finite; calibrate with finite batches")
    if bool((lowest > highest).any()):
        raise HyperParameterError(
            f"low = {float(lowest.max()):g} lies above high = {float(highest.min()):g}; swap them"
        )
    lowest, highest = lowest.clamp(max=0), highest.clamp(min=0)
    top = 2**bits - 1
    span = (highest - lowest) / top
    scale = _positive(torch.where(span.isfinite(), span, highest / top - lowest / top))
    return Grid(scale, torch.round(-lowest / scale).clamp(0, top).to(torch.int64), 0, top)


def symmetric(x: Tensor, *, bits: int = 8, axis: int | None = None) -> Grid:
    """The grid of signed integers with 0 in its middle: ``scale = max|x| / (2^(bits-1) - 1)``.

    Args:
        x: any floating-point tensor.
        bits: in [2, 16]; with a single one there is nothing beside 0.
        axis: a dimension, each entry of which has its own scale (output channels of a weight: 0).

    Raises:
        HyperParameterError: `bits` outside [2, 16], or no such axis.
        TensorTypeError, ShapeError, NonFiniteError: as in `affine`.

    >>> symmetric(torch.tensor([[1.0, -127.0], [0.5, 0.0]]), axis=0).scale.tolist()
    [1.0, 0.003937007859349251]
    """
    require_bits(bits, least=2)
    _require_numbers(x)
    size = x.detach().abs()
    if axis is not None:
        if not -x.ndim <= axis < x.ndim:
            raise HyperParameterError(f"axis = {axis}: the tensor has {x.ndim} dimensions, {list(x.shape)}")
        axis %= x.ndim
        size = size.amax([d for d in range(x.ndim) if d != axis]) if x.ndim > 1 else size
    else:
        size = size.max()
    top = 2 ** (bits - 1) - 1
    scale = _positive(_real(size) / top)
    return Grid(scale, torch.zeros_like(scale, dtype=torch.int64), -top, top, axis)


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """The integers: ``clip(round(x / scale) + zero, low, high)``, halves to the even neighbour; int32.

    >>> quantize(torch.tensor([-9.0, 0.2, 1.5]), Grid(torch.tensor(1.0), torch.tensor(1), 0, 3)).tolist()
    [0, 1, 3]
    """
    _require_numbers(x)
    scale, zero = grid.shaped(x)
    return (torch.round(_real(x.detach()) / scale) + zero).clamp(grid.low, grid.high).to(torch.int32)


def dequantize(integers: Tensor, grid: Grid) -> Tensor:
    """The numbers that integers stand for: ``scale * (integer - zero)``.

    >>> dequantize(torch.tensor([0, 1, 3]), Grid(torch.tensor(0.5), torch.tensor(1), 0, 3)).tolist()
    [-0.5, 0.0, 1.0]
    """
    scale, zero = grid.shaped(integers)
    return scale * (integers - zero).to(scale.dtype)


def fake_quantize(x: Tensor, grid: Grid) -> Tensor:
    """Quantized and back, for training: the gradient passes straight through inside the grid, and is 0 beyond its ends.

    >>> x = torch.tensor([0.4, 9.0], requires_grad=True)
    >>> y = fake_quantize(x, Grid(torch.tensor(1.0), torch.tensor(0), 0, 3))
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([0.0, 3.0], [1.0, 0.0])
    """
    scale, zero = grid.shaped(x)
    # The ends of the cells at both ends of the grid: what is rounded into the grid is inside.
    low, high = scale * (grid.low - zero - 0.5), scale * (grid.high - zero + 0.5)
    known = _real(x.detach())
    inside = torch.where((known >= low) & (known <= high), x, x.detach())
    return inside + (dequantize(quantize(x, grid), grid).to(x.dtype) - inside).detach()


def require_bits(bits: int, *, least: int = 1) -> None:
    """Refuse a number of bits that no grid has."""
    require_whole(bits=bits)
    require(least <= bits <= MOST_BITS, "bits", bits, f"from {least} to {MOST_BITS}")


def _require_numbers(x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.") if isinstance(x, Tensor) else type(x).__name__
        raise TensorTypeError(f"quantization takes a floating-point tensor, not {kind}")
    if not x.numel():
        raise ShapeError(f"there is nothing to quantize in a tensor of shape {list(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise NonFiniteError(f"{bad} of {x.numel()} values are non-finite; such a tensor has no range to quantize")


def _real(value: Tensor | float) -> Tensor:
    value = torch.as_tensor(value)
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _positive(scale: Tensor) -> Tensor:
    """A tensor of zeros alone has no range; any scale serves it, and 1 divides nothing by zero."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
