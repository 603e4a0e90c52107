"""The residual networks for 32x32 images (He, Zhang, Ren, Sun: CVPR 2016, section 4.2), with 1x1 projections.

Three stages of n basic blocks each (depth 6n + 2).  The shortcut is a 1x1 convolution with BatchNorm wherever the
shape changes ("option B"), as in the benchmarks of distillation, and not the zero-padding of the paper's own
CIFAR networks: that is where the parameter counts differ from the paper's.
"""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.models.parts import conv, he_fan_out, pooled, row

# name -> (blocks per stage, widths of the stem and of the three stages)
SHAPES: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "resnet8": (1, (16, 16, 32, 64)),
    "resnet14": (2, (16, 16, 32, 64)),
    "resnet20": (3, (16, 16, 32, 64)),
    "resnet32": (5, (16, 16, 32, 64)),
    "resnet44": (7, (16, 16, 32, 64)),
    "resnet56": (9, (16, 16, 32, 64)),
    "resnet110": (18, (16, 16, 32, 64)),
    "resnet8x4": (1, (32, 64, 128, 256)),
    "resnet32x4": (5, (32, 64, 128, 256)),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the output is taken after the last ReLU.  Maps to maps, ``[B, C, H, W]``."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inside, outside, 3, stride)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(outside, outside, 3)
        self.bn2 = nn.BatchNorm2d(outside)
        same = stride == 1 and inside == outside
        self.shortcut: nn.Module = (
            nn.Identity() if same else nn.Sequential(conv(inside, outside, 1, stride), nn.BatchNorm2d(outside))
        )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


def stem(channels: int, width: int) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU."""
    return nn.Sequential(conv(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())


def build(name: str, classes: int, channels: int, size: int) -> nn.Module:
    """A CIFAR ResNet by name; see `SHAPES`.  Any image size.

    Taps: ``stem``, ``layer1``, ``layer2``, ``layer3`` (each after its last ReLU), ``pool``, ``fc``.
    """
    del size  # the pool takes the mean of whatever is left
    blocks, (first, one, two, three) = SHAPES[name]
    model = row(
        stem=stem(channels, first),
        layer1=_stage(blocks, first, one, 1),
        layer2=_stage(blocks, one, two, 2),
        layer3=_stage(blocks, two, three, 2),
        pool=pooled(),
        fc=nn.Linear(three, classes),
    )
    he_fan_out(model)
    return model


def _stage(blocks: int, inside: int, outside: int, stride: int) -> nn.Sequential:
    rest = (BasicBlock(outside, outside, 1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inside, outside, stride), *rest)
