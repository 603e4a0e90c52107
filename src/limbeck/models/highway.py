"""Highway networks with shared gates (HDNN; Lu, Guo, Renals: ICASSP 2017, after Srivastava et al. 2015).

A hidden layer is ``h' = sigmoid(W h + b) * T(h) + h * C(h)`` with the gates ``T(h) = sigmoid(W_T h + b_T)`` and
``C(h) = sigmoid(W_C h + b_C)``.  All hidden layers share the gates, and C is not tied to 1 - T: the gates have
``2 (H^2 + H)`` parameters, however deep the network is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import ShapeError
from limbeck.settings import require, require_choice


class HighwayLayer(nn.Module):
    """What one layer has of its own: ``act(W h + b) * transform + h * carry``; everything ``[B, H]``.

    W and b are parameters of this module, not of one inside it: so the only thing to tap is the sum.

    >>> import torch
    >>> layer, h = HighwayLayer(4), torch.randn(2, 4)
    >>> zero, one = torch.zeros(2, 4), torch.ones(2, 4)
    >>> torch.equal(layer(h, transform=zero, carry=one), h)
    True
    """

    def __init__(self, width: int, activation: Literal["sigmoid", "relu"] = "sigmoid") -> None:
        super().__init__()
        self.relu = activation == "relu"
        self.weight = nn.Parameter(torch.empty(width, width))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.weight, 0.0, ((2.0 if self.relu else 1.0) / width) ** 0.5)

    def forward(self, h: Tensor, transform: Tensor, carry: Tensor) -> Tensor:
        a = F.linear(h, self.weight, self.bias)
        return (F.relu(a) if self.relu else torch.sigmoid(a)) * transform + h * carry


class Highway(nn.Module):
    """The whole network: ``[B, inputs]``, or anything that flattens to it, to scores ``[B, classes]``.

    The gates are parameters of the network itself (``transform_weight``, ``transform_bias``, ``carry_weight``,
    ``carry_bias``) and not a module, since a module that runs once per layer could not be tapped.

    Raises:
        ShapeError: the input does not flatten to ``inputs`` columns.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        layers: int = 10,
        width: int = 64,
        activation: Literal["sigmoid", "relu"] = "sigmoid",
        gate_bias: float = -1.0,
    ) -> None:
        super().__init__()
        self.inputs, self.depth = inputs, layers
        self.flat = nn.Flatten(1)
        self.project: nn.Linear | None = nn.Linear(inputs, width) if inputs != width else None
        self.transform_weight = nn.Parameter(torch.empty(width, width))
        self.transform_bias = nn.Parameter(torch.full((width,), float(gate_bias)))
        self.carry_weight = nn.Parameter(torch.empty(width, width))
        self.carry_bias = nn.Parameter(torch.full((width,), -float(gate_bias)))
        for gate in (self.transform_weight, self.carry_weight):
            nn.init.normal_(gate, 0.0, width**-0.5)
        for k in range(1, layers + 1):
            self.add_module(f"layer{k}", HighwayLayer(width, activation))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.flat(x)
        if h.shape[1] != self.inputs:
            raise ShapeError(f"this highway network takes {self.inputs} values per sample, not {[*x.shape]}")
        if self.project is not None:
            h = self.project(h)
        for k in range(1, self.depth + 1):
            transform = torch.sigmoid(F.linear(h, self.transform_weight, self.transform_bias))
            carry = torch.sigmoid(F.linear(h, self.carry_weight, self.carry_bias))
            h = self.get_submodule(f"layer{k}")(h, transform, carry)
        return self.fc(h)


def build(
    name: str,
    classes: int,
    channels: int,
    size: int,
    *,
    layers: int = 10,
    width: int = 64,
    activation: Literal["sigmoid", "relu"] = "sigmoid",
    gate_bias: float = -1.0,
) -> nn.Module:
    """``highway``, on the flattened input.  For a table of n columns: ``in_channels=n, size=1``.

    Taps: ``flat``, ``project`` (linear; only where the input is not ``width`` wide already), ``layer1`` ... (the sums
    behind the gates), ``fc``.

    Args:
        layers: how many hidden layers share the gates, 1 or more.
        width: H, units of each, 1 or more.
        activation: of the hidden layers, "sigmoid" (the paper) or "relu".
        gate_bias: the transform gate's bias at the start, and minus the carry gate's.  Below 0 the layers begin by
            passing on more than they add, without which many layers learn slowly (Srivastava et al.).  The value is
            ours.
    """
    del name
    for what, value in (("layers", layers), ("width", width)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        require(whole and value >= 1, what, value, "a whole number, 1 or more")
    require_choice("activation", activation, ("sigmoid", "relu"))
    require(-100 <= gate_bias <= 100, "gate_bias", gate_bias, "a number from -100 to 100")
    inputs = channels * size * size
    return Highway(inputs, classes, layers=layers, width=width, activation=activation, gate_bias=gate_bias)
