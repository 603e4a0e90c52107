"""The best chain under a budget: trials, which are ordinary runs of one recipe with other settings, chosen by Optuna."""

from __future__ import annotations

from limbeck.search.whole import Found, search

__all__ = ["Found", "search"]
