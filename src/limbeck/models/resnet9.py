"""ResNet-9: few and wide layers, for a good teacher in little time (Page: "How to Train Your ResNet", 2018).

Convolution, BatchNorm and ReLU eight times, four of them in two residual pairs; three poolings by 2; the maximum over
the positions; one linear layer.  Its wide 3x3 convolutions make better use of matrix units than the deep and thin networks
of the tables do.
"""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.models.parts import conv_bn, he_fan_out, row
from limbeck.settings import require


class Residual(nn.Module):
    """Two convolutions, each with BatchNorm and ReLU, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*conv_bn(width, width, 3), nn.ReLU())
        self.second = nn.Sequential(*conv_bn(width, width, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def build(name: str, classes: int, channels: int, size: int, *, width: int = 64) -> nn.Module:
    """``resnet9``: widths 1, 2, 4 and 4 times ``width``.  Images of 8 pixels or more.

    Taps: ``stem``, ``layer1`` (half the size, residual), ``layer2`` (a quarter), ``layer3`` (an eighth, residual),
    ``pool`` (flat), ``fc``.

    Args:
        width: channels of the stem.
    """
    del name
    require(size >= 8, "size", size, "pixels, 8 or more: it is halved three times")
    require(width >= 1, "width", width, "channels, 1 or more")
    model = row(
        stem=nn.Sequential(*conv_bn(channels, width, 3), nn.ReLU()),
        layer1=nn.Sequential(*_halved(width, 2 * width), Residual(2 * width)),
        layer2=nn.Sequential(*_halved(2 * width, 4 * width)),
        layer3=nn.Sequential(*_halved(4 * width, 4 * width), Residual(4 * width)),
        pool=nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(1)),
        fc=nn.Linear(4 * width, classes),
    )
    he_fan_out(model)
    return model


def _halved(inside: int, outside: int) -> list[nn.Module]:
    return [*conv_bn(inside, outside, 3), nn.ReLU(), nn.MaxPool2d(2)]
