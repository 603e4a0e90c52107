"""A network as it is used when it is trained no further."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.binary.layers import KINDS
from limbeck.compress.binary.settling import settle as signs_written
from limbeck.compress.parametrized import settle
from limbeck.models.swap import copied
from limbeck.randomness import own_random_numbers


def plain(model: nn.Module) -> nn.Module:
    """The network with nothing left that only training needs; the network itself, no copy, where nothing is.

    Masks and other parametrizations are applied in every forward, and binary weights made from latent ones.  Here they
    are written out as what they come to: the outputs in evaluation mode are the same to the last bit, and take less time.

    Raises:
        LimbeckError: it has to be copied and cannot be.

    >>> import torch
    >>> from limbeck.compress.binary import BinaryLinear
    >>> plain(nn.Sequential(BinaryLinear(in_features=4, out_features=2, form="bwn")))
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    computed = any(parametrize.is_parametrized(part) for part in model.modules())
    signs = any(isinstance(part, KINDS) and not part.made["settled"] for part in model.modules())
    if not computed and not signs:
        return model
    with own_random_numbers():
        model = _as_in_evaluation(copied(model)) if computed else model
        return signs_written(model) if signs else model


def _as_in_evaluation(model: nn.Module) -> nn.Module:
    """The model itself, every parametrized tensor written out; each part stays in its mode."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()  # in training a mask may be drawn, and a norm iterated, whenever a weight is looked at
    settle(model)
    for part, mode in modes:
        part.training = mode
    return model


def plain_copy(model: nn.Module) -> nn.Module:
    """The same, and always a copy.

    Raises:
        LimbeckError: it cannot be copied.

    >>> net = nn.Sequential(nn.Linear(2, 1))
    >>> plain_copy(net) is net
    False
    """
    new = plain(model)
    return copied(model) if new is model else new
