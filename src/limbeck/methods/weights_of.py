"""The layers of a student whose weights a method prunes while it trains them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from limbeck.errors import LimbeckError, NameUnknown, unknown

if TYPE_CHECKING:
    from torch import nn


def prunable(student: nn.Module, skip: Sequence[str]) -> dict[str, nn.Module]:
    """Linear layers and convolutions by path, with a weight of their own that is trained; a shared weight once.

    Args:
        student: the network, as its user gave it.
        skip: paths to leave out; ``*`` stands for anything.

    Raises:
        NameUnknown: an entry of ``skip`` fits none of these layers.
        LimbeckError: nothing is left.
    """
    from torch import nn

    from limbeck.taps import original, title

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for path, layer in original(student).named_modules():
        weight = layer._parameters.get("weight") if isinstance(layer, kinds) else None
        if weight is not None and weight.requires_grad and id(weight) not in seen:
            seen.add(id(weight))
            found[path] = layer
    for pattern in skip:
        if not any(fnmatchcase(path, pattern) for path in found):
            raise NameUnknown("skip: " + unknown("layer with weights", pattern, found, title(student)))
    left = {path: layer for path, layer in found.items() if not any(fnmatchcase(path, p) for p in skip)}
    if not left:
        raise LimbeckError(
            f"{title(student)} has no linear layer or convolution to prune whose weight is trained"
            + (f", but for those in skip ({', '.join(skip)})" if found else "")
        )
    return left
