"""VGG with BatchNorm and one linear layer (Simonyan, Zisserman: ICLR 2015, table 1), in the benchmark's shape.

Five groups of 3x3 convolutions with biases.  The picture is halved after each of the first three groups, and after
the fourth only where it is 64 pixels or more to begin with; a mean over positions replaces the last pooling.
"""

from __future__ import annotations

from torch import nn

from limbeck.models.parts import conv, he_fan_out, pooled, row

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg8": ((64,), (128,), (256,), (512,), (512,)),
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg13": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


def build(name: str, classes: int, channels: int, size: int) -> nn.Module:
    """A VGG by name; see `SHAPES`.  Any image size.

    Taps: ``stem`` and ``layer1`` ... ``layer4`` (the five groups, each after its last ReLU), ``down1`` ... (the
    poolings between them), ``pool``, ``fc``.
    """
    groups = SHAPES[name]
    halvings = 4 if size >= 64 else 3
    parts: dict[str, nn.Module] = {"stem": _group(channels, groups[0])}
    for k in range(1, 5):
        if k <= halvings:
            parts[f"down{k}"] = nn.MaxPool2d(2, ceil_mode=True)  # ceil: a single pixel stays one
        parts[f"layer{k}"] = _group(groups[k - 1][-1], groups[k])
    model = row(**parts, pool=pooled(), fc=nn.Linear(groups[-1][-1], classes))
    he_fan_out(model, linear_std=0.01)
    return model


def _group(inside: int, widths: tuple[int, ...]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for width in widths:
        parts += [conv(inside, width, 3, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
        inside = width
    return nn.Sequential(*parts)
