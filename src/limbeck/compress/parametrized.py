"""Taking parametrizations off a module for good."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize


def settle(model: nn.Module, kinds: tuple[type, ...] = (nn.Module,)) -> None:
    """Write every parametrized tensor of a model out as what it is now, in place; those with other kinds stay.

    ``parametrize.remove_parametrizations`` takes the tensor's name from the module's class, which a deep copy shares with
    the network that it was copied from: that network would lose its weight.  Here the class is left as it is.

    Args:
        model: changed in place.
        kinds: which parametrizations; a tensor is settled where all of its own are of these.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _settle(module, kinds)


def _settle(module: nn.Module, kinds: tuple[type, ...]) -> None:
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    names = [name for name, chain in lists.items() if all(isinstance(one, kinds) for one in chain.children())]
    with torch.no_grad():
        values = {name: (getattr(module, name).detach().clone(), _trained(lists[name])) for name in names}
    left = [name for name in lists if name not in values]
    chains = {name: lists[name] for name in left}
    if left:  # the others need a class with their names only: torch makes it when they are registered again
        _strip(module)
        for name, chain in chains.items():
            _again(module, name, chain)
    else:
        _strip(module)
    for name, (value, trained) in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=trained))


def _trained(chain: nn.Module) -> bool:
    return any(p.requires_grad for name, p in chain.named_parameters(recurse=False) if name.startswith("original"))


def _strip(module: nn.Module) -> None:
    module.__class__ = type(module).__mro__[1]
    del module._modules["parametrizations"]


def _again(module: nn.Module, name: str, chain: nn.Module) -> None:
    original = getattr(chain, "original", None)
    if original is None:
        raise ValueError(f"{name} is parametrized by several tensors, and cannot stay so when another one is settled")
    module.register_parameter(name, original)
    for one in chain.children():
        parametrize.register_parametrization(module, name, one, unsafe=True)
