"""The linear bottleneck, and the shallow students that mimic deep networks with it (Ba, Caruana: NIPS 2014).

A wide layer costs H * D weights.  As the product of an H x k and a k x D matrix, with nothing between them, it costs
k * (H + D), trains faster, and can be multiplied out again afterwards: `fold`.

`students` gives the family of a second question, whether such students need convolutions (Urban et al.: ICLR 2017):
networks of equal size that differ in how many convolutions stand in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import HyperParameterError
from limbeck.models.parts import conv, he_fan_out, row
from limbeck.models.swap import blank, swapped
from limbeck.settings import require


def _whole(what: str, value: object, least: int = 1) -> None:
    fine = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(fine, what, value, f"a whole number, {least} or more")


class Bottleneck(nn.Module):
    """Two linear layers with nothing between them: ``[..., D]`` to ``[..., H]`` through k values.

    ``k (H + D)`` weights instead of ``H D``, and H biases.  k above ``min(H, D)`` is allowed and pointless: the product
    can have no higher rank; `note` says so.  Weights start as N(0, 1 / inputs) of each layer, biases at 0.

    Args:
        inside: D.
        outside: H.
        width: k, 1 or more.
        bias: whether the outer layer has one.

    Raises:
        HyperParameterError: one of the numbers is below 1.

    >>> layer = Bottleneck(1845, 30_000, 250, bias=False)
    >>> sum(p.numel() for p in layer.parameters())
    7961250
    """

    def __init__(self, inside: int, outside: int, width: int, *, bias: bool = True) -> None:
        super().__init__()
        for what, value in (("inside", inside), ("outside", outside), ("bottleneck", width)):
            _whole(what, value)
        self.down = nn.Linear(inside, width, bias=False)
        self.up = nn.Linear(width, outside, bias=bias)
        for part in (self.down, self.up):
            nn.init.normal_(part.weight, 0.0, part.in_features**-0.5)
        if bias:
            nn.init.zeros_(self.up.bias)

    @property
    def note(self) -> str | None:
        """What is odd about the width, in a sentence; None if nothing is.

        >>> Bottleneck(4, 3, 5).note
        'a bottleneck of 5 between 4 and 3 adds nothing that one of 3 has not'
        """
        inside, width, outside = self.down.in_features, self.down.out_features, self.up.out_features
        if width <= min(inside, outside):
            return None
        return f"a bottleneck of {width} between {inside} and {outside} adds nothing that one of {min(inside, outside)} has not"

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


def fold(model: nn.Module) -> nn.Module:
    """A new network in which each `Bottleneck` is one linear layer with the product of its matrices.

    The outputs are the same up to float rounding: the product is made in float64, but a sum over D values rounds
    otherwise than one over k.  Smaller only where ``k (H + D) > H D``; faster where one product is faster than two.

    Args:
        model: any network, or a `Bottleneck` itself.  It stays as it is, bit for bit; one without bottlenecks is
            just copied.

    >>> import torch
    >>> layer, x = Bottleneck(6, 5, 2), torch.randn(3, 6)
    >>> folded = fold(layer)
    >>> type(folded).__name__, torch.allclose(folded(x), layer(x), atol=1e-5)
    ('Linear', True)
    """
    return swapped(model, lambda part: _product(part) if isinstance(part, Bottleneck) else None)[0]


def _product(pair: Bottleneck) -> nn.Linear:
    down, up = pair.down.weight, pair.up.weight
    linear = blank(
        nn.Linear, down.shape[1], up.shape[0], bias=pair.up.bias is not None, device=up.device, dtype=up.dtype
    )
    with torch.no_grad():
        linear.weight.copy_(up.double() @ down.double())
        if pair.up.bias is not None:
            linear.bias.copy_(pair.up.bias)
            linear.bias.requires_grad_(pair.up.bias.requires_grad)
    linear.weight.requires_grad_(up.requires_grad or down.requires_grad)
    return linear.train(pair.training)


def build(
    name: str,
    classes: int,
    channels: int,
    size: int,
    *,
    convs: int = 1,
    width: int = 64,
    kernel: int = 5,
    bottleneck: int | None = 256,
    hidden: int = 4096,
) -> nn.Module:
    """``mimic``: up to three convolutions, and one wide hidden layer behind a linear bottleneck.

    For a table of n columns: ``in_channels=n, size=1, convs=0``.

    Taps: ``layer1`` ... (each convolution and then the hidden layer, after its ReLU), ``down1`` ... (the poolings),
    ``flat``, ``fc``.

    Args:
        convs: how many convolutions, 0 to 3, each with ReLU and max-pooling by 2.
        width: channels of each.
        kernel: side of their windows, an odd number.
        bottleneck: k, 1 or more; None: the hidden layer has its full matrix.  See `Bottleneck`.
        hidden: H, units of the hidden layer, 1 or more.
    """
    del name
    _whole("hidden", hidden)
    parts, features = _front(convs, width, kernel, channels, size)
    wide: nn.Module = nn.Linear(features, hidden)
    if bottleneck is not None:
        wide = Bottleneck(features, hidden, bottleneck)
    last = {f"layer{convs + 1}": nn.Sequential(wide, nn.ReLU())}
    model = row(**parts, flat=nn.Flatten(1), **last, fc=nn.Linear(hidden, classes))
    he_fan_out(model)
    return model


def _front(convs: int, width: int, kernel: int, channels: int, size: int) -> tuple[dict[str, nn.Module], int]:
    """The convolutions and poolings, and how many values are left behind them."""
    require(isinstance(convs, int) and 0 <= convs <= 3, "convs", convs, "0, 1, 2 or 3 convolutions")
    _whole("width", width)
    odd = isinstance(kernel, int) and kernel >= 1 and kernel % 2 == 1
    require(odd, "kernel", kernel, "an odd number of pixels, 1 or more")
    parts: dict[str, nn.Module] = {}
    for k in range(1, convs + 1):
        parts[f"layer{k}"] = nn.Sequential(conv(channels, width, kernel, bias=True), nn.ReLU())
        parts[f"down{k}"] = nn.MaxPool2d(2, ceil_mode=True)  # ceil: a single pixel stays one
        channels, size = width, (size + 1) // 2
    return parts, channels * size * size


def students(
    budget: int,
    *,
    convs: Sequence[int] = (0, 1, 2, 3),
    tolerance: float = 0.05,
    in_channels: int = 3,
    size: int = 32,
    classes: int = 10,
    width: int = 32,
) -> dict[str, dict[str, Any]]:
    """Options of `mimic` networks of equal size, one per number of convolutions.

    Of what the convolutions leave, the first matrix of the bottleneck gets half, and the hidden layer the rest.  Where a
    bottleneck would save nothing the hidden layer has its full matrix.

    Args:
        budget: parameters that each should have, biases included.
        convs: numbers of convolutions, each from 0 to 3.
        tolerance: how far a count may be from the budget, as a part of it, in (0, 1).
        in_channels: of the images.
        size: side of the images.
        classes: how many.
        width: channels of the convolutions.

    Returns:
        ``"convs_0"`` ... -> options for ``build("mimic", classes=..., in_channels=..., size=..., **options)``.

    Raises:
        HyperParameterError: a number is out of range, or a student cannot have that size.

    >>> found = students(300_000)
    >>> found["convs_0"]
    {'convs': 0, 'width': 32, 'bottleneck': 48, 'hidden': 2585}
    """
    for what, value in (("budget", budget), ("in_channels", in_channels), ("size", size), ("classes", classes)):
        _whole(what, value)
    require(0 < tolerance < 1, "tolerance", tolerance, "a part of the budget, in (0, 1)")
    require(len(convs) > 0 and len(set(convs)) == len(convs), "convs", convs, "numbers from 0 to 3, each once")
    found = {}
    for count in convs:
        options: dict[str, Any] = {"convs": count, "width": width}
        with torch.device("meta"):  # only counted
            front, features = _front(count, width, 5, in_channels, size)
            options["bottleneck"] = _half(budget - _count(*front.values()), features, classes)
            one, two = (_count(build("mimic", classes, in_channels, size, hidden=h, **options)) for h in (1, 2))
        hidden = max(1, round((budget - one) / (two - one)) + 1)
        total = one + (hidden - 1) * (two - one)
        if abs(total - budget) > tolerance * budget:
            raise HyperParameterError(
                f"budget = {budget:,}: a student with {count} convolution(s) of width {width} comes no nearer than "
                f"{total:,} parameters; try another budget, a smaller width, or a tolerance above {tolerance:g}"
            )
        found[f"convs_{count}"] = {**options, "hidden": hidden}
    return found


def _count(*parts: nn.Module) -> int:
    return sum(prod(p.shape) for part in parts for p in part.parameters())


def _half(budget: int, features: int, classes: int) -> int | None:
    """The bottleneck whose first matrix takes half the budget; None where it would save nothing."""
    k = budget // 2 // features
    if k < 1:
        return None
    hidden = budget / 2 / (k + 1 + classes)
    return k if k * (features + hidden) < features * hidden else None
