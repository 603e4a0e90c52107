"""The dataclasses -> plain data, YAML, and a hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from limbeck import catalog
from limbeck.config.fields import SUM, default_of, fields_of, has_default, key_of
from limbeck.config.nodes import CORE
from limbeck.recipe import Machine, Made, Model, Recipe


def to_data(recipe: Recipe, machine: Machine | None = None, *, defaults: bool = False) -> dict[str, Any]:
    """The recipe as lists, mappings, text and numbers: what its YAML file says.

    Args:
        recipe: what to write down.
        machine: added as the section ``machine``, unless it is the default one.
        defaults: also write settings that have their default value, and nothing in its short form.
    """
    data = to_plain(recipe, defaults)
    if machine is not None and (defaults or machine != Machine()):
        data["machine"] = to_plain(machine, defaults)
    return data


def to_yaml(recipe: Recipe, machine: Machine | None = None, *, defaults: bool = False) -> str:
    """The recipe as a YAML file; reading it gives an equal recipe."""
    data = to_data(recipe, machine, defaults=defaults)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def flow(value: Any) -> str:
    """Plain data as YAML in one line.

    >>> flow({"start": 4.0, "end": 1.0})
    '{start: 4.0, end: 1.0}'
    """
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def recipe_hash(recipe: Recipe) -> str:
    """Twelve hex digits that are equal exactly if two recipes say the same, however they are written."""
    data = _whole_numbers(to_data(recipe, defaults=True))
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def to_plain(value: Any, defaults: bool = False) -> Any:
    """Lists, mappings, text and numbers; anything else as its text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapping(value, defaults)
    if isinstance(value, Mapping):
        return {str(key): _short(to_plain(item, defaults), item, defaults) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_short(to_plain(item, defaults), item, defaults) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(to_plain(item, defaults) for item in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _mapping(value: Any, defaults: bool) -> dict[str, Any]:
    """A dataclass as a mapping: its kind if it has one in the catalogue, then its settings."""
    if isinstance(value, Made):
        how = to_plain(value.how, defaults)
        settings = {key: item for key, item in how.items() if key != "kind"} if isinstance(how, dict) else {}
        return {"from": value.source, catalog.name_of(value.how): settings}
    name = catalog.name_of(value)
    is_named = _is_named(value)
    made: dict[str, Any] = {"kind": name} if is_named else {}
    for field_name, field in fields_of(type(value)).items():
        item = getattr(value, field_name)
        if field_name == "name" or defaults or not has_default(field) or item != default_of(field):
            made[key_of(field_name, named=is_named)] = _short(to_plain(item, defaults), item, defaults)
    return made


def _is_named(value: Any) -> bool:
    """Whether a recipe chooses this value's class by the key ``kind``."""
    name = catalog.name_of(value)
    return (
        any(name in catalog.entries(kind) for kind in ("technique", "source", "stage"))
        or hasattr(value, "phases")
        or hasattr(value, "lessons")
    )


def _short(plain: Any, value: Any, defaults: bool) -> Any:
    """A method or source with nothing but its kind, or a network with nothing but its name, in one word.

    A plain sum of methods is the list of them.
    """
    if defaults or not isinstance(plain, dict) or not dataclasses.is_dataclass(value):
        return plain
    if set(plain) == {"kind", "methods"} and plain["kind"] == SUM:
        return plain["methods"]
    if len(plain) != 1:
        return plain
    if isinstance(value, Model):
        return plain["name"]
    return plain["kind"] if _is_named(value) else plain


def _whole_numbers(value: Any) -> Any:
    """5000.0 and 5000 mean the same setting, so they are hashed as the same."""
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer; it quotes text that either YAML 1.1 or 1.2 would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in CORE:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
