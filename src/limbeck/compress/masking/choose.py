"""Which weights stay: from scores and what is alive to masks, with exact counts and no layer emptied."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.errors import HyperParameterError, ShapeError
from limbeck.scores import lowest, std_mask


def portion(part: float, of: int) -> int:
    """How many of ``of`` are a part of them, rounded down (0.3 of 10 is 3, whatever binary fractions make of it)."""
    return math.floor(part * of + 1e-6)


def remove(scores: Tensor, alive: Tensor, count: int) -> Tensor:
    """The mask after the lowest ``count`` of the weights that are alive went; equal scores: the lower index goes first.

    Weights with a score of minus infinity go as well, and count.

    Args:
        scores: one per weight, in the weight's shape.
        alive: bool, likewise; weights that are gone already stay gone.
        count: how many go, zero or more.

    Returns:
        bool, in the weight's shape.

    Raises:
        ShapeError: the shapes differ.

    >>> remove(torch.tensor([0.5, 0.1, 0.1, 0.9]), torch.tensor([True, True, True, True]), 1).tolist()
    [True, False, True, True]
    """
    _require_one_shape("", scores, alive)
    places = alive.flatten().nonzero().flatten()
    mask = alive.flatten().clone()
    own = scores.flatten()[places]
    mask[places[lowest(own, min(count, len(places)))]] = False
    mask[places[own == -torch.inf]] = False
    return mask.reshape(alive.shape)


def remove_within(
    scores: Mapping[str, Tensor], alive: Mapping[str, Tensor], counts: Mapping[str, int]
) -> dict[str, Tensor]:
    """The masks after so many weights went from each layer.

    Raises:
        HyperParameterError: a layer would be left with no weight.
    """
    masks = {path: remove(scores[path], alive[path], counts[path]) for path in alive}
    for path, mask in masks.items():
        require_some(path, mask, alive[path])
    return masks


def remove_among(scores: Mapping[str, Tensor], alive: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The masks after the lowest ``count`` weights of all these layers together went.

    The best weight of every layer stays, whatever the others are worth, so that no layer is emptied; the count is exact.

    Raises:
        HyperParameterError: there are not so many weights to spare, or a layer has none that may stay.
    """
    for path in alive:
        _require_one_shape(path, scores[path], alive[path])
    spare = sum(int(mask.sum()) - 1 for mask in alive.values())
    if count > spare:
        raise HyperParameterError(
            f"{count} of {spare + len(alive)} weights cannot go: each of the {len(alive)} layers keeps one at least"
        )
    sizes = [alive[path].numel() for path in alive]
    raised = []
    for path, mask in alive.items():
        own = scores[path].flatten().masked_fill(~mask.flatten(), -torch.inf)
        best = int(own.argmax())
        if own[best] == -torch.inf:
            require_some(path, torch.zeros_like(mask), mask)
        own[best] = torch.inf
        raised.append(own)
    device = raised[0].device
    whole = torch.cat([own.to(device) for own in raised])
    every = torch.cat([mask.flatten().to(device) for mask in alive.values()])
    kept = remove(whole, every, count).split(sizes)
    return {
        path: part.reshape(alive[path].shape).to(alive[path].device) for path, part in zip(alive, kept, strict=True)
    }


def below_deviation(weights: Mapping[str, Tensor], alive: Mapping[str, Tensor], q: float) -> dict[str, Tensor]:
    """The masks without the weights smaller than ``q`` standard deviations of their layer's surviving weights.

    Raises:
        HyperParameterError: a layer would be left with no weight.
    """
    masks: dict[str, Tensor] = {}
    for path, mask in alive.items():
        masks[path] = mask.clone()
        masks[path][mask] = std_mask(weights[path][mask], q)
        require_some(path, masks[path], mask)
    return masks


def shuffled(mask: Tensor, seed: int) -> Tensor:
    """A mask with as many weights, at random places."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
    return mask.flatten()[order].reshape(mask.shape)


_LESS = "prune less, give that layer a share of its own, or leave it out with skip"


def require_some(path: str, mask: Tensor, alive: Tensor, remedy: str = _LESS) -> None:
    """Refuse a mask that leaves nothing of a layer."""
    if not bool(mask.any()):
        raise HyperParameterError(
            f"nothing would be left of layer {path!r} ({int(alive.sum())} of its {alive.numel()} weights are alive); {remedy}"
        )


def _require_one_shape(path: str, scores: Tensor, alive: Tensor) -> None:
    if scores.shape != alive.shape:
        where = f" of layer {path!r}" if path else ""
        raise ShapeError(
            f"the mask{where} has the shape {list(alive.shape)} and its weights {list(scores.shape)}; a mask has one entry "
            "for each weight"
        )
