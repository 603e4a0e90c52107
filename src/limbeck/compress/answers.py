"""What a network answers, as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.attention import plain_attention
from limbeck.models.macs import as_found
from limbeck.randomness import own_random_numbers
from limbeck.taps import call


def tensors(output: Any) -> list[Tensor]:
    """Every tensor in what a model returned: in tuples, lists and mappings, and in the attributes of objects, however deep.

    >>> import torch
    >>> [list(t.shape) for t in tensors({"logits": torch.zeros(2, 10), "aux": (torch.zeros(2), None)})]
    [[2, 10], [2]]
    """
    found: list[Tensor] = []
    waiting, met = tree_leaves(output)[::-1], set[int]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor):
            found.append(part)
        elif not isinstance(part, (nn.Module, type)) and id(part) not in met:  # an object may hold itself
            met.add(id(part))
            waiting += tree_leaves(list(getattr(part, "__dict__", {}).values()))[::-1]
    return found


def output_of(model: nn.Module, example: Any) -> Any:
    """What a model answers in evaluation mode, uncompiled and always with the same random numbers; everything is put back.

    Two answers are comparable even where one is looked at through hooks: torch's fast path for transformer layers, which
    answers zeros at padded places, is off.
    """
    with (
        plain_attention(),
        as_found(model),
        torch.no_grad(),
        own_random_numbers(),
        torch.compiler.set_stance("force_eager"),
    ):
        torch.manual_seed(0)
        model.eval()
        return call(model, example)
