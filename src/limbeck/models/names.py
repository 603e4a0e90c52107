"""The names of the zoo, without torch: enough to check a recipe.

A name is one of `TABLE`, or follows a pattern: ``wrn_D_W`` (depth 6n + 4, width 1 or more), ``plain_N`` (1 to 10
convolutions), ``torchvision:NAME``, ``timm:NAME``.  What stands behind the last two prefixes is looked at when the
network is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from limbeck.errors import unknown


class Line(NamedTuple):
    """One network: what it is, the file of this package that builds it, and the input it was made for.

    Attributes:
        title: in a few words.
        home: module of `limbeck.models` with the builder.
        channels: of the customary input.
        size: side of the customary input, in pixels.
    """

    title: str
    home: str
    channels: int = 3
    size: int = 32


TABLE: Mapping[str, Line] = {
    "resnet8": Line("CIFAR ResNet, 1 block per stage, widths 16-32-64", "resnet"),
    "resnet14": Line("CIFAR ResNet, 2 blocks per stage, widths 16-32-64", "resnet"),
    "resnet20": Line("CIFAR ResNet, 3 blocks per stage, widths 16-32-64", "resnet"),
    "resnet32": Line("CIFAR ResNet, 5 blocks per stage, widths 16-32-64", "resnet"),
    "resnet44": Line("CIFAR ResNet, 7 blocks per stage, widths 16-32-64", "resnet"),
    "resnet56": Line("CIFAR ResNet, 9 blocks per stage, widths 16-32-64", "resnet"),
    "resnet110": Line("CIFAR ResNet, 18 blocks per stage, widths 16-32-64", "resnet"),
    "resnet8x4": Line("CIFAR ResNet, 1 block per stage, widths 64-128-256", "resnet"),
    "resnet32x4": Line("CIFAR ResNet, 5 blocks per stage, widths 64-128-256", "resnet"),
    "wrn_16_1": Line("wide residual network, depth 16, width 1", "wrn"),
    "wrn_16_2": Line("wide residual network, depth 16, width 2", "wrn"),
    "wrn_40_1": Line("wide residual network, depth 40, width 1", "wrn"),
    "wrn_40_2": Line("wide residual network, depth 40, width 2", "wrn"),
    "vgg8": Line("VGG with BatchNorm, 5 convolutions", "vgg"),
    "vgg11": Line("VGG with BatchNorm, 8 convolutions", "vgg"),
    "vgg13": Line("VGG with BatchNorm, 10 convolutions", "vgg"),
    "vgg16": Line("VGG with BatchNorm, 13 convolutions", "vgg"),
    "resnet50": Line("ResNet-50 with a 3x3 stem for 32x32 images", "resnet50"),
    "resnet9": Line("ResNet-9, widths 64-128-256-256: much accuracy for little time", "resnet9"),
    "mobilenet_v2": Line("MobileNetV2, half width, expansion 6, for 32x32 images", "mobilenet"),
    "shufflenet_v1": Line("ShuffleNet v1, 3 groups, for 32x32 images", "shufflenet"),
    "shufflenet_v2": Line("ShuffleNet v2, width 1, for 32x32 images", "shufflenet"),
    "plain_2": Line("2 convolutions in a row, no shortcuts", "plain"),
    "plain_4": Line("4 convolutions in a row, no shortcuts", "plain"),
    "plain_6": Line("6 convolutions in a row, no shortcuts", "plain"),
    "plain_8": Line("8 convolutions in a row, no shortcuts", "plain"),
    "plain_10": Line("10 convolutions in a row, no shortcuts", "plain"),
    "maxout_cifar": Line("maxout network, widths 96-192-192, teacher of the FitNets", "maxout"),
    "fitnet1": Line("FitNet 1, maxout, 9 convolutions", "maxout"),
    "fitnet2": Line("FitNet 2, maxout, 9 convolutions", "maxout"),
    "fitnet3": Line("FitNet 3, maxout, 11 convolutions", "maxout"),
    "fitnet4": Line("FitNet 4, maxout, 17 convolutions", "maxout"),
    "nin": Line("Network in Network with BatchNorm, widths 192-192-192", "nin"),
    "nin_thin": Line("Network in Network with BatchNorm, half as wide", "nin"),
    "mlp": Line("fully connected layers on the flattened input", "mlp"),
    "highway": Line("highway network on the flattened input, 10 layers with shared gates", "highway"),
    "mimic": Line("1 convolution, a linear bottleneck, one wide hidden layer", "bottleneck"),
    "digits_mlp": Line("fully connected, 64-64, for 8x8 digits", "mlp", 1, 8),
    "digits_cnn": Line("three convolutions, widths 16-32-64, for 8x8 digits", "digits", 1, 8),
    "digits_cnn_thin": Line("three convolutions, widths 4-8-16, for 8x8 digits", "digits", 1, 8),
}

PATTERNS: tuple[str, ...] = ("wrn_D_W", "plain_N", "torchvision:NAME", "timm:NAME")

_WRN = re.compile(r"wrn_([0-9]+)_([0-9]+)")
_PLAIN = re.compile(r"plain_([0-9]+)")
_OUTSIDE = re.compile(r"(torchvision|timm):(.*)", re.DOTALL)


def names() -> tuple[str, ...]:
    """The networks of the zoo that have a name of their own (the patterns of `PATTERNS` come on top)."""
    return tuple(TABLE)


def line(name: str) -> Line | None:
    """The line of a network of our own, made up where a pattern gives it; None where there is none.

    >>> line("wrn_28_10").title
    'wide residual network, depth 28, width 10'
    >>> line("resnet21") is None
    True
    """
    if name in TABLE:
        return TABLE[name]
    if problem(name) is not None:
        return None
    if found := _WRN.fullmatch(name):
        return Line(f"wide residual network, depth {int(found[1])}, width {int(found[2])}", "wrn")
    if found := _PLAIN.fullmatch(name):
        return Line(f"{int(found[1])} convolution(s) in a row, no shortcuts", "plain")
    return None


def problem(name: str) -> str | None:
    """What is wrong with a name of a network, in one sentence; None if nothing is.

    >>> problem("resnet20"), problem("wrn_28_10"), problem("timm:vit_tiny_patch16_224")
    (None, None, None)
    >>> problem("wrn16_2")
    "no network 'wrn16_2' in the zoo; near: wrn_16_2, wrn_16_1, wrn_40_2"
    >>> problem("wrn_17_2")
    "network 'wrn_17_2': the depth of a wide residual network is 6n + 4 (10, 16, 22, 28, 40 ...), not 17"
    """
    if not isinstance(name, str):
        return f"the name of a network is text such as 'resnet20', not {name!r}"
    if name in TABLE:
        return None
    if found := _WRN.fullmatch(name):
        depth, width = int(found[1]), int(found[2])
        if depth < 10 or (depth - 4) % 6:
            return (
                f"network {name!r}: the depth of a wide residual network is 6n + 4 "
                f"(10, 16, 22, 28, 40 ...), not {depth}"
            )
        return None if width else f"network {name!r}: the width of a wide residual network is 1 or more, not 0"
    if found := _PLAIN.fullmatch(name):
        count = int(found[1])
        return None if 1 <= count <= 10 else f"network {name!r}: a plain network has 1 to 10 convolutions, not {count}"
    if found := _OUTSIDE.fullmatch(name):
        if found[2].strip() and found[2] == found[2].strip():
            return None
        return f"network {name!r}: the name of a network belongs behind the colon, as in '{found[1]}:resnet18'"
    return unknown("network", name, (*TABLE, *PATTERNS), "the zoo")
