"""Smaller networks from big ones, and what they cost.

Calling the package is calling `limbeck.api.chain.compress`: ``limbeck.compress(model, [limbeck.Prune(keep=0.5)], batches)``.
Importing it imports no torch; neither does making a compressor.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from limbeck import catalog
from limbeck.lazy import exports, fetch

if TYPE_CHECKING:
    from limbeck.compress.binarize import Binarize as Binarize
    from limbeck.compress.factorize import Factorize as Factorize
    from limbeck.compress.lottery import LotteryTicket as LotteryTicket
    from limbeck.compress.lottery import Supermask as Supermask
    from limbeck.compress.masks import Mask as Mask
    from limbeck.compress.prune import Prune as Prune
    from limbeck.compress.quantize import Quantize as Quantize

_HOME = {entry.attribute: entry.module.rpartition(".")[2] for entry in catalog.COMPRESSORS}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = exports(__name__, _HOME)


class _Room(ModuleType):
    """``limbeck.compress`` is a room with names in it and the function of the same name at once."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return fetch("limbeck.api.chain", "compress")(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
