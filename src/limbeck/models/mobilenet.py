"""MobileNetV2 at half width for small images (Sandler, Howard, Zhu, Zhmoginov, Chen: CVPR 2018, table 2).

As in the benchmarks of distillation: expansion 6 (1 in the first block, which has its expanding convolution all the
same), plain ReLU where the paper has ReLU6, stride 1 in the second stage, 1,280 channels before the pool.
"""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.models.parts import conv_bn, he_fan_out, pooled, row


class Inverted(nn.Module):
    """Widen, filter each channel, narrow; no activation at the end; plus the input where shapes allow."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.branch = nn.Sequential(
            *conv_bn(inside, wide, 1), nn.ReLU(),
            *conv_bn(wide, wide, 3, stride, groups=wide), nn.ReLU(),
            *conv_bn(wide, outside, 1),
        )  # fmt: skip
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return x + y if self.adds else y


def build(name: str, classes: int, channels: int, size: int) -> nn.Module:
    """MobileNetV2, half width.  Any image size.

    Taps: ``stem`` (after its ReLU), ``layer1`` ... ``layer4`` (sums, before any activation), ``head``, ``pool``,
    ``fc``.
    """
    del name, size
    model = row(
        stem=nn.Sequential(*conv_bn(channels, 16, 3, 2), nn.ReLU()),
        layer1=_stages(16, (8, 1, 1, 1), (12, 2, 1, 6)),
        layer2=_stages(12, (16, 3, 2, 6)),
        layer3=_stages(16, (32, 4, 2, 6), (48, 3, 1, 6)),
        layer4=_stages(48, (80, 3, 2, 6), (160, 1, 1, 6)),
        head=nn.Sequential(*conv_bn(160, 1280, 1), nn.ReLU()),
        pool=pooled(),
        fc=nn.Linear(1280, classes),
    )
    he_fan_out(model, linear_std=0.01)
    return model


def _stages(inside: int, *stages: tuple[int, int, int, int]) -> nn.Sequential:
    """Blocks in a row; a stage is (width, blocks, stride of the first, expansion)."""
    parts: list[nn.Module] = []
    for width, blocks, stride, expansion in stages:
        for k in range(blocks):
            parts.append(Inverted(inside, width, stride if k == 0 else 1, expansion))
            inside = width
    return nn.Sequential(*parts)
