"""Every method: a frozen dataclass of one paper's hyper-parameters.

Importing this package imports no torch; neither does making a method.  Torch comes in when a
method is asked for its phases.  The names are those of the catalogue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import catalog
from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.methods.attention import AttentionTransfer as AttentionTransfer
    from limbeck.methods.fitnets import FitNets as FitNets
    from limbeck.methods.nst import NST as NST
    from limbeck.methods.presets import preset as preset
    from limbeck.methods.response import KD as KD
    from limbeck.methods.response import LogitMatching as LogitMatching
    from limbeck.methods.response import SigmoidKD as SigmoidKD
    from limbeck.methods.response import Supervised as Supervised

_HOME = {entry.attribute: entry.module.rpartition(".")[2] for entry in (*catalog.METHODS, *catalog.COURSES)} | {
    "preset": "presets"
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = exports(__name__, _HOME)
