"""Convolutions in a row, no shortcuts: for questions of depth (Mirzadeh et al.: AAAI 2020; Urban et al.: ICLR 2017).

The 3x3 convolutions come in pairs: with ``width`` 16 the first two have 16 channels, the next two 32, then 64, and
all further ones 128.  Each pair (the last group) is followed by max-pooling; what is left is averaged down to a grid
of ``grid`` x ``grid`` positions, flattened, and given to one linear layer.
"""

from __future__ import annotations

from torch import nn

from limbeck.models.parts import conv, he_fan_out, row
from limbeck.settings import require


def build(
    name: str, classes: int, channels: int, size: int, *, width: int = 16, norm: bool = True, grid: int = 4
) -> nn.Module:
    """``plain_N``: N convolutions, 1 to 10.  Any image size.

    Taps: ``layer1`` ... ``layer4`` (each after its last ReLU), ``down1`` ... (the poolings), ``pool`` (flat), ``fc``.

    Args:
        width: channels of the first group.
        norm: BatchNorm after each convolution.
        grid: side of the grid of positions that the linear layer sees; 1: their mean.
    """
    del size
    require(width >= 1, "width", width, "channels, 1 or more")
    require(isinstance(norm, bool), "norm", norm, "true or false")
    require(grid >= 1, "grid", grid, "positions, 1 or more")
    count = int(name.split("_")[1])
    groups: list[list[nn.Module]] = []
    inside = channels
    for k in range(count):
        stage = min(k // 2, 3)
        if stage == len(groups):
            groups.append([])
        outside = width * 2**stage
        groups[stage] += [conv(inside, outside, 3, bias=not norm)]
        groups[stage] += [nn.BatchNorm2d(outside), nn.ReLU()] if norm else [nn.ReLU()]
        inside = outside
    parts: dict[str, nn.Module] = {}
    for k, group in enumerate(groups, 1):
        parts[f"layer{k}"] = nn.Sequential(*group)
        parts[f"down{k}"] = nn.MaxPool2d(2, ceil_mode=True)  # ceil: a single pixel stays one
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten(1))
    model = row(**parts, pool=pool, fc=nn.Linear(inside * grid * grid, classes))
    he_fan_out(model)
    return model
