"""What the fields of a recipe's dataclasses may hold."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from limbeck import catalog
from limbeck.data.spec import Data
from limbeck.recipe import Compress, Distill, Recipe, Together, Train

SUM = "sum"  # a list where a method is wanted means their sum

# The fields that hold one of several classes, and the part of the catalogue that knows them.
CHOSEN: Mapping[tuple[type, str], str] = {
    (Data, "source"): "source",
    (Train, "method"): "method",
    (Distill, "method"): "method",
    (Together, "method"): "method",
    (Compress, "how"): "compressor",
    (Compress, "method"): "method",
    (Recipe, "stages"): "stage",
}


def fields_of(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    """The fields that can be given, by name, in order."""
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def key_of(name: str, *, named: bool) -> str:
    """What a recipe calls a field: its own name, but ``variant`` for a field ``kind`` where ``kind`` names the class."""
    return "variant" if named and name == "kind" else name


def hints_of(cls: Any) -> dict[str, Any]:
    """The type hints by field; a plug-in whose hints cannot be resolved is taken as it comes."""
    try:
        return typing.get_type_hints(cls)
    except Exception:
        return dict.fromkeys(fields_of(cls), Any)


def has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether the field may be left out."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def default_of(field: dataclasses.Field[Any]) -> Any:
    """What the field holds when it is left out; None where it may not be."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def chosen_kind(cls: Any, name: str) -> str | None:
    """Which part of the catalogue a field's ``kind`` names ("methods": a list of them), or None for a fixed type."""
    if (cls, name) in CHOSEN:
        return CHOSEN[cls, name]
    hint = hints_of(cls).get(name)
    if getattr(get_args(hint)[0], "_is_protocol", False) if get_origin(hint) is tuple else False:
        return "methods"
    if hint is Any or getattr(hint, "_is_protocol", False):
        # A method inside a method: known by its default.
        default = default_of(fields_of(cls)[name])
        if dataclasses.is_dataclass(default) and catalog.name_of(default) in catalog.entries("method"):
            return "method"
    return None
