"""ShuffleNet v1 (Zhang, Zhou, Lin, Sun: CVPR 2018, 3 groups) and v2 (Ma, Zhang, Zheng, Sun: ECCV 2018, width 1).

For small images, as in the benchmarks of distillation: the stem is a 1x1 convolution of stride 1 with no
max-pooling, v1's second convolution of a block is followed by a ReLU, and the weights start as torch starts them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.models.parts import conv_bn, pooled, row


class Shuffle(nn.Module):
    """Deal the channels of each group out to all groups: channel i of group g goes to place i * groups + g."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class Unit1(nn.Module):
    """A block of v1.  At stride 2 its input, averaged, is appended to the result; else added.  After the last ReLU."""

    def __init__(self, inside: int, outside: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        own = outside - inside if stride == 2 else outside
        middle = own // 4
        self.branch = nn.Sequential(
            *conv_bn(inside, middle, 1, groups=first_groups), nn.ReLU(),
            Shuffle(first_groups),
            *conv_bn(middle, middle, 3, stride, groups=middle), nn.ReLU(),
            *conv_bn(middle, own, 1, groups=groups),
        )  # fmt: skip
        self.appends = stride == 2
        self.shortcut: nn.Module = nn.AvgPool2d(3, 2, 1) if stride == 2 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y, kept = self.branch(x), self.shortcut(x)
        return self.relu(torch.cat([y, kept], 1) if self.appends else y + kept)


class Unit2(nn.Module):
    """A block of v2 at stride 1: half of the channels pass, half are worked on, then both are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            *conv_bn(half, half, 1), nn.ReLU(),
            *conv_bn(half, half, 3, groups=half),
            *conv_bn(half, half, 1), nn.ReLU(),
        )  # fmt: skip
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        passed, worked = x.chunk(2, 1)
        return self.shuffle(torch.cat([passed, self.branch(worked)], 1))


class Down2(nn.Module):
    """A block of v2 at stride 2: two branches see all channels and give half of the new ones each."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.left = nn.Sequential(*conv_bn(inside, inside, 3, 2, groups=inside), *conv_bn(inside, half, 1), nn.ReLU())
        self.right = nn.Sequential(
            *conv_bn(inside, half, 1), nn.ReLU(),
            *conv_bn(half, half, 3, 2, groups=half),
            *conv_bn(half, half, 1), nn.ReLU(),
        )  # fmt: skip
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(torch.cat([self.left(x), self.right(x)], 1))


def build(name: str, classes: int, channels: int, size: int) -> nn.Module:
    """``shufflenet_v1`` or ``shufflenet_v2``.  Any image size.

    Taps: ``stem``, ``layer1``, ``layer2``, ``layer3`` (each after its last ReLU), ``head`` (v2), ``pool``, ``fc``.
    """
    del size
    stem = nn.Sequential(*conv_bn(channels, 24, 1), nn.ReLU())
    if name == "shufflenet_v1":
        return row(
            stem=stem,
            layer1=_stage1(24, 240, 4, first_groups=1),
            layer2=_stage1(240, 480, 8, first_groups=3),
            layer3=_stage1(480, 960, 4, first_groups=3),
            pool=pooled(),
            fc=nn.Linear(960, classes),
        )
    return row(
        stem=stem,
        layer1=_stage2(24, 116, 4),
        layer2=_stage2(116, 232, 8),
        layer3=_stage2(232, 464, 4),
        head=nn.Sequential(*conv_bn(464, 1024, 1), nn.ReLU()),
        pool=pooled(),
        fc=nn.Linear(1024, classes),
    )


def _stage1(inside: int, outside: int, blocks: int, *, first_groups: int) -> nn.Sequential:
    rest = (Unit1(outside, outside, 1, 3, 3) for _ in range(blocks - 1))
    return nn.Sequential(Unit1(inside, outside, 2, 3, first_groups), *rest)


def _stage2(inside: int, outside: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Down2(inside, outside), *(Unit2(outside) for _ in range(blocks - 1)))
