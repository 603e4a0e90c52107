"""Which layers of a network can be factorized, what runs through them, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.answers import output_of
from limbeck.hooks import hooked

# They read the weights of their linear layers themselves, past these layers' own forward.
_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
_OTHERS = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.RNNBase, nn.Bilinear)


@dataclass(frozen=True)
class Call:
    """One use of a layer in a forward: the shapes of its input and output, dtype and order of the input in memory."""

    inside: tuple[int, ...]
    outside: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool


@dataclass(frozen=True)
class Layer:
    """A layer that can be factorized: its name, the module, and how it was used on the example."""

    name: str
    module: Any  # nn.Conv2d | nn.Linear
    calls: tuple[Call, ...]


def left_alone(model: nn.Module) -> dict[str, str]:
    """Names of layers that must not be exchanged, and why, in words that follow "is left alone: "."""
    owners: dict[int, set[int]] = {}
    for part in model.modules():
        for tensor in part._parameters.values():
            if tensor is not None:
                owners.setdefault(id(tensor), set()).add(id(part))
    inside = {id(p): outer for outer in model.modules() if isinstance(outer, _READERS) for p in outer.children()}
    found: dict[str, str] = {}
    for name, part in model.named_modules():
        if isinstance(part, nn.MultiheadAttention):
            found[name] = "the matrices of nn.MultiheadAttention are packed in one parameter, which it reads itself"
        elif isinstance(part, (nn.Conv2d, nn.Linear)):
            why = _why(part, owners, inside.get(id(part)))
            if why is not None:
                found[name] = why
        elif isinstance(part, _OTHERS):
            found[name] = f"a {type(part).__name__}; only nn.Linear and nn.Conv2d can be factorized"
    return found


def _why(part: nn.Module, owners: Mapping[int, set[int]], reader: nn.Module | None) -> str | None:
    if parametrize.is_parametrized(part):
        return "it is parametrized, and its weight made anew in every forward (parametrize.remove_parametrizations)"
    if reader is not None:
        return f"nn.{type(reader).__name__} reads its weight directly"
    if type(part) not in (nn.Conv2d, nn.Linear):
        return f"a {type(part).__name__}, whose forward may do more than that of the class it comes from"
    weight = part._parameters.get("weight")
    if weight is None:
        return "its weight is no parameter but made anew in every forward (weight norm, a mask)"
    if not weight.is_floating_point():
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}"
    if any(len(owners[id(p)]) > 1 for p in part._parameters.values() if p is not None):
        return "it shares a parameter with another layer, and factorized they would part"
    if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
        return "it carries hooks, which would be lost"
    return None


def watched(model: nn.Module, example: Any) -> tuple[Any, dict[str, list[Call]]]:
    """One forward in evaluation mode: its output, and how each linear layer and convolution was used.

    Everything is put back: modes, buffers, hooks, torch's random state.
    """
    parts = {part: name for name, part in model.named_modules() if type(part) in (nn.Conv2d, nn.Linear)}
    calls: dict[str, list[Call]] = {name: [] for name in parts.values()}

    def note(part: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        x = args[0] if args else keywords["input"]
        last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        calls[parts[part]].append(Call(tuple(x.shape), tuple(output.shape), x.dtype, last))

    hooks = [part.register_forward_hook(note, with_kwargs=True) for part in parts]
    with hooked(hooks):
        return output_of(model, example), calls
