"""Reading masks, counting what they leave, and writing them into the weights for good."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress import parametrized
from limbeck.compress.masking.parts import Held, Learned, Masked


def masked_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, Masked]]:
    """The layers with a mask: path, layer, mask."""
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            for part in module.parametrizations["weight"].children():  # type: ignore[index, union-attr]
                if isinstance(part, Masked):
                    yield path, module, part


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a model by layer path: bool, in the weight's shape, True where a weight stays.  Copies."""
    return {path: part.mask.detach().clone() for path, _, part in masked_layers(model)}


def layer_densities(model: nn.Module) -> dict[str, float]:
    """Which part of each masked layer's weights stays, by layer path."""
    return {path: int(part.mask.sum()) / part.mask.numel() for path, _, part in masked_layers(model)}


def density(model: nn.Module) -> float:
    """Which part of the weights under masks stays, over all of them; 1 for a model without masks.

    Biases, normalisation and layers without a mask do not count.  What a settled model has no masks for any more counts as
    dense: count its zeros instead.
    """
    masks = [part.mask for _, _, part in masked_layers(model)]
    whole = sum(mask.numel() for mask in masks)
    return sum(int(mask.sum()) for mask in masks) / whole if whole else 1.0


def settle(model: nn.Module) -> nn.Module:
    """A plain model: masks written into the weights, as zeros, and gone.  The model that is given stays as it is.

    Other parametrizations stay.  Trained further, the zeros of a settled model move again.

    >>> from limbeck.compress.masks import Mask
    >>> import torch
    >>> masked = Mask(sparsity=0.5)(nn.Linear(4, 2), example=torch.zeros(1, 4))
    >>> plain = settle(masked)
    >>> sorted(plain.state_dict()), int((plain.weight == 0).sum())
    (['bias', 'weight'], 4)
    """
    new = copy.deepcopy(model)
    parametrized.settle(new, (Masked, Learned, Held))
    return new
