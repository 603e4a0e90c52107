"""The JSON Schema of a recipe file, for editors: made from the same dataclasses that read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from limbeck import catalog
from limbeck.config.docs import attributes, summary
from limbeck.config.dump import to_plain
from limbeck.config.fields import chosen_kind, default_of, fields_of, has_default, hints_of, key_of
from limbeck.config.leaves import adapter, without_classes
from limbeck.config.words import members
from limbeck.recipe import Machine, Made, Model, Recipe

_SHORT = "a name alone stands for a mapping with nothing else in it"


def schema(sections: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The schema of a recipe file (JSON Schema, draft 2020-12).

    Args:
        sections: dataclasses of further sections that a file may have for other commands, by their keys.
    """
    defs: dict[str, Any] = {}
    whole = _object(Recipe, defs)
    for key, section in {"machine": Machine, **(sections or {})}.items():
        whole["properties"][key] = _of_class(section, defs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "limbeck recipe",
        "description": summary(Recipe),
        **whole,
        "$defs": dict(sorted(defs.items())),
    }


def _of_class(cls: Any, defs: dict[str, Any]) -> dict[str, Any]:
    if cls.__name__ not in defs:
        defs[cls.__name__] = {}  # so that a class which holds itself ends
        defs[cls.__name__] = {"description": summary(cls), **_object(cls, defs)}
    return {"$ref": f"#/$defs/{cls.__name__}"}


def _object(cls: Any, defs: dict[str, Any], named: bool = False) -> dict[str, Any]:
    docs = attributes(cls)
    properties = {}
    for name, field in fields_of(cls).items():
        made = _of_field(cls, name, defs)
        if name in docs:
            made["description"] = docs[name]
        if has_default(field):
            default = to_plain(default_of(field))
            if not isinstance(default, dict):
                made["default"] = default
        properties[key_of(name, named=named)] = made
    needed = [key_of(name, named=named) for name, field in fields_of(cls).items() if not has_default(field)]
    return {
        "type": "object",
        "properties": properties,
        **({"required": needed} if needed else {}),
        "additionalProperties": False,
    }


def _of_field(cls: Any, name: str, defs: dict[str, Any]) -> dict[str, Any]:
    hint = hints_of(cls)[name]
    kind = chosen_kind(cls, name)
    if Made in members(hint):
        return {"anyOf": [{"type": "string"}, _made_of(defs)]}
    if kind == "stage":
        return {"type": "array", "minItems": 1, "items": _one_of(kind, defs, short=False)}
    if kind == "methods":
        return _many_methods(defs)
    if kind == "method":
        several = {**_many_methods(defs), "description": "the sum of several"}
        none = [{"type": "null"}] if _may_be_none(cls, name) else []
        return {"anyOf": [_any_method(defs), several, *none]}
    if kind is not None:
        return _one_of(kind, defs, short=True)
    if get_origin(hint) is Mapping and get_args(hint)[1] is Model:
        return {"type": "object", "additionalProperties": {"oneOf": [{"type": "string"}, _of_class(Model, defs)]}}
    classes = [_of_class(member, defs) for member in members(hint) if dataclasses.is_dataclass(member)]
    if len(classes) == len(members(hint)) == 1:
        return classes[0]
    plain = _of_leaf(hint)
    return {"anyOf": [*classes, plain]} if classes else plain


def _made_of(defs: dict[str, Any]) -> dict[str, Any]:
    """``{from: NAME, COMPRESSOR: settings}``."""
    choices = {}
    for name, entry in catalog.entries("compressor").items():
        settings = _object(entry.load(), defs, named=True)
        settings["properties"]["preset"] = {"enum": _presets(name)} if _presets(name) else {}
        choices[name] = {"anyOf": [settings, {"type": "null"}], "description": entry.title}
    source = {"type": "string", "description": "the network that the student is made of"}
    return {
        "type": "object",
        "properties": {"from": source, **choices},
        "required": ["from"],
        "minProperties": 2,
        "maxProperties": 2,
        "additionalProperties": False,
    }


def _may_be_none(cls: Any, name: str) -> bool:
    field = fields_of(cls)[name]
    return has_default(field) and default_of(field) is None


def _any_method(defs: dict[str, Any]) -> dict[str, Any]:
    if "AnyMethod" not in defs:
        defs["AnyMethod"] = {}  # a sum holds methods, too
        defs["AnyMethod"] = _one_of("method", defs, short=True)
    return {"$ref": "#/$defs/AnyMethod"}


def _many_methods(defs: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": _any_method(defs)}


def _of_leaf(hint: Any) -> dict[str, Any]:
    plain = without_classes(hint)
    if plain is Any:
        return {}
    try:
        made = adapter(plain).json_schema()
    except Exception:  # a plug-in's own type
        return {}
    return {} if "$defs" in made else dict(made)


def _one_of(kind: str, defs: dict[str, Any], *, short: bool) -> dict[str, Any]:
    """The classes that a part of the catalogue lists, told apart by ``kind``."""
    choices = []
    bare = []
    for name, entry in catalog.entries(kind).items():
        try:
            cls = entry.load()
            made = _object(cls, defs, named=True)
        except Exception:  # a plug-in that cannot be loaded
            continue
        if not made.get("required"):
            bare.append(name)
        made["properties"] = {"kind": {"const": name, "description": entry.title}, **made["properties"]}
        made["required"] = ["kind", *made.get("required", [])]
        if kind in ("method", "compressor") and (presets := _presets(name)):
            made["properties"]["preset"] = {"enum": presets, "description": "settings to start from"}
        defs[cls.__name__] = {"description": f"{entry.title}. {summary(cls)}", **made}
        choices.append({"$ref": f"#/$defs/{cls.__name__}"})
    return {"oneOf": [{"enum": bare, "description": _SHORT}, *choices] if short and bare else choices}


def _presets(name: str) -> list[str]:
    from limbeck.methods.presets import presets_of

    return list(presets_of(catalog.find("technique", name).load()))
