"""Wide residual networks (Zagoruyko, Komodakis: BMVC 2016, table 1): BatchNorm and ReLU come before each convolution.

Depth 6n + 4: a stem of 16 channels and three stages of n blocks, of 16, 32 and 64 times the width.
A stage's output is the plain sum, before any activation; the maps after the last BatchNorm and ReLU are at ``relu``.
"""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.models.parts import conv, he_fan_out, pooled, row
from limbeck.settings import require


class PreBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice, plus a shortcut.

    Where the shape changes the shortcut is a 1x1 convolution of the activated input; else it is the input itself.
    """

    def __init__(self, inside: int, outside: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(inside, outside, 3, stride)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu2 = nn.ReLU()
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = conv(outside, outside, 3)
        same = stride == 1 and inside == outside
        self.shortcut: nn.Conv2d | None = None if same else conv(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        y = self.relu2(self.bn2(self.conv1(active)))
        y = self.conv2(self.dropout(y))
        return y + (x if self.shortcut is None else self.shortcut(active))


def _stage(blocks: int, inside: int, outside: int, stride: int, dropout: float) -> nn.Sequential:
    first = PreBlock(inside, outside, stride, dropout)
    return nn.Sequential(first, *(PreBlock(outside, outside, 1, dropout) for _ in range(blocks - 1)))


def build(name: str, classes: int, channels: int, size: int, *, dropout: float = 0.0) -> nn.Module:
    """``wrn_D_W``: depth D = 6n + 4, width W.  Any image size.

    Taps: ``stem``, ``layer1``, ``layer2``, ``layer3`` (sums), ``relu``, ``pool``, ``fc``.

    Args:
        dropout: probability between the two convolutions of a block, in [0, 1).
    """
    del size  # the pool takes the mean of whatever is left
    require(0 <= dropout < 1, "dropout", dropout, "a probability from 0 to below 1")
    depth, width = (int(part) for part in name.split("_")[1:])
    blocks, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
    fc = nn.Linear(widths[3], classes)
    model = row(
        stem=conv(channels, widths[0], 3),
        layer1=_stage(blocks, widths[0], widths[1], 1, dropout),
        layer2=_stage(blocks, widths[1], widths[2], 2, dropout),
        layer3=_stage(blocks, widths[2], widths[3], 2, dropout),
        bn=nn.BatchNorm2d(widths[3]),
        relu=nn.ReLU(),
        pool=pooled(),
        fc=fc,
    )
    he_fan_out(model)
    nn.init.zeros_(fc.bias)
    return model
