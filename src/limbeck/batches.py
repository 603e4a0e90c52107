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


def resized(inputs: Any, size: int) -> Any:
    """A batch of so many samples: the first ones, over again where there are too few.

    What has no samples (a scale, a mask of positions) stays as it is.

    >>> resized(torch.tensor([[1.0], [2.0]]), 3).flatten().tolist()
    [1.0, 2.0, 1.0]
    """
    had = batch_size(inputs)

    def fit(part: Tensor) -> Tensor:
        if not part.ndim or len(part) != had:
            return part
        return part[:size] if size <= had else part[torch.arange(size, device=part.device) % had]

    return changed(inputs, fit)
