"""The few pieces that several networks share, and how their weights start.

No activation works in place: a tap may hold what it would overwrite.  No module is called twice in one forward:
a tap on it would not know which call is meant.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn


def conv(inside: int, outside: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A square convolution that keeps the size at stride 1."""
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=bias)


def conv_bn(inside: int, outside: int, kernel: int, stride: int = 1, *, groups: int = 1) -> list[nn.Module]:
    """Convolution and BatchNorm, to be put in a row with others."""
    return [conv(inside, outside, kernel, stride, groups=groups), nn.BatchNorm2d(outside)]


def row(**parts: nn.Module) -> nn.Sequential:
    """Modules one after the other, under these names: the names are the taps.

    >>> [name for name, _ in row(stem=nn.Identity(), fc=nn.Linear(2, 3)).named_children()]
    ['stem', 'fc']
    """
    return nn.Sequential(OrderedDict(parts))


def pooled() -> nn.Sequential:
    """The mean over all positions: ``[B, C, H, W]`` to ``[B, C]``."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))


def he_fan_out(model: nn.Module, linear_std: float | None = None) -> None:
    """He's start (ICCV 2015, eq. 14): convolutions N(0, 2 / (k * k * out)), their biases 0.

    BatchNorm starts at 1 and 0.  Linear layers keep torch's own start, or get N(0, linear_std^2) and bias 0.
    Groups are not divided out of the fan, as in the benchmark's code.
    """
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            fan = part.kernel_size[0] * part.kernel_size[1] * part.out_channels
            nn.init.normal_(part.weight, 0.0, math.sqrt(2.0 / fan))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear) and linear_std is not None:
            nn.init.normal_(part.weight, 0.0, linear_std)
            nn.init.zeros_(part.bias)
