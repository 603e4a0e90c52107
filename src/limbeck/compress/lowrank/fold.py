"""The way back: rows of layers without anything between them, as one layer again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import NameUnknown, unknown
from limbeck.models.bottleneck import Bottleneck
from limbeck.models.bottleneck import fold as fold_bottleneck
from limbeck.models.swap import blank, copied, exchange
from limbeck.settings import names_of
from limbeck.taps import title

_NAMES = (("down", "up"), ("down", "core", "up"), ("vertical", "horizontal"), ("depthwise", "pointwise"))


def fold(model: nn.Module, layers: Sequence[str] = ()) -> nn.Module:
    """A new network in which factorized layers are dense ones again, with the product of their parts.

    Known by the names and kinds of their parts, so also after training and after loading (a part with hooks is no such part): rows as
    `limbeck.compress.lowrank.layers.split` makes them, and `limbeck.models.bottleneck.Bottleneck`.  The outputs are the
    same up to float rounding; the products are made in float64.

    Args:
        model: stays as it is.
        layers: names of factorized layers; none: all of them.

    Raises:
        NameUnknown: no such factorized layer.
        HyperParameterError: `layers` is one text instead of a list of them.

    >>> from limbeck.compress.lowrank.layers import split
    >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    >>> net[0] = split(net[0], "svd", (2,))
    >>> fold(net)
    Sequential(
      (0): Linear(in_features=8, out_features=6, bias=True)
      (1): ReLU()
      (2): Linear(in_features=6, out_features=4, bias=True)
    )
    """
    layers = names_of("layers", layers)
    new = copied(model)
    found = _rows(new)
    for name in layers:
        if name not in found:
            raise NameUnknown(unknown("factorized layer", name, found, title(model)))
    new = exchange(new, {part: dense(part) for name, part in found.items() if not layers or name in layers})
    while not layers and (found := _rows(new)):  # what was factorized twice
        new = exchange(new, {part: dense(part) for part in found.values()})
    return new


def _rows(model: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in model.named_modules() if isinstance(part, Bottleneck) or is_row(part)}


def is_row(part: nn.Module) -> bool:
    """Whether this is a row of plain layers that amounts to one: right names, and a bias only in the last one."""
    if type(part) is not nn.Sequential or tuple(part._modules) not in _NAMES:
        return False
    inner: list[Any] = list(part)
    names = tuple(part._modules)
    if any(p._forward_hooks or p._forward_pre_hooks for p in inner):  # they would be lost
        return False
    if any(p.bias is not None for p in inner[:-1] if isinstance(p, (nn.Linear, nn.Conv2d))):
        return False
    if all(type(p) is nn.Linear for p in inner):
        return names == ("down", "up")
    return all(type(p) is nn.Conv2d for p in inner) and _one_window(names, inner)


def dense(part: nn.Module) -> nn.Module:
    """The one layer that a row, or a `Bottleneck`, amounts to."""
    if isinstance(part, Bottleneck):
        return fold_bottleneck(part)
    assert isinstance(part, nn.Sequential)
    inner: list[Any] = list(part)
    last = inner[-1]
    weight = product(part)
    like: dict[str, Any] = {
        "bias": last.bias is not None,
        "device": last.weight.device,
        "dtype": last.weight.dtype,
    }
    if isinstance(last, nn.Linear):
        made: Any = blank(nn.Linear, weight.shape[1], weight.shape[0], **like)
    else:
        outside, inside, *window = weight.shape
        like.update(groups=last.groups, **_window(part))
        made = blank(nn.Conv2d, inside * last.groups, outside, tuple(window), **like)
    with torch.no_grad():
        made.weight.copy_(weight)
        if last.bias is not None:
            made.bias.copy_(last.bias)
            made.bias.requires_grad_(last.bias.requires_grad)
    made.weight.requires_grad_(any(p.weight.requires_grad for p in inner))
    return made.train(part.training)


def product(part: nn.Sequential) -> Tensor:
    """The weight of that layer, in float64."""
    inner: list[Any] = list(part)
    names = tuple(part._modules)
    weights = [_double(p.weight) for p in inner]
    if isinstance(inner[0], nn.Linear):
        return weights[1] @ weights[0]
    groups = inner[-1].groups
    per_group = zip(*(weight.chunk(groups) for weight in weights), strict=True)
    return torch.cat([_kernel(names, inner[0], *group) for group in per_group])


def _double(weight: Tensor) -> Tensor:
    weight = weight.detach()
    return (weight.cpu() if weight.device.type == "mps" else weight).double()


def _kernel(names: tuple[str, ...], first: nn.Conv2d, *weights: Tensor) -> Tensor:
    if names == ("down", "up"):
        down, up = weights
        return torch.einsum("or,rihw->oihw", up.flatten(1), down)
    if names == ("down", "core", "up"):
        down, core, up = weights
        return torch.einsum("op,pqhw,qi->oihw", up.flatten(1), core, down.flatten(1))
    if names == ("vertical", "horizontal"):
        vertical, horizontal = weights
        return torch.einsum("orw,rih->oihw", horizontal.squeeze(2), vertical.squeeze(3))
    kernels, mixing = weights
    k = first.out_channels // first.in_channels
    kernels = kernels.squeeze(1).unflatten(0, (-1, k))
    return torch.einsum("oik,ikhw->oihw", mixing.flatten(1).unflatten(1, (-1, k)), kernels)


def _window(part: nn.Sequential) -> dict[str, Any]:
    """Stride, padding and dilation of the row as a whole."""
    inner: list[Any] = list(part)
    if "vertical" in part._modules:
        vertical, horizontal = inner
        merged = {key: (getattr(vertical, key)[0], getattr(horizontal, key)[1]) for key in ("stride", "dilation")}
        padding = vertical.padding
        if not isinstance(padding, str):
            padding = (vertical.padding[0], horizontal.padding[1])
        return {**merged, "padding": padding, "padding_mode": vertical.padding_mode}
    looks = inner[1] if "core" in part._modules else inner[0]
    return {key: getattr(looks, key) for key in ("stride", "padding", "dilation", "padding_mode")}


def _one_window(names: tuple[str, ...], inner: list[nn.Conv2d]) -> bool:
    """Whether convolutions in a row amount to one: only one of them looks around, or each along its own axis."""
    groups = inner[-1].groups
    if names == ("depthwise", "pointwise"):
        return inner[0].groups == inner[0].in_channels and _mixes(inner[1])
    if any(conv.groups != groups for conv in inner):
        return False
    if names == ("vertical", "horizontal"):
        vertical, horizontal = inner
        alike = vertical.padding_mode == horizontal.padding_mode
        texts = [conv.padding for conv in inner if isinstance(conv.padding, str)]
        alike = alike and (not texts or texts[0] == vertical.padding == horizontal.padding)
        return alike and _flat(vertical, 1) and _flat(horizontal, 0)
    return _mixes(inner[-1]) and (len(inner) == 2 or _mixes(inner[0]))


def _mixes(conv: nn.Conv2d) -> bool:
    return _flat(conv, 0) and _flat(conv, 1)


def _flat(conv: nn.Conv2d, axis: int) -> bool:
    """Whether a convolution does nothing along an axis but look at every place."""
    still = isinstance(conv.padding, str) or conv.padding[axis] == 0
    return still and conv.kernel_size[axis] == 1 and conv.stride[axis] == 1
