"""One layer as a row of smaller ones, which stand where it stood."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.lowrank.spatial import spatial
from limbeck.compress.lowrank.svd import svd_linear
from limbeck.compress.lowrank.tucker import tucker2
from limbeck.errors import TensorTypeError
from limbeck.models.dominant_kernels import dominant
from limbeck.models.parts import row
from limbeck.models.swap import blank
from limbeck.settings import require, require_choice

KINDS = ("svd", "tucker", "spatial", "dominant")


def split(layer: nn.Conv2d | nn.Linear, kind: str, ranks: tuple[int, ...]) -> nn.Sequential:
    """A layer as two or three plain ones that come near to it; the layer itself is not changed.

    - a linear layer, "svd": ``down``, ``up``;
    - a convolution, "svd": ``down`` (the window, to few channels), ``up`` (1x1);
    - "tucker": ``down`` (1x1), ``core`` (the window), ``up`` (1x1);
    - "spatial": ``vertical`` (h x 1), ``horizontal`` (1 x w);
    - "dominant": ``depthwise`` (a few kernels per channel), ``pointwise`` (1x1).

    The last one has the bias.  Stride, padding (of any mode), dilation, dtype, device, mode and ``requires_grad`` are
    the layer's.  The groups of a grouped convolution stay apart, each with these ranks.

    Args:
        layer: an `nn.Linear` or `nn.Conv2d`.
        kind: see above.
        ranks: ``(rank,)``, for "tucker" ``(r_in, r_out)``, for "dominant" kernels per channel; per group.

    Raises:
        TensorTypeError: another kind of layer.
        HyperParameterError: an unknown kind, or a rank below 1.

    >>> [(n, tuple(p.weight.shape)) for n, p in split(nn.Conv2d(6, 8, 3), "tucker", (2, 4)).named_children()]
    [('down', (2, 6, 1, 1)), ('core', (4, 2, 3, 3)), ('up', (8, 4, 1, 1))]
    """
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        raise TensorTypeError(f"an nn.Linear or nn.Conv2d can be split, a {type(layer).__name__} cannot")
    require_choice("kind", kind, KINDS)
    require(len(ranks) == (2 if kind == "tucker" else 1), "ranks", ranks, "two for tucker, one for the others")
    if isinstance(layer, nn.Linear):
        require(kind == "svd", "kind", kind, "a linear layer has the kind svd")
        down, up = svd_linear(layer.weight, ranks[0])
        return _finished(layer, down=_linear(down), up=_linear(up, layer.bias))
    if kind == "dominant":
        return _finished(layer, **dict(dominant(layer, ranks[0]).named_children()))
    parts = {"svd": _svd, "tucker": _tucker, "spatial": _spatial}[kind](layer, *ranks)
    return _finished(layer, **parts)


def _svd(conv: nn.Conv2d, rank: int) -> dict[str, nn.Module]:
    found = [svd_linear(kernel.flatten(1), rank) for kernel in _groups(conv)]
    down = torch.cat([down.unflatten(1, conv.weight.shape[1:]) for down, _ in found])
    up = torch.cat([up for _, up in found])[..., None, None]
    return {"down": _conv(down, conv, **_window(conv)), "up": _conv(up, conv, bias=conv.bias)}


def _tucker(conv: nn.Conv2d, r_in: int, r_out: int) -> dict[str, nn.Module]:
    found = [tucker2(kernel, r_in, r_out) for kernel in _groups(conv)]
    down = torch.cat([inside.T for inside, _, _ in found])[..., None, None]
    core = torch.cat([core for _, core, _ in found])
    up = torch.cat([outside for _, _, outside in found])[..., None, None]
    return {
        "down": _conv(down, conv),
        "core": _conv(core, conv, **_window(conv)),
        "up": _conv(up, conv, bias=conv.bias),
    }


def _spatial(conv: nn.Conv2d, rank: int) -> dict[str, nn.Module]:
    found = [spatial(kernel, rank) for kernel in _groups(conv)]
    vertical = torch.cat([vertical for vertical, _ in found])
    horizontal = torch.cat([horizontal for _, horizontal in found])
    return {
        "vertical": _conv(vertical, conv, **_window(conv, axis=0)),
        "horizontal": _conv(horizontal, conv, bias=conv.bias, **_window(conv, axis=1)),
    }


def _groups(conv: nn.Conv2d) -> tuple[Tensor, ...]:
    return conv.weight.detach().chunk(conv.groups)


def _window(conv: nn.Conv2d, axis: int | None = None) -> dict[str, Any]:
    """Where a convolution looks; along one axis only, if one is given."""
    padding: Any = conv.padding
    stride, dilation = conv.stride, conv.dilation
    if axis is not None:
        stride = tuple(n if i == axis else 1 for i, n in enumerate(stride))
        dilation = tuple(n if i == axis else 1 for i, n in enumerate(dilation))
        if not isinstance(padding, str):  # "same" and "valid" mean the right thing for a window of 1
            padding = tuple(n if i == axis else 0 for i, n in enumerate(padding))
    return {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": conv.padding_mode}


def _conv(weight: Tensor, like: nn.Conv2d, *, bias: Tensor | None = None, **options: Any) -> nn.Conv2d:
    outside, inside, *window = weight.shape
    made = blank(
        nn.Conv2d,
        inside * like.groups,
        outside,
        tuple(window),
        groups=like.groups,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
        **options,
    )
    return _filled(made, weight, bias)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    outside, inside = weight.shape
    made = blank(nn.Linear, inside, outside, bias=bias is not None, device=weight.device, dtype=weight.dtype)
    return _filled(made, weight, bias)


def _filled(made: Any, weight: Tensor, bias: Tensor | None) -> Any:
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
            made.bias.requires_grad_(bias.requires_grad)
    return made


def _finished(layer: nn.Conv2d | nn.Linear, **parts: Any) -> nn.Sequential:
    for part in parts.values():
        part.weight.requires_grad_(layer.weight.requires_grad)
    made = row(**parts).train(layer.training)
    weight = layer.weight
    if weight.ndim == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
        made.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return made
