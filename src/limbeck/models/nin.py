"""Network in Network for 32x32 images (Lin, Chen, Yan: ICLR 2014), as the attention transfer paper uses it.

Three stacks of one spatial convolution and 1x1 convolutions, each followed by BatchNorm and ReLU; no dropout by
default.  `nin` has the widths of the original CIFAR-10 network: 966,986 weights and biases there, printed as 1M
(NIN-wide), and 969,802 parameters with BatchNorm's.  `nin_thin` is assumed to be half as wide: 247,594 parameters, where
0.2M is printed for NIN-thin.

The original's last 1x1 convolution gives one map per class, whose means are the scores.  Here the mean comes first and
a linear layer behind it: the same function, since both are linear, and `pool` is a vector as elsewhere.
"""

from __future__ import annotations

from torch import nn

from limbeck.models.parts import conv, he_fan_out, pooled, row
from limbeck.settings import require

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "nin": ((192, 160, 96), (192, 192, 192), (192, 192)),
    "nin_thin": ((96, 80, 48), (96, 96, 96), (96, 96)),
}


def build(name: str, classes: int, channels: int, size: int, *, dropout: float = 0.0) -> nn.Module:
    """``nin`` or ``nin_thin``.  Any image size.

    Taps: ``layer1``, ``layer2``, ``layer3`` (the stacks, each after its last ReLU), ``down1``, ``down2`` (the poolings
    between them, the second one a mean), ``pool``, ``fc``.

    Args:
        dropout: probability after ``down1`` and ``down2``, in [0, 1); 0.5 in the original.
    """
    del size  # the pool takes the mean of whatever is left
    require(0 <= dropout < 1, "dropout", dropout, "a probability from 0 to below 1")
    one, two, three = SHAPES[name]
    drop1, drop2 = ({f"drop{k}": nn.Dropout(dropout)} if dropout else {} for k in (1, 2))
    model = row(
        layer1=_stack(channels, one, 5),
        down1=nn.MaxPool2d(3, 2, 1),  # padded: a single pixel stays one
        **drop1,
        layer2=_stack(one[-1], two, 5),
        down2=nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        **drop2,
        layer3=_stack(two[-1], three, 3),
        pool=pooled(),
        fc=nn.Linear(three[-1], classes),
    )
    he_fan_out(model)
    return model


def _stack(inside: int, widths: tuple[int, ...], kernel: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for width in widths:
        parts += [conv(inside, width, kernel, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
        inside, kernel = width, 1
    return nn.Sequential(*parts)
