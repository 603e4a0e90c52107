"""Small convolutional networks for 8x8 digits: they train in seconds."""

from __future__ import annotations

from torch import nn

from limbeck.models.parts import conv_bn, he_fan_out, pooled, row

WIDTHS: dict[str, tuple[int, int, int]] = {"digits_cnn": (16, 32, 64), "digits_cnn_thin": (4, 8, 16)}


def build(name: str, classes: int, channels: int, size: int) -> nn.Module:
    """``digits_cnn`` or ``digits_cnn_thin``: three 3x3 convolutions, the second of stride 2.  Any image size.

    Taps: ``layer1``, ``layer2``, ``layer3`` (each after its ReLU; 8x8, 4x4 and 4x4 positions), ``pool``, ``fc``.
    """
    del size
    one, two, three = WIDTHS[name]
    model = row(
        layer1=nn.Sequential(*conv_bn(channels, one, 3), nn.ReLU()),
        layer2=nn.Sequential(*conv_bn(one, two, 3, 2), nn.ReLU()),
        layer3=nn.Sequential(*conv_bn(two, three, 3), nn.ReLU()),
        pool=pooled(),
        fc=nn.Linear(three, classes),
    )
    he_fan_out(model)
    return model
