"""Zeros that a network keeps while it is trained: which weights they are, and putting them in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Scope = Literal["layer", "global"]


class Masks(nn.Module):
    """Keeps the largest weights of some layers, and sets the others to exactly zero.

    What is gone stays gone: a weight outside its mask is never chosen again.  The masks are buffers, so that a
    checkpoint has them.  The weights themselves are not part of this module; they are given to every call.

    Args:
        weights: what there will be masks for; only shapes and devices are looked at.
        scope: "layer": each layer keeps the same part of its weights; "global": the largest of all layers stay, and of
            each layer at least its largest.

    Example:
        >>> weight = nn.Parameter(torch.tensor([[3.0, -1.0], [2.0, -4.0]]))
        >>> Masks([weight])([weight], density=0.5)
        >>> weight.tolist()
        [[3.0, 0.0], [0.0, -4.0]]
    """

    def __init__(self, weights: Sequence[Tensor], *, scope: Scope = "layer") -> None:
        super().__init__()
        self.scope: Scope = scope
        self.settled: float | None = None  # the density that the masks have been chosen for, in this process
        for i, weight in enumerate(weights):
            self.register_buffer(f"mask{i}", torch.ones_like(weight, dtype=torch.bool))

    @property
    def masks(self) -> list[Tensor]:
        """The masks, bool, in the order of the weights; True: this weight stays."""
        return list(self.buffers())

    @torch.no_grad()
    def forward(self, weights: Sequence[Tensor], density: float | None = None) -> None:
        """Zero the weights outside the masks, in place; with a density, choose the masks anew before.

        Args:
            weights: in the order of the constructor's.
            density: the part of the weights that stays, in (0, 1].  Default None: the masks stay as they are.
        """
        if density is not None and density != self.settled:
            for mask, new in zip(self.masks, largest(weights, self.masks, density, self.scope), strict=True):
                mask.copy_(new)
            self.settled = density
        for weight, mask in zip(weights, self.masks, strict=True):
            weight.masked_fill_(~mask, 0.0)


def largest(weights: Sequence[Tensor], alive: Sequence[Tensor], density: float, scope: Scope) -> list[Tensor]:
    """The masks of the largest weights among those alive: ``round(density * n)`` of n, and at least one of each layer.

    Args:
        weights: of each layer.
        alive: bool, in their shapes.
        density: the part of all weights, dead ones included, that stays.
        scope: "layer" or "global"; see `Masks`.

    Returns:
        bool, in their shapes; among equals the higher index stays.

    >>> w, a = torch.tensor([1.0, -3.0, 2.0]), torch.ones(3, dtype=torch.bool)
    >>> largest([w], [a], 0.67, "layer")[0].tolist()
    [False, True, True]
    """
    sizes = [torch.where(a, w.detach().abs(), -1.0) for w, a in zip(weights, alive, strict=True)]
    if scope == "layer":
        return [_top(size.flatten(), density).reshape(size.shape) & a for size, a in zip(sizes, alive, strict=True)]
    flat = [size.flatten().clone() for size in sizes]
    for size in flat:
        size[size.argmax()] = torch.inf  # no layer is emptied
    chosen = _top(torch.cat(flat), density).split([len(size) for size in flat])
    return [mask.reshape(a.shape) & a for mask, a in zip(chosen, alive, strict=True)]


def _top(sizes: Tensor, density: float) -> Tensor:
    count = max(1, round(density * len(sizes)))
    mask = torch.ones_like(sizes, dtype=torch.bool)
    mask[torch.argsort(sizes, stable=True)[: len(sizes) - count]] = False
    return mask


@torch.no_grad()
def silence(weight: Tensor, filters: Tensor) -> None:
    """Set whole filters to zero, in place: ``weight[filters] = 0``.

    >>> weight = nn.Parameter(torch.ones(3, 2))
    >>> silence(weight, torch.tensor([1]))
    >>> weight.tolist()
    [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    """
    weight.index_fill_(0, filters.to(weight.device), 0.0)
