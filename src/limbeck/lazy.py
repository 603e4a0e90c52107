"""Rooms whose names are loaded when they are asked for, so that looking at a recipe imports no torch."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping
from typing import Any


def fetch(module: str, name: str) -> Any:
    """A name of a module, which is imported if need be.

    Python's random numbers stay where they were: rich draws one when it is imported, and a caller may have seeded
    them before asking for the name.
    """
    state = random.getstate()
    try:
        return getattr(importlib.import_module(module), name)
    finally:
        random.setstate(state)


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
        return fetch(f"{package}.{home[name]}", name)

    return get, lambda: sorted(home)
