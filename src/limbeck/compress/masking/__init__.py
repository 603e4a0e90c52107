"""Masks in a network: where they sit, which weights they keep, and how they come off again.

Importing this package imports no torch; asking it for a function does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.compress.masking.parts import Held, Learned, Masked
    from limbeck.compress.masking.state import density, layer_densities, masks_of, settle

_HOME = {
    "Held": "parts",
    "Learned": "parts",
    "Masked": "parts",
    "density": "state",
    "layer_densities": "state",
    "masks_of": "state",
    "settle": "state",
}

__all__ = ["Held", "Learned", "Masked", "density", "layer_densities", "masks_of", "settle"]

__getattr__, __dir__ = exports(__name__, _HOME)
