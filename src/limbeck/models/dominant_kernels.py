"""Dominant kernels: a spatial convolution as a few kernels per input channel and a 1x1 convolution that mixes them.

The kernels of one input channel, written as rows, are a matrix ``[N, d * d]``.  Its k largest singular values give k
kernels (the right vectors) and their weights in each of the N outputs (the left ones): what is lost, in the Frobenius
norm, is the root of the sum of squares of the other singular values.  ``C k d^2 + N C k`` weights instead of
``N C d^2``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, NonFiniteError, TensorTypeError
from limbeck.models.parts import row
from limbeck.models.swap import blank, swapped
from limbeck.settings import require, require_choice


def kernel_rank(conv: nn.Conv2d) -> int:
    """How many kernels per input channel make `dominant` exact: the lesser of outputs per group and window size.

    >>> kernel_rank(nn.Conv2d(8, 6, 3)), kernel_rank(nn.Conv2d(8, 8, 3, groups=8))
    (6, 1)
    """
    return min(conv.out_channels // conv.groups, conv.kernel_size[0] * conv.kernel_size[1])


def kernel_spectrum(conv: nn.Conv2d) -> Tensor:
    """The singular values of each input channel's kernels, largest first: ``[C, kernel_rank(conv)]``, float64."""
    return torch.linalg.svdvals(_per_channel(conv)).flatten(0, 1)


def dominant(conv: nn.Conv2d, k: int, *, initialise: Literal["svd", "fresh"] = "svd") -> nn.Sequential:
    """A pair of convolutions for one: ``depthwise`` (k kernels per input channel) and ``pointwise`` (1x1).

    The pair has the convolution's stride, padding, dilation and bias; the groups of a grouped convolution stay apart.
    The convolution itself is not changed.

    Args:
        conv: a convolution with any window.
        k: kernels per input channel, 1 or more.  A k above `kernel_rank` is taken for that rank, with which the pair
            is exact: ``pair.depthwise.out_channels // conv.in_channels`` is the k that was taken.
        initialise: "svd": the nearest pair to the convolution's weights; "fresh": random weights from torch's global
            random numbers (depthwise N(0, 1 / d^2), pointwise N(0, 2 / inputs), bias 0), to be trained.

    Raises:
        HyperParameterError: k below 1, or an unknown start.
        TensorTypeError: not an `nn.Conv2d`.
        NonFiniteError: the weights are not finite.

    >>> pair = dominant(nn.Conv2d(128, 128, 3, bias=False), 1)
    >>> sum(p.numel() for p in pair.parameters())
    17536
    """
    if not isinstance(conv, nn.Conv2d):
        raise TensorTypeError(f"dominant kernels are made from an nn.Conv2d, not from a {type(conv).__name__}")
    require(isinstance(k, int) and not isinstance(k, bool) and k >= 1, "k", k, "kernels per input channel, 1 or more")
    require_choice("initialise", initialise, ("svd", "fresh"))
    k = min(k, kernel_rank(conv))
    inside, weight = conv.in_channels, conv.weight
    depthwise = blank(
        nn.Conv2d,
        inside,
        inside * k,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=inside,
        bias=False,
        padding_mode=conv.padding_mode,
        device=weight.device,
        dtype=weight.dtype,
    )
    pointwise = blank(
        nn.Conv2d,
        inside * k,
        conv.out_channels,
        1,
        groups=conv.groups,
        bias=conv.bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        if initialise == "svd":
            kernels, mixing = _nearest(conv, k)
            depthwise.weight.copy_(kernels)
            pointwise.weight.copy_(mixing)
        else:
            nn.init.normal_(depthwise.weight, 0.0, depthwise.weight[0].numel() ** -0.5)
            nn.init.normal_(pointwise.weight, 0.0, (2.0 / pointwise.weight[0].numel()) ** 0.5)
        if conv.bias is not None and pointwise.bias is not None:
            pointwise.bias.copy_(conv.bias if initialise == "svd" else torch.zeros_like(conv.bias))
            pointwise.bias.requires_grad_(conv.bias.requires_grad)
    for part in (depthwise, pointwise):
        part.weight.requires_grad_(weight.requires_grad)
    return row(depthwise=depthwise, pointwise=pointwise).train(conv.training)


def dominant_student(model: nn.Module, k: int, *, initialise: Literal["svd", "fresh"] = "svd") -> nn.Module:
    """A new network: each convolution with a window larger than 1x1 becomes a pair as `dominant` makes it.

    The pair stands where the convolution stood, under its name.  Left as they are: convolutions that have a single
    kernel per input channel already (depthwise ones), and subclasses of `nn.Conv2d`, whose forward may do more.

    Args:
        model: stays as it is.
        k: kernels per input channel, 1 or more; where a convolution has a lower rank, that rank.  Where k is large the
            pairs have more weights than the convolutions: ``k (d^2 + N) < N d^2`` is what saves.
        initialise: as for `dominant`.

    Raises:
        HyperParameterError: k below 1, or an unknown start.
        LimbeckError: the network has no such convolution.

    >>> from limbeck.models import build
    >>> student = dominant_student(build("vgg8", classes=10), 2)
    >>> sum(p.numel() for p in student.parameters())
    895616
    """

    def change(part: nn.Module) -> nn.Module | None:
        if type(part) is not nn.Conv2d or max(part.kernel_size) == 1 or kernel_rank(part) == 1:
            return None
        return dominant(part, k, initialise=initialise)

    student, pairs = swapped(model, change)
    if not pairs:
        raise LimbeckError(f"a {type(model).__name__} without spatial convolutions has no kernels to choose among")
    return student


def _per_channel(conv: nn.Conv2d) -> Tensor:
    """The weights as one matrix per input channel: ``[groups, C / groups, N / groups, d * d]``, float64."""
    weight = conv.weight.detach().double()
    if not weight.is_meta and not weight.isfinite().all():
        raise NonFiniteError("the weights of the convolution are non-finite, so they have no dominant kernels")
    return weight.flatten(2).unflatten(0, (conv.groups, -1)).transpose(1, 2)


def _nearest(conv: nn.Conv2d, k: int) -> tuple[Tensor, Tensor]:
    """The kernels ``[C * k, 1, d, d]`` and their mixing ``[N, C / groups * k, 1, 1]``."""
    left, values, right = torch.linalg.svd(_per_channel(conv), full_matrices=False)
    kernels = right[..., :k, :].reshape(-1, 1, *conv.kernel_size)
    mixing = (left * values.unsqueeze(-2))[..., :k].transpose(1, 2)
    return kernels, mixing.reshape(conv.out_channels, -1, 1, 1)
