"""Every method: a frozen dataclass of one paper's hyper-parameters.

Importing this package imports no torch; neither does making a method.  Torch comes in when a
method is asked for its phases.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'limbeck.methods' has no attribute {name!r}")
    return getattr(importlib.import_module(f"limbeck.methods.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
