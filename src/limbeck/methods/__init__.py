"""Every method: a frozen dataclass of one paper's hyper-parameters.

Importing this package imports no torch; neither does making a method.  Torch comes in when a
method is asked for its phases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.methods.attention import AttentionTransfer
    from limbeck.methods.fitnets import FitNets
    from limbeck.methods.nst import NST
    from limbeck.methods.presets import preset
    from limbeck.methods.response import KD, LogitMatching, SigmoidKD, Supervised

_HOME = {
    "KD": "response",
    "NST": "nst",
    "AttentionTransfer": "attention",
    "FitNets": "fitnets",
    "LogitMatching": "response",
    "SigmoidKD": "response",
    "Supervised": "response",
    "preset": "presets",
}

__all__ = [
    "KD",
    "NST",
    "AttentionTransfer",
    "FitNets",
    "LogitMatching",
    "SigmoidKD",
    "Supervised",
    "preset",
]

__getattr__, __dir__ = exports(__name__, _HOME)
