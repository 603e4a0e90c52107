"""Networks of signs: the formulas, the layers, and their storage in one bit per weight.

Importing this package imports no torch; asking it for a name does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.compress.binary.layers import BinaryConv, BinaryLinear
    from limbeck.compress.binary.packing import pack, packed_bytes, packed_dot, unpack
    from limbeck.compress.binary.settling import settle

_HOME = {
    "BinaryConv": "layers",
    "BinaryLinear": "layers",
    "pack": "packing",
    "packed_bytes": "packing",
    "packed_dot": "packing",
    "settle": "settling",
    "unpack": "packing",
}

__all__ = ["BinaryConv", "BinaryLinear", "pack", "packed_bytes", "packed_dot", "settle", "unpack"]

__getattr__, __dir__ = exports(__name__, _HOME)
