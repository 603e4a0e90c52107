"""What a batch's inputs are: a tensor, or a mapping of such.  How many samples, and the same elsewhere or changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import LimbeckError


def batch_size(inputs: Any) -> int:
    """How many samples a batch has: the length of the first tensor found in it.

    Raises:
        LimbeckError: there is no tensor, or the batch is empty.
    """
    parts = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    for part in parts:
        if isinstance(part, Tensor) and part.ndim:
            if not len(part):
                raise LimbeckError("the batch is empty; one sample or more is needed")
            return len(part)
    raise LimbeckError(f"a {type(inputs).__name__} holds no batch; give a tensor [batch, ...] or a mapping of such")


def changed(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A tensor changed, or every tensor of a mapping, however deep; whatever else there is stays as it is."""
    if isinstance(value, Mapping):
        return {key: changed(part, change) for key, part in value.items()}
    return change(value) if isinstance(value, Tensor) else value


def moved(value: Any, device: torch.device) -> Any:
    """The same on a device."""
    return changed(value, lambda tensor: tensor.to(device))
