"""A network as it is used when it is trained no further."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.binary.layers import KINDS
from limbeck.compress.binary.settling import settle as signs_written
from limbeck.compress.parametrized import settle
from limbeck.models.swap import copied


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
    if any(parametrize.is_parametrized(part) for part in model.modules()):
        model = copied(model)
        settle(model)
    signs = any(isinstance(part, KINDS) and not part.made["settled"] for part in model.modules())
    return signs_written(model) if signs else model


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
