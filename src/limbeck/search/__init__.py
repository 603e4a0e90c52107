"""The best chain under a budget: trials, which are ordinary runs of one recipe with other settings, chosen by Optuna.

Importing this package imports no torch; asking it for a function does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.search.whole import Found, search

__all__ = ["Found", "search"]

__getattr__, __dir__ = exports(__name__, {"Found": "whole", "search": "whole"})
