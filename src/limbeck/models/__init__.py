"""The zoo: networks by name.

Importing this package imports no torch, so that a recipe's names can be checked in a blink; asking it for `build`
and the other functions that touch a network does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports
from limbeck.models.names import names, problem

if TYPE_CHECKING:
    from limbeck.models.byname import ZooEntry, build, zoo
    from limbeck.models.macs import count_macs
    from limbeck.models.weights import load_weights, save_weights

_HOME = {
    "ZooEntry": "byname",
    "build": "byname",
    "zoo": "byname",
    "count_macs": "macs",
    "load_weights": "weights",
    "save_weights": "weights",
}

__all__ = ["ZooEntry", "build", "count_macs", "load_weights", "names", "problem", "save_weights", "zoo"]

__getattr__, __dir__ = exports(__name__, _HOME)
