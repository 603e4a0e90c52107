"""Maxout networks (Goodfellow et al.: ICML 2013), and the FitNets that learn from one (Romero et al.: ICLR 2015).

A maxout unit is the largest of k linear pieces.  Widths count what comes out: behind 96 channels of 2 pieces stand
192 convolution filters.

What is assumed.  The widths are those of FitNets 1 to 4.  Two pieces everywhere (5 in the teacher's fully connected
layer), biases per channel, padding 1, poolings of 2 between the groups and one over all that is left (8x8) at the end
give the paper's counts:

===========  =========  =============  ==========  ==========================================
network      printed    here, weights  difference  with the biases, at 10 classes
===========  =========  =============  ==========  ==========================================
maxout_cifar ~9M        8,564,360      -4.8 %      8,567,830
fitnet1      ~250K      249,576        -0.2 %      251,194
fitnet2      ~862K      861,928        none        864,122
fitnet3      ~1.6M      1,503,304      -6.0 %      1,506,138
fitnet4      ~2.5M      2,544,712      +1.8 %      2,548,602
===========  =========  =============  ==========  ==========================================

FitNet 3 has the widths that the paper lists; no choice of pieces for the last layer gives 1.6M with them.  The teacher
has the kernels (8, 8, 5) and paddings (4, 3, 3) of the maxout paper's CIFAR-10 network; its last pooling leaves a
grid of 3x3 positions here, the side whose count comes nearest to 9M.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import ShapeError
from limbeck.models.parts import row
from limbeck.settings import require, require_choice

# Groups of 3x3 convolutions, by the channels that come out of them.
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "fitnet1": ((16, 16, 16), (32, 32, 32), (48, 48, 64)),
    "fitnet2": ((16, 32, 32), (48, 64, 80), (96, 96, 128)),
    "fitnet3": ((32, 48, 64, 64), (80, 80, 80, 80), (128, 128, 128)),
    "fitnet4": ((32, 32, 32, 48, 48), (80,) * 6, (128,) * 6),
}


class Maxout(nn.Module):
    """The largest of ``pieces`` values: ``[B, pieces * C, ...]`` to ``[B, C, ...]``.

    The pieces lie one behind the other: channel c of the output is the largest of channels c, C + c, 2C + c ...

    Args:
        pieces: k, 1 or more; 1 changes nothing.

    Raises:
        ShapeError: the channels are no multiple of the pieces.

    >>> import torch
    >>> Maxout(2)(torch.tensor([[1.0, 3.0, 2.0, -1.0]]))
    tensor([[2., 3.]])
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        require(isinstance(pieces, int) and pieces >= 1, "pieces", pieces, "a whole number, 1 or more")
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] % self.pieces:
            raise ShapeError(f"maxout of {self.pieces} pieces needs [batch, a multiple of them, ...], not {[*x.shape]}")
        return x.unflatten(1, (self.pieces, -1)).amax(1)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


