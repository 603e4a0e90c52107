"""``--set path=value``: changes to the plain data, before anything is checked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from limbeck.config.nodes import Unreadable, read_nodes
from limbeck.config.place import Path, Problem
from limbeck.config.words import shown
from limbeck.errors import unknown


class _Wrong(Exception):
    """A ``--set`` that cannot be followed."""


def override(data: Any, sets: Iterable[str]) -> tuple[dict[Path, str], list[Problem]]:
    """Change ``data`` in place; which ``--set`` each new path came from, and what was wrong.

    >>> data = {"stages": [{"name": "kd", "method": "kd"}]}
    >>> override(data, ["stages.kd.method.temperature=8"])
    ({('stages', 0, 'method', 'temperature'): 'stages.kd.method.temperature=8'}, [])
    >>> data
    {'stages': [{'name': 'kd', 'method': {'kind': 'kd', 'temperature': 8}}]}
    """
    made: dict[Path, str] = {}
    found: list[Problem] = []
    for text in sets:
        try:
            name, equals, value = text.partition("=")
            if not equals or not name.strip():
                raise _Wrong("expected PATH=VALUE, such as stages.1.method.temperature=8")
            path = _put(data, _parts(name.strip()), _value(value))
            made[path] = text
        except _Wrong as error:
            found.append(Problem((), f"--set {text}: {error}"))
    return made, found


def _parts(name: str) -> list[str]:
    """``stages[1].method`` and ``stages.1.method`` are the same."""
    return re.sub(r"\[(\w+)\]", r".\1", name).split(".")


def _value(text: str) -> Any:
    if not text.strip():
        return None
    try:
        value, _, found = read_nodes(text)
    except Unreadable as error:
        raise _Wrong(str(error)) from None
    if found:
        raise _Wrong(found[0].text)
    return value


def _put(data: Any, parts: list[str], value: Any) -> Path:
    """Set the value at the path that ``parts`` name; returns that path."""
    path: Path = ()
    here = data
    while True:
        if isinstance(here, dict):
            key, used = _key(here, parts)
        elif isinstance(here, list):
            key, used = _index(here, parts, path)
        else:
            raise _Wrong(f"{'.'.join(map(str, path)) or 'the recipe'} is {shown(here)}; it has no parts")
        parts = parts[used:]
        path = (*path, key)
        if not parts:
            here[key] = value  # type: ignore[index]
            return path
        inner = here.get(key) if isinstance(here, dict) else here[int(key)]
        full = _full(inner, path)
        if full is not inner:
            here[key] = full  # type: ignore[index]
        here = full


def _key(here: dict[str, Any], parts: list[str]) -> tuple[str, int]:
    """The key, which may itself have dots in it, and how many parts it takes."""
    for used in range(len(parts), 1, -1):
        if ".".join(parts[:used]) in here:
            return ".".join(parts[:used]), used
    return parts[0], 1


def _index(here: list[Any], parts: list[str], path: Path) -> tuple[int, int]:
    """The position in a list, given as a number or, among stages, as a name."""
    names = [item.get("name") if isinstance(item, dict) else None for item in here]
    for used in range(len(parts), 0, -1):
        if ".".join(parts[:used]) in names:
            return names.index(".".join(parts[:used])), used
    if re.fullmatch(r"[0-9]+", parts[0]):
        if int(parts[0]) < len(here):
            return int(parts[0]), 1
        raise _Wrong(f"{'.'.join(map(str, path))} has {len(here)} entries, counted from 0")
    if path == ("stages",):
        raise _Wrong(unknown("stage", parts[0], [str(name) for name in names if name], "this recipe"))
    raise _Wrong(f"{'.'.join(map(str, path))} is a list; its entries go by number, counted from 0, not {parts[0]!r}")


def _full(value: Any, path: Path) -> Any:
    """The long form of what may be written short: nothing, the name of a network, the kind of a method or source."""
    if value is None:
        return {}
    if isinstance(value, str) and len(path) == 2 and path[0] == "models":
        return {"name": value}
    *_, holder, key = (None, *path)
    listed = isinstance(key, int) and holder in ("method", "methods")  # the methods of a sum
    if isinstance(value, str) and (listed or key in ("method", "source", "how")):
        return {"kind": value}
    return value
