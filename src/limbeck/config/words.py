"""Types and values in English, for messages."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, else the hint alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "nothing (null)"}
_MANY = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts"}


def words(hint: Any) -> str:
    """A type hint in English.

    >>> words(tuple[float, ...] | None)
    'a list of numbers or nothing (null)'
    """
    if len(members(hint)) > 1:
        return " or ".join(words(member) for member in members(hint))
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (tuple, list):
        if origin is list or (len(inner) == 2 and inner[1] is Ellipsis):
            return f"a list of {_MANY.get(inner[0], 'entries, each ' + words(inner[0]))}"
        kinds = {words(part) for part in inner}
        return f"a list of {len(inner)} entries, each {' or '.join(sorted(kinds))}"
    if origin in (Mapping, dict) or hint in (Mapping, dict):
        return "a mapping"
    if dataclasses.is_dataclass(hint):
        return nouns(hint)
    return _WORDS.get(hint, str(getattr(hint, "__name__", hint)))


def nouns(cls: Any) -> str:
    """What a mapping that stands for this class is called."""
    return f"a mapping ({', '.join(f.name for f in dataclasses.fields(cls))})"


def shown(value: Any) -> str:
    """A value in a message: what it is, and what it says."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        text = value if len(value) <= 40 else value[:40] + "..."
        return f"the text {text!r}"
    if isinstance(value, dict):
        return f"a mapping with {len(value)} key{'s' if len(value) > 1 else ''}" if value else "an empty mapping"
    return f"a list of {len(value)}" if value else "an empty list"


def advice(hint: Any, value: Any) -> str:
    """What to write instead, where that is plain."""
    if bool in members(hint) and isinstance(value, str) and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return "; write true or false"
    if int in members(hint) and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if isinstance(value, (int, float, str)) and any(_holds(member, value) for member in members(hint)):
        return f"; write [{value}]"
    return ""


def _holds(hint: Any, value: float | str) -> bool:
    """Whether a list with this one value is what the type wants."""
    inner = get_args(hint)
    of_any_length = get_origin(hint) is list or (len(inner) == 2 and inner[1] is Ellipsis)
    if get_origin(hint) not in (tuple, list) or not of_any_length:
        return False
    return type(value) is inner[0] or (inner[0] is float and type(value) is int)
