"""Layers of which a forward wants to know what they are: no other kind of layer can stand in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batches import changed
from limbeck.compress.answers import output_of, tensors
from limbeck.models.swap import copied, exchange

ASKED = "the forward asks what kind of layer it is, or what it has, and would compute something else with another in its place"


def asked_about(
    model: nn.Module, names: Sequence[str], example: Any, stand: Callable[[nn.Module], nn.Module]
) -> list[str]:
    """Those of the layers without which the network computes something else, though what stands for them calls them.

    A forward that says ``if isinstance(layer, nn.Linear)`` goes another way when a row of layers stands there, however well
    it fits.

    Args:
        model: stays as it is: copies run, in eval mode.
        names: of the layers.
        example: a batch as the model takes it.
        stand: from a layer to a module of another kind, which calls it.

    >>> class Asks(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])
    ...     def forward(self, x):
    ...         first, last = self.parts
    ...         x = first(x)
    ...         return last(x.relu() if isinstance(first, nn.Linear) else x)
    >>> asked_about(Asks(), ["parts.0", "parts.1"], torch.randn(3, 4), nn.Sequential)
    ['parts.0']
    """

    def alike(some: Sequence[str]) -> bool:
        new = copied(model)
        new = exchange(new, {part: stand(part) for part in map(new.get_submodule, some)})
        try:
            return _same(before, _answers(new, example))
        except Exception:  # it reads something of the layer that what stands there does not have
            return False

    if not names:
        return []
    before = _answers(copied(model), example)
    if alike(names):
        return []
    return [name for name in names if not alike([name])] or list(names)


class Stand(nn.Module):
    """A module of no kind that a forward could ask about, which calls a layer and has all that the layer has."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer answers."""
        return self.layer(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["layer"], name)


def _answers(model: nn.Module, example: Any) -> list[Tensor]:
    return tensors(output_of(model, changed(example, Tensor.clone)))  # a forward may write into its inputs


def _same(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    pairs = list(zip(before, after, strict=False))
    return len(before) == len(after) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-6, equal_nan=True)
        for a, b in pairs
        if not a.is_complex()
    )