class Shrink(nn.Module):
    """Max-pooling, its window no larger than the map: ``[B, C, H, W]`` to ``[B, C, about H / stride, ...]``."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        window = (min(self.kernel, x.shape[-2]), min(self.kernel, x.shape[-1]))
        return F.max_pool2d(x, window, self.stride, ceil_mode=True)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"


def maxout_conv(
    inside: int, outside: int, kernel: int = 3, *, pieces: int = 2, padding: int | None = None, norm: bool = False
) -> nn.Sequential:
    """A convolution with ``pieces`` filters per channel and their maximum: ``[B, inside, ...]`` to ``[B, outside, ...]``.

    Args:
        inside: channels of the input.
        outside: channels after the maximum.
        kernel: side of the window.
        pieces: filters per channel, 1 or more.
        padding: None: half the kernel, which keeps the size if that is odd.
        norm: BatchNorm of every piece, instead of its bias.
    """
    maximum = Maxout(pieces)
    conv = nn.Conv2d(
        inside, outside * pieces, kernel, padding=kernel // 2 if padding is None else padding, bias=not norm
    )
    return nn.Sequential(conv, *([nn.BatchNorm2d(outside * pieces)] if norm else []), maximum)


def maxout_linear(inside: int, outside: int, *, pieces: int = 2) -> nn.Sequential:
    """A linear layer with ``pieces`` pieces per unit and their maximum: ``[B, inside]`` to ``[B, outside]``."""
    maximum = Maxout(pieces)
    return nn.Sequential(nn.Linear(inside, outside * pieces), maximum)


def build(
    name: str,
    classes: int,
    channels: int,
    size: int,
    *,
    dropout: float = 0.0,
    norm: bool = False,
    start: Literal["scaled", "small"] = "scaled",
) -> nn.Module:
    """``maxout_cifar`` (images of 4 pixels and more) or ``fitnet1`` ... ``fitnet4`` (any image size).

    Taps: ``layer1``, ``layer2``, ``layer3`` (the groups, each after its last maximum, which may be below 0), ``down1``,
    ``down2`` (the poolings between them), ``pool`` (flat), ``hidden`` (500 units), ``fc``.  In the paper a layer's
    pooling belongs to it: its hint (the teacher's 2nd layer) is ``down2``, and so is the guided layer (the 6th, 6th,
    8th and 11th) of each FitNet.

    Args:
        dropout: probability before every layer but the first, in [0, 1).  The maxout paper trains its networks with
            0.5 (and 0.2 on the pixels); the FitNets are trained without.
        norm: BatchNorm of the convolutions' pieces, instead of their biases; the papers have none.
        start: "scaled": weights N(0, 1 / inputs), which keeps the size of what passes through two pieces, biases 0, and
            the last layer as torch starts it; "small": U(-0.005, 0.005) and biases 0 everywhere, the papers' start.
            What reaches the end of a deep FitNet from there is next to nothing: it needs the papers' RMSProp and hints.
    """
    require(0 <= dropout < 1, "dropout", dropout, "a probability from 0 to below 1")
    require(isinstance(norm, bool), "norm", norm, "true or false")
    require_choice("start", start, ("scaled", "small"))
    parts: dict[str, nn.Module] = {}
    if name == "maxout_cifar":
        require(size >= 4, "size", size, "4 pixels or more for the 8x8 windows of this network")
        parts["layer1"] = maxout_conv(channels, 96, 8, padding=4, norm=norm)
        parts |= {"down1": Shrink(4, 2), **_drop("drop1", dropout)}
        parts["layer2"] = maxout_conv(96, 192, 8, padding=3, norm=norm)
        parts |= {"down2": Shrink(4, 2), **_drop("drop2", dropout)}
        parts["layer3"] = maxout_conv(192, 192, 5, padding=3, norm=norm)
        inside, grid, pieces = 192, 3, 5
    else:
        groups = SHAPES[name]
        inside, grid, pieces = channels, 1, 2
        for k, widths in enumerate(groups, 1):
            parts[f"layer{k}"] = _group(inside, widths, norm, dropout)
            inside = widths[-1]
            if k < len(groups):
                # ceil: a single pixel stays one
                parts |= {f"down{k}": nn.MaxPool2d(2, ceil_mode=True), **_drop(f"drop{k}", dropout)}
    parts["pool"] = nn.Sequential(nn.AdaptiveMaxPool2d(grid), nn.Flatten(1))
    parts |= {**_drop("drop3", dropout), "hidden": maxout_linear(inside * grid * grid, 500, pieces=pieces)}
    model = row(**parts, **_drop("drop4", dropout), fc=nn.Linear(500, classes))
    _start(model, start)
    return model


def _drop(name: str, dropout: float) -> dict[str, nn.Module]:
    return {name: nn.Dropout(dropout)} if dropout else {}


def _group(inside: int, widths: tuple[int, ...], norm: bool, dropout: float) -> nn.Sequential:
    parts: list[nn.Module] = []
    for width in widths:
        parts += [nn.Dropout(dropout)] if parts and dropout else []
        parts.append(maxout_conv(inside, width, norm=norm))
        inside = width
    return nn.Sequential(*parts)


def _start(model: nn.Module, start: str) -> None:
    for name, part in model.named_modules():
        if not isinstance(part, (nn.Conv2d, nn.Linear)) or (name == "fc" and start == "scaled"):
            continue
        if start == "small":
            nn.init.uniform_(part.weight, -0.005, 0.005)
        else:
            nn.init.normal_(part.weight, 0.0, part.weight[0].numel() ** -0.5)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
