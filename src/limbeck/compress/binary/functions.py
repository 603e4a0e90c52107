"""Signs, their scales, and the gradients that stand in for those of a step function.

Signs are +1 and -1 and nothing else: the sign of zero is +1, where `torch.sign` says 0.  NaN stays NaN, so that
a network which has gone wrong does not look like one of ordinary signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}  # zeros around count as values


def sign(x: Tensor) -> Tensor:
    """+1 where ``x >= 0``, else -1; no gradient.

    Source:
        Courbariaux et al.: Binarized Neural Networks (arXiv 1602.02830), equation 1.

    >>> sign(torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.2]))
    tensor([-1., -1.,  1.,  1.,  1.])
    """
    x = x.detach()
    if torch.compiler.is_compiling() or not x.is_floating_point():  # a compiler makes one pass of it
        one = torch.ones((), dtype=x.dtype, device=x.device)
        return torch.where(x >= 0, one, torch.where(x < 0, -one, x))
    # Without conversions from bool, which take a CPU ten times as long as all this: 1, -1 and, of NaN alone, 0; then 0 / 0.
    up = torch.ge(x, 0, out=torch.empty_like(x))
    down = torch.lt(x, 0, out=torch.empty_like(x))
    up -= down
    return up.div_(torch.abs(up, out=down))


def hard_sigmoid(x: Tensor) -> Tensor:
    """``clip((x + 1) / 2, 0, 1)``: the probability of +1 when a sign is drawn.

    Source:
        Courbariaux et al. (arXiv 1602.02830), equation 3.

    >>> hard_sigmoid(torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.2]))
    tensor([0.0000, 0.2500, 0.5000, 0.6500, 1.0000])
    """
    return ((x + 1) / 2).clamp(0, 1)


def drawn_sign(x: Tensor, draw: Tensor) -> Tensor:
    """+1 with the probability `hard_sigmoid` of x, else -1; no gradient.

    Args:
        x: any shape.
        draw: uniform numbers in [0, 1), same shape.

    >>> drawn_sign(torch.tensor([-1.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 0.4, 0.6, 0.99]))
    tensor([-1.,  1., -1.,  1.])
    """
    likely = hard_sigmoid(x.detach())
    one = torch.ones((), dtype=x.dtype, device=x.device)
    return torch.where(draw < likely, one, torch.where(draw >= likely, -one, likely))


def inside(x: Tensor) -> Tensor:
    """Where the gradient of a sign passes: ``|x| <= 1``.

    Source:
        Courbariaux et al. (arXiv 1602.02830), equation 4: the derivative of Htanh.

    >>> inside(torch.tensor([-2.0, -1.0, 0.0, 0.3, 1.2])).int()
    tensor([0, 1, 1, 1, 0], dtype=torch.int32)
    """
    return x.detach().abs() <= 1


def filter_scale(weight: Tensor) -> Tensor:
    """``alpha = mean |W|`` of each filter: the scale with which signs come nearest to the weights.

    ``alpha`` of a filter that holds nothing but +alpha and -alpha is alpha again, to the last bit, which is what makes packing
    lossless: summed in float64, where that is wider than the weights and the device has it, it comes out so by itself.

    Args:
        weight: ``[filters, ...]``.

    Returns:
        ``[filters]``, no gradient.

    Source:
        Rastegari et al.: XNOR-Net (arXiv 1603.05279), equation 6.

    >>> filter_scale(torch.tensor([[0.5, -1.5, 2.0, 0.0, 1.0]]))
    tensor([1.])
    """
    rows = weight.detach().flatten(1).abs()
    wide = rows if rows.device.type == "mps" else rows.double()
    mean = wide.sum(1) / rows.shape[1]
    if wide.dtype == weight.dtype:  # a sum that may round
        low, high = rows.aminmax(dim=1)
        mean = torch.where(low == high, high, mean)
    return mean.to(weight.dtype)


def scaled_signs(weight: Tensor) -> Tensor:
    """``alpha * sign(W)``, filter by filter; no gradient.

    >>> scaled_signs(torch.tensor([[0.5, -1.0, 2.0, 0.5]]))
    tensor([[ 1., -1.,  1.,  1.]])
    """
    return _along(filter_scale(weight), weight) * sign(weight)


def residual(weight: Tensor) -> Tensor:
    """``||W||^2 - n alpha^2`` of each filter: what no scaled signs can get below.

    >>> residual(torch.tensor([[0.5, -1.5, 2.0, 0.0, 1.0]]))
    tensor([2.5000])
    """
    rows = weight.detach().flatten(1).double()
    return (rows.square().sum(1) - rows.shape[1] * rows.abs().mean(1).square()).to(weight.dtype)


def gradient_factor(weight: Tensor) -> Tensor:
    """``1/n + alpha * 1[|W| <= 1]``: what turns the gradient by scaled signs into that by the weights.

    Source:
        Rastegari et al. (arXiv 1603.05279), section 3.1.

    >>> gradient_factor(torch.tensor([[0.5, -1.5, 2.0, 0.0, 1.0]]))
    tensor([[1.2000, 0.2000, 0.2000, 1.2000, 1.2000]])
    """
    n = weight[0].numel()
    return 1 / n + _along(filter_scale(weight), weight) * inside(weight)


def input_scale(
    x: Tensor,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] = (1,),
    padding: Any = 0,
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """``K``: at every position of a convolution's output, the mean of |x| under its window.

    The mean over the channels, then a convolution with a box of ``1 / (w h)``.  With groups, each group has its own.

    Args:
        x: ``[batch, channels, ...]`` with one to three dimensions of positions.
        kernel, stride, padding, dilation, groups: those of the convolution; one number for all dimensions will do.

    Returns:
        ``[batch, groups, ...]``, at the positions of the convolution's output.

    Source:
        Rastegari et al. (arXiv 1603.05279), section 3.2.

    >>> input_scale(torch.tensor([[[[1.0, -2.0], [3.0, -0.5]]]]), (2, 2))
    tensor([[[[1.6250]]]])
    """
    dims = x.ndim - 2
    # Not `mean`, whose gradient would come back with its channels first and slow down the BatchNorm before it.
    mean = x.abs().unflatten(1, (groups, -1)).sum(2) / (x.shape[1] // groups)
    strides, dilations = (tuple(v) * dims if len(v) == 1 else tuple(v) for v in (stride, dilation))
    around = _around(padding, kernel)
    if around is not None and max(dilations) == 1:
        # No convolution: quantizers would take the box for weights and round it, and its input.
        return _POOLS[dims](mean, tuple(kernel), strides, around)
    box = torch.full((groups, 1, *kernel), 1 / prod(kernel), dtype=mean.dtype, device=x.device)
    return CONVOLUTIONS[dims](mean, box, None, stride=strides, padding=padding, dilation=dilations, groups=groups)


def _around(padding: Any, kernel: Sequence[int]) -> tuple[int, ...] | None:
    """A convolution's padding as a pooling takes it: the same on both sides, at most half of the window; None: it cannot."""
    if padding == "valid":
        return (0,) * len(kernel)
    if padding == "same":
        return tuple(k // 2 for k in kernel) if all(k % 2 for k in kernel) else None
    given = (padding,) if isinstance(padding, int) else tuple(padding)
    given = given * len(kernel) if len(given) == 1 else given
    return given if all(2 * p <= k for p, k in zip(given, kernel, strict=True)) else None


def _along(per_filter: Tensor, weight: Tensor) -> Tensor:
    return per_filter.reshape(-1, *[1] * (weight.ndim - 1))


# -- straight through ------------------------------------------------------------------------------


def _passed(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient where x is `inside`, 0 elsewhere, in one pass: that of a hardtanh a bit wider, whose edges do not count."""
    edge = 1 + torch.finfo(x.dtype).eps
    return torch.ops.aten.hardtanh_backward(gradient, x, -edge, edge)


class _SignOfInput(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _passed(grads[0], ctx.saved_tensors[0])


class _DrawnSignOfInput(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, draw: Tensor) -> Tensor:
        return drawn_sign(x, draw)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _passed(grads[0], ctx.saved_tensors[0]), None


class _SignOfWeight(torch.autograd.Function):
    # The weight itself is not kept for the way back: it may be clipped in place before that, when a step runs the
    # network more than once.
    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        return sign(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _ScaledSignsOfWeight(torch.autograd.Function):
    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        return scaled_signs(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(gradient_factor(inputs[0]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * ctx.saved_tensors[0]


def input_signs(x: Tensor) -> Tensor:
    """`sign`, with the gradient ``g * 1[|x| <= 1]``.

    >>> x = torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.2], requires_grad=True)
    >>> input_signs(x).sum().backward(); x.grad
    tensor([0., 1., 1., 1., 0.])
    """
    return _applied(_SignOfInput, x)


def drawn_input_signs(x: Tensor) -> Tensor:
    """`drawn_sign` with torch's own random numbers, and the same gradient as `input_signs`."""
    return _applied(_DrawnSignOfInput, x, torch.rand_like(x.detach()))


def weight_signs(weight: Tensor) -> Tensor:
    """`sign`, with the gradient passed on as it is: weights are kept in [-1, 1] by clipping instead."""
    return _applied(_SignOfWeight, weight)


def weight_scaled_signs(weight: Tensor) -> Tensor:
    """`scaled_signs`, with the gradient times `gradient_factor`.

    >>> w = torch.tensor([[0.5, -1.5, 2.0, 0.0, 1.0]], requires_grad=True)
    >>> weight_scaled_signs(w).sum().backward(); w.grad
    tensor([[1.2000, 0.2000, 0.2000, 1.2000, 1.2000]])
    """
    return _applied(_ScaledSignsOfWeight, weight)


def _applied(function: type[torch.autograd.Function], *inputs: Tensor) -> Tensor:
    result: Any = function.apply(*inputs)
    return result
