"""Convolutions and linear layers whose weights are signs when they are used.

The parameter ``weight`` keeps real numbers, the *latent* weights: they are what the optimizer moves.  The forward uses their
signs, times a scale per filter in the forms "bwn" and "xnor".  In the forms "bnn" and "xnor" the input goes through a
BatchNorm of the layer's own and becomes signs, too: BatchNorm first, since what comes from a ReLU is never negative, and
its signs would all be +1.

In form "bnn" latent weights are clipped to [-1, 1].  The clipping is done where the weights are used, at the beginning of
a training forward, and not behind the optimizer: so it needs nothing from the loop that trains, and happens before
every use of what an optimizer step left.  Beyond 1 stands at most what the very last step did, and no sign is changed by that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.compress.binary import functions as f
from limbeck.errors import HyperParameterError

Form = Literal["bnn", "bwn", "xnor"]
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class BinaryConv(nn.Module):
    """A convolution with binary weights, and with a binary input unless the form is "bwn".

    Args:
        dims: 1, 2 or 3 dimensions of positions.
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as torch's
            convolutions keep them: a number for each dimension.
        form: "bnn" (signs, of both), "bwn" (scaled signs as weights, real input) or "xnor" (scaled signs, both).
        real_input: the input stays as it is, and there is no BatchNorm before it; "bwn" implies it.
        norm_after: a BatchNorm behind the layer; sums of signs grow with the size of a filter.
        stochastic: in training, the signs of the input are drawn by `functions.hard_sigmoid`.
        settled: the weights are used as they are: `settle` has written the scaled signs into them.

    >>> layer = BinaryConv(dims=2, in_channels=3, out_channels=4, kernel_size=(3, 3), padding=(1, 1), form="xnor")
    >>> layer(torch.randn(2, 3, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self,
        *,
        dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (1,),
        padding: str | Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        form: Form = "bnn",
        real_input: bool = False,
        norm_after: bool = False,
        stochastic: bool = False,
        settled: bool = False,
    ) -> None:
        super().__init__()
        kernel, strides, dilations = (_each(v, dims) for v in (kernel_size, stride, dilation))
        self.made: dict[str, Any] = {
            "dims": dims,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel,
            "stride": strides,
            "padding": padding if isinstance(padding, str) else _each(padding, dims),
            "dilation": dilations,
            "groups": groups,
            "bias": bias,
            "padding_mode": padding_mode,
            **_mode(form, real_input, norm_after, stochastic, settled),
        }
        real = self.made["real_input"]
        self.before = None if real else _NORMS[dims](in_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.after = _NORMS[dims](out_channels) if norm_after else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New weights, as torch draws those of its own layers; the BatchNorms inside draw their own."""
        _draw(self)

    def extra_repr(self) -> str:
        return _said(self.made)

    def forward(self, x: Tensor) -> Tensor:
        made, weight = self.made, _weight(self)
        x = x if self.before is None else self.before(x)
        x, padding = _padded(x, made)
        options = {"stride": tuple(made["stride"]), "dilation": tuple(made["dilation"]), "groups": made["groups"]}
        convolve = f.CONVOLUTIONS[made["dims"]]
        if made["form"] == "xnor" and not made["real_input"]:
            y = convolve(_signs(self, x), weight, None, padding=padding, **options)
            scale = f.input_scale(x, made["kernel_size"], padding=padding, **options)
            y = y * (
                scale if made["groups"] == 1 else scale.repeat_interleave(made["out_channels"] // made["groups"], 1)
            )
            y = y if self.bias is None else y + self.bias.reshape(-1, *[1] * made["dims"])
        else:
            y = convolve(x if made["real_input"] else _signs(self, x), weight, self.bias, padding=padding, **options)
        return y if self.after is None else self.after(y)


class BinaryLinear(nn.Module):
    """A linear layer with binary weights, and with a binary input unless the form is "bwn".

    Args:
        in_features, out_features, bias: as of ``nn.Linear``.
        form, real_input, norm_after, stochastic, settled: as of `BinaryConv`.

    >>> layer = BinaryLinear(in_features=8, out_features=4, form="bnn")
    >>> sorted(set(layer.eval()(torch.randn(16, 8)).sub(layer.bias).round().flatten().int().tolist()) - set(range(-8, 9, 2)))
    []
    """

    def __init__(
        self,
        *,
        in_features: int,
        out_features: int,
        bias: bool = True,
        form: Form = "bnn",
        real_input: bool = False,
        norm_after: bool = False,
        stochastic: bool = False,
        settled: bool = False,
    ) -> None:
        super().__init__()
        self.made: dict[str, Any] = {
            "in_features": in_features,
            "out_features": out_features,
            "bias": bias,
            **_mode(form, real_input, norm_after, stochastic, settled),
        }
        self.before = None if self.made["real_input"] else nn.BatchNorm1d(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.after = nn.BatchNorm1d(out_features) if norm_after else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New weights, as torch draws those of its own layers; the BatchNorms inside draw their own."""
        _draw(self)

    def extra_repr(self) -> str:
        return _said(self.made)

    def forward(self, x: Tensor) -> Tensor:
        made, weight = self.made, _weight(self)
        x = x if self.before is None else _over_features(self.before, x)
        if made["form"] == "xnor" and not made["real_input"]:
            y = F.linear(_signs(self, x), weight) * x.abs().mean(-1, keepdim=True)
            y = y if self.bias is None else y + self.bias
        else:
            y = F.linear(x if made["real_input"] else _signs(self, x), weight, self.bias)
        return y if self.after is None else _over_features(self.after, y)


KINDS = (BinaryConv, BinaryLinear)


def _each(value: Sequence[int], dims: int) -> list[int]:
    """A number for each dimension, as a list: `made` goes through JSON, which has no tuples."""
    return list(value) * dims if len(value) == 1 else list(value)


def _mode(form: Form, real_input: bool, norm_after: bool, stochastic: bool, settled: bool) -> dict[str, Any]:
    if form not in ("bnn", "bwn", "xnor"):
        raise HyperParameterError(f"form = {form!r}: one of bnn, bwn, xnor")
    return {
        "form": form,
        "real_input": real_input or form == "bwn",
        "norm_after": norm_after,
        "stochastic": stochastic,
        "settled": settled,
    }


def _draw(layer: BinaryConv | BinaryLinear) -> None:
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.bias, -bound, bound)


def _said(made: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in made.items() if value not in (False, "zeros"))


def _weight(layer: BinaryConv | BinaryLinear) -> Tensor:
    """The weights as they are used."""
    if layer.made["settled"]:
        return layer.weight
    if layer.made["form"] != "bnn":
        return f.weight_scaled_signs(layer.weight)
    if layer.training and layer.weight.requires_grad and torch.is_grad_enabled():
        with torch.no_grad():
            layer.weight.clamp_(-1, 1)
    return f.weight_signs(layer.weight)


def _signs(layer: BinaryConv | BinaryLinear, x: Tensor) -> Tensor:
    return f.drawn_input_signs(x) if layer.made["stochastic"] and layer.training else f.input_signs(x)


def _over_features(norm: nn.Module, x: Tensor) -> Tensor:
    """A BatchNorm over the last dimension, whatever stands before it: tokens of a sentence count as samples."""
    return norm(x) if x.ndim == 2 else norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def _padded(x: Tensor, made: dict[str, Any]) -> tuple[Tensor, Any]:
    """The input, padded here if not with zeros, and the padding that is left to the convolution.

    Zeros are put around the signs, not around what the signs are taken of: a border counts for nothing, as in the real layer.
    """
    padding = made["padding"]
    if made["padding_mode"] == "zeros":
        return x, padding if isinstance(padding, str) else tuple(padding)
    if padding == "valid":
        return x, 0
    sides: list[int] = []
    for k in reversed(range(made["dims"])):  # F.pad begins with the last dimension
        whole = made["dilation"][k] * (made["kernel_size"][k] - 1)
        sides += [whole // 2, whole - whole // 2] if padding == "same" else [padding[k]] * 2
    return F.pad(x, sides, mode=made["padding_mode"]), 0
