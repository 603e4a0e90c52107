"""Modules of a network that is ours to change, put in the place of others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from limbeck.models.swap import refer_anew


def exchange(model: nn.Module, others: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put other modules in the places of some, at every path where they stand; the model changes, and is returned.

    >>> net = nn.Sequential(nn.ReLU(), nn.Flatten())
    >>> exchange(net, {net[0]: nn.Tanh()})
    Sequential(
      (0): Tanh()
      (1): Flatten(start_dim=1, end_dim=-1)
    )
    """
    if model in others:
        return others[model]
    for path, part in list(model.named_modules(remove_duplicate=False)):
        if part in others:
            outer, _, name = path.rpartition(".")
            setattr(model.get_submodule(outer), name, others[part])
    refer_anew(model, others)
    return model
