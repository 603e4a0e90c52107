"""ResNet-50 for small images (He, Zhang, Ren, Sun: CVPR 2016, table 1) with a 3x3 stem of stride 1 and no max-pooling.

The stride of a block sits in its 3x3 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.models.parts import conv_bn, he_fan_out, pooled, row
from limbeck.models.resnet import stem


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, four times as wide at the end, and a shortcut; after the last ReLU."""

    def __init__(self, inside: int, middle: int, stride: int) -> None:
        super().__init__()
        outside = 4 * middle
        self.branch = nn.Sequential(
            *conv_bn(inside, middle, 1), nn.ReLU(),
            *conv_bn(middle, middle, 3, stride), nn.ReLU(),
            *conv_bn(middle, outside, 1),
        )  # fmt: skip
        same = stride == 1 and inside == outside
        self.shortcut: nn.Module = nn.Identity() if same else nn.Sequential(*conv_bn(inside, outside, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branch(x) + self.shortcut(x))


def build(name: str, classes: int, channels: int, size: int) -> nn.Module:
    """ResNet-50: 3, 4, 6 and 3 blocks.  Any image size.

    Taps: ``stem``, ``layer1`` ... ``layer4`` (each after its last ReLU), ``pool``, ``fc``.
    """
    del name, size
    model = row(
        stem=stem(channels, 64),
        layer1=_stage(3, 64, 64, 1),
        layer2=_stage(4, 256, 128, 2),
        layer3=_stage(6, 512, 256, 2),
        layer4=_stage(3, 1024, 512, 2),
        pool=pooled(),
        fc=nn.Linear(2048, classes),
    )
    he_fan_out(model)
    return model


def _stage(blocks: int, inside: int, middle: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(4 * middle, middle, 1) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(inside, middle, stride), *rest)
