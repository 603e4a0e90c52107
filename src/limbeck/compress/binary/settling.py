"""A binary network as one of ordinary numbers, for export."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from limbeck.compress.binary import functions as f
from limbeck.compress.binary.layers import KINDS, BinaryConv, BinaryLinear
from limbeck.errors import LimbeckError
from limbeck.taps import title

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def settle(model: nn.Module) -> nn.Module:
    """A copy in which the binary weights are written out: +1 and -1, or +alpha and -alpha.

    Its outputs in eval mode are those of the model, to the last bit.  Layers with a real input and nothing behind them become torch's
    own; the others keep their class, since torch has no layer that takes signs.  For export and for looking at: training
    would move these weights away from signs.

    Raises:
        LimbeckError: no layer is binary.

    >>> from limbeck.compress.binary import BinaryLinear
    >>> net = nn.Sequential(BinaryLinear(in_features=4, out_features=2, form="bwn"))
    >>> plain = settle(net)
    >>> type(plain[0]).__name__, plain[0].weight.abs().unique(dim=1).shape[1]
    ('Linear', 1)
    """
    if not any(isinstance(part, KINDS) for part in model.modules()):
        raise LimbeckError(f"{title(model)} has no binary layer to settle")
    new = copy.deepcopy(model)
    made: dict[int, nn.Module] = {}
    for part in list(new.modules()):
        for name, child in part._modules.items():
            if isinstance(child, KINDS):
                part._modules[name] = made.setdefault(id(child), _settled(child))
    return _settled(new) if isinstance(new, KINDS) else new


def _settled(layer: BinaryConv | BinaryLinear) -> nn.Module:
    if layer.made["settled"]:
        return layer
    values = f.sign(layer.weight) if layer.made["form"] == "bnn" else f.scaled_signs(layer.weight)
    plain = layer.made["real_input"] and not layer.made["norm_after"]
    new: Any = _torch(layer) if plain else type(layer)(**{**layer.made, "settled": True})
    new.to(layer.weight.device, layer.weight.dtype)
    if not plain:
        new.before, new.after = layer.before, layer.after
    new.weight, new.bias = nn.Parameter(values, requires_grad=layer.weight.requires_grad), layer.bias
    return new.train(layer.training)


def _torch(layer: BinaryConv | BinaryLinear) -> nn.Module:
    made = layer.made
    with torch.random.fork_rng(devices=()):
        if isinstance(layer, BinaryLinear):
            return nn.Linear(made["in_features"], made["out_features"], made["bias"])
        padding = made["padding"] if isinstance(made["padding"], str) else tuple(made["padding"])
        return _CONVOLUTIONS[made["dims"]](
            made["in_channels"],
            made["out_channels"],
            tuple(made["kernel_size"]),
            tuple(made["stride"]),
            padding,
            tuple(made["dilation"]),
            made["groups"],
            made["bias"],
            made["padding_mode"],
        )
