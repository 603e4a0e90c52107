"""Values without a dataclass in them: numbers, text, lists of them.  Pydantic decides, the words are ours."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any, Literal, Union, get_args, get_origin

from limbeck.config.place import Path, Problem
from limbeck.config.words import advice, members, shown, words
from limbeck.errors import choices


class Broken:
    """Stands for a value that could not be built."""


BROKEN = Broken()


def leaf(hint: Any, value: Any, path: Path, found: list[Problem]) -> Any:
    """The value as its type wants it, or `BROKEN` with the reason in ``found``.

    Strict as JSON is: neither ``true`` nor ``"3"`` is a number, and 3 may stand for 3.0.
    """
    from pydantic import ValidationError
    from pydantic.errors import PydanticSchemaGenerationError

    plain = without_classes(hint)
    if plain is Any:
        return value
    try:
        return adapter(plain).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        found += _explain(plain, value, path, words(hint))
    except PydanticSchemaGenerationError:
        found.append(
            Problem(path, f"this setting holds {words(hint)}, which a recipe file cannot say; set it in Python")
        )
    return BROKEN


def without_classes(hint: Any) -> Any:
    """The type hint less the dataclasses in its union."""
    return Union[tuple(m for m in members(hint) if not dataclasses.is_dataclass(m))]  # noqa: UP007  (built from a list)


@functools.cache
def adapter(hint: Any) -> Any:
    """Pydantic's adapter; the import costs a tenth of a second, so it waits until it is needed."""
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _explain(hint: Any, value: Any, path: Path, wanted: str) -> list[Problem]:
    """Why pydantic refused what was ``wanted``, at the item of a list where one item is to blame."""
    known = [str(choice) for m in members(hint) if get_origin(m) is Literal for choice in get_args(m)]
    if known and isinstance(value, str):
        name = next((str(part) for part in reversed(path) if isinstance(part, str)), "value")
        return [Problem(path, f"no {name} {value!r}; there are: {choices(value, known)}")]
    lists = [member for member in members(hint) if get_origin(member) in (tuple, list)]
    if isinstance(value, list) and len(lists) == 1:
        of_items: list[Problem] = []
        for i, (kind, item) in enumerate(zip(_item_hints(lists[0], len(value)), value)):
            leaf(kind, item, (*path, i), of_items)
        if of_items:
            return of_items
    return [Problem(path, f"expected {wanted}, got {shown(value)}{advice(hint, value)}")]


def _item_hints(hint: Any, count: int) -> list[Any]:
    """The type of each item of a list with so many; empty where the count itself is wrong."""
    inner = get_args(hint)
    if get_origin(hint) is list or (len(inner) == 2 and inner[1] is Ellipsis):
        return [inner[0]] * count
    return list(inner) if len(inner) == count else []
