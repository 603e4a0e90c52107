"""Rooms whose names are loaded when they are asked for, so that looking at a recipe imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def exports(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names live in its modules.

    Args:
        package: its ``__name__``.
        home: public name -> the module below the package that has it.

    Example:
        >>> get, _ = exports("limbeck", {"near": "errors"})
        >>> get("near")("layr3", ["layer3", "fc"])
        ['layer3']
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return get, lambda: sorted(home)
