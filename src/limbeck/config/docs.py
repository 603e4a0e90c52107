"""What a dataclass says about itself: its summary, and the lines under ``Attributes:``."""

from __future__ import annotations

import inspect
import re
from typing import Any

_ENTRY = re.compile(r"(?P<names>\w+(?:, ?\w+)*)\s*(?:\([^)]*\))?:\s*(?P<text>.*)")


def summary(cls: Any) -> str:
    """The first paragraph of the docstring, in one line."""
    text = _docstring(cls)
    return " ".join(text.split("\n\n")[0].split())


def body(cls: Any) -> str:
    """The docstring without its sections (attributes, errors) and examples."""
    kept = []
    dropping = False
    for paragraph in _docstring(cls).split("\n\n"):
        if paragraph.startswith(("Attributes:", "Raises:", "Example", ">>>")):
            dropping = True
        elif not paragraph.startswith(" "):
            dropping = False
        if not dropping:
            kept.append(paragraph)
    return "\n\n".join(kept).strip()


def attributes(cls: Any) -> dict[str, str]:
    """What the docstring says of each field, in one line each.

    >>> from limbeck.settings import Ramp
    >>> attributes(Ramp)["start"]
    'the weight at the first step.'
    """
    found: dict[str, list[str]] = {}
    names: list[str] = []
    inside = False
    indent = None
    for line in _docstring(cls).splitlines():
        if line.strip() == "Attributes:":
            inside = True
        elif inside and line.strip() and not line[0].isspace():
            inside = False
        elif inside and line.strip():
            depth = len(line) - len(line.lstrip())
            indent = depth if indent is None else indent
            match = _ENTRY.match(line.strip()) if depth == indent else None
            if match:
                names = [name.strip() for name in match["names"].split(",")]
                for name in names:
                    found[name] = [match["text"]]
            else:
                for name in names:
                    found[name].append(line.strip())
    return {name: " ".join(" ".join(parts).replace("``", "").split()) for name, parts in found.items()}


def _docstring(cls: Any) -> str:
    text = inspect.cleandoc(cls.__doc__ or "")
    # A dataclass without a docstring is given its signature for one.
    return "" if text.startswith(f"{cls.__name__}(") else text
