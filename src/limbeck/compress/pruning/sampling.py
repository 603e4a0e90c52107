"""What goes into a layer at a few places of each sample: the patches from which it computes its responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck.errors import LimbeckError

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def can_sample(layer: nn.Module) -> bool:
    """Whether a layer is one whose responses are products of weights and patches."""
    return isinstance(layer, (nn.Linear, *_CONVS))


def weight_of(layer: nn.Module) -> nn.Parameter:
    """The weight of a layer, where a type checker believes that it is one."""
    weight = layer.weight
    return weight  # pyright: ignore[reportReturnType]  (a plain tensor under a parametrization)


def dense(layer: nn.Module) -> Tensor:
    """The weights of a layer as ``[out, in, positions of the kernel]``, with zeros where a group sees nothing."""
    weight = weight_of(layer).detach()
    if isinstance(layer, nn.Linear):
        return weight.unsqueeze(2)
    groups, out = _conv(layer).groups, weight.shape[0]
    flat = weight.flatten(2)
    if groups == 1:
        return flat
    whole = flat.new_zeros(out, flat.shape[1] * groups, flat.shape[2])
    for g in range(groups):
        rows = slice(g * out // groups, (g + 1) * out // groups)
        whole[rows, g * flat.shape[1] : (g + 1) * flat.shape[1]] = flat[rows]
    return whole


def places(layer: nn.Module, inputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of the layer's output, ``count`` drawn for each sample (fewer where there are fewer).

    Returns:
        int64 ``[samples, count]`` on the CPU, flat indices into the output's positions.
    """
    n = math.prod(_output_size(layer, inputs))
    if n <= count:
        return torch.arange(n).expand(len(inputs), n)
    return torch.rand(len(inputs), n, generator=generator).topk(count, 1).indices.sort(1).values


def patches(layer: nn.Module, inputs: Tensor, where: Tensor) -> Tensor:
    """What the layer sees at these positions: ``[samples * count, in, positions of the kernel]``.

    ``einsum("sik,oik->so", patches, dense(layer))`` is what it answers there, without its bias.
    """
    where = where.to(inputs.device)
    rows = torch.arange(len(inputs), device=inputs.device).unsqueeze(1)
    if isinstance(layer, nn.Linear):
        flat = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        return flat[rows, where].reshape(-1, inputs.shape[-1], 1)
    conv = _conv(layer)
    x = functional.pad(inputs, _padding(conv), mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)
    at = _unravel(where, _output_size(layer, inputs))
    seen = []
    for offset in product(*(range(k) for k in conv.kernel_size)):
        index = [a * s + o * d for a, s, o, d in zip(at, conv.stride, offset, conv.dilation, strict=True)]
        seen.append(x[(rows, slice(None), *index)])  # [samples, count, in]: the indices come first
    return torch.stack(seen, 3).flatten(0, 1)


def responses(layer: nn.Module, output: Tensor, where: Tensor) -> Tensor:
    """What the layer answered at these positions, without its bias: ``[samples * count, out]``."""
    where = where.to(output.device)
    flat = output if isinstance(layer, nn.Linear) else output.movedim(1, -1)
    flat = flat.reshape(len(output), -1, flat.shape[-1])
    rows = torch.arange(len(output), device=output.device).unsqueeze(1)
    found = flat[rows, where].flatten(0, 1)
    bias = layer.bias
    return found - bias.detach() if isinstance(bias, Tensor) else found


def _conv(layer: nn.Module) -> nn.Conv2d:
    if not isinstance(layer, _CONVS):
        raise LimbeckError(
            f"patches can be taken from a convolution or a linear layer, and this is a {type(layer).__name__}"
        )
    return layer  # pyright: ignore[reportReturnType]  (what is read of it, all of them have)


def _padding(conv: nn.Conv2d) -> list[int]:
    """As `torch.nn.functional.pad` wants it: the last dimension first, before and after."""
    if conv.padding == "valid":
        return [0] * 2 * len(conv.kernel_size)
    if conv.padding == "same":
        whole = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        sides = [(n // 2, n - n // 2) for n in whole]
    else:
        sides = [(int(p), int(p)) for p in conv.padding]
    return [n for side in reversed(sides) for n in side]


def _output_size(layer: nn.Module, inputs: Tensor) -> Sequence[int]:
    if isinstance(layer, nn.Linear):
        return tuple(inputs.shape[1:-1]) or (1,)
    conv = _conv(layer)
    pads = _padding(conv)
    dims = len(conv.kernel_size)
    both = [pads[2 * i] + pads[2 * i + 1] for i in reversed(range(dims))]
    return [
        (size + pad - d * (k - 1) - 1) // s + 1
        for size, pad, d, k, s in zip(inputs.shape[2:], both, conv.dilation, conv.kernel_size, conv.stride, strict=True)
    ]


def _unravel(flat: Tensor, size: Sequence[int]) -> list[Tensor]:
    """The coordinates of flat indices."""
    found: list[Tensor] = []
    for n in reversed(size):
        found.append(flat % n)
        flat = flat // n
    return found[::-1]
