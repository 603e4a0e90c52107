"""Plain data -> the dataclasses.

The dataclasses are the only description of a recipe: their fields are the keys, their type hints the types,
their ``__post_init__`` the ranges.  Where a field may hold one of several classes, the key ``kind`` names one of
the catalogue.  Every function here returns the value, or `BROKEN` after adding to ``found`` what is wrong.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

from limbeck import catalog
from limbeck.config.docs import attributes
from limbeck.config.fields import SUM, chosen_kind, default_of, fields_of, has_default, hints_of, key_of
from limbeck.config.leaves import BROKEN, Broken, leaf
from limbeck.config.place import Path, Problem
from limbeck.config.words import members, nouns, shown
from limbeck.errors import HyperParameterError, LimbeckError, unknown
from limbeck.recipe import Compress, Distill, Ensemble, Evaluate, Made, Model, Together, Train

# A stage or model that is wrong in a detail still takes part in the checks between stages.
_KEPT_WHEN_WRONG = (Train, Distill, Together, Compress, Ensemble, Evaluate, Model)
_PRESETS = ("method", "compressor")  # the kinds that may have published settings


def refuse_unknown_keys(
    value: Mapping[str, Any], known: list[str], title: str, path: Path, found: list[Problem]
) -> None:
    """A key that means nothing is a problem, with the near names."""
    for key in value:
        if key not in known:
            found.append(Problem((*path, key), unknown("key", key, known, title)))


def build_field(cls: Any, name: str, value: Any, path: Path, found: list[Problem]) -> Any:
    """The value of one field of a dataclass."""
    hint = hints_of(cls)[name]
    kind = chosen_kind(cls, name)
    if Made in members(hint) and isinstance(value, dict):
        return _made(value, path, found)
    if kind == "stage":
        return _several("stage", value, path, found)
    if kind == "methods":
        return _several("method", value, path, found)
    if kind == "method" and isinstance(value, list):
        return _chosen(kind, {"kind": SUM, "methods": value}, path, found)
    if kind is not None and value is None and has_default(field := fields_of(cls)[name]) and default_of(field) is None:
        return None
    if kind is not None:
        return _chosen(kind, value, path, found)
    if get_origin(hint) is Mapping and dataclasses.is_dataclass(get_args(hint)[1]):
        return _mapping(get_args(hint)[1], value, path, found)
    classes = [member for member in members(hint) if dataclasses.is_dataclass(member)]
    if classes and (isinstance(value, dict) or len(classes) == len(members(hint))):
        return build_dataclass(classes[0], value, path, found)
    return leaf(hint, value, path, found)


def _several(kind: str, value: Any, path: Path, found: list[Problem]) -> Any:
    if not isinstance(value, list):
        found.append(Problem(path, f"expected a list of {kind}s, got {shown(value)}"))
        return BROKEN
    made = tuple(_chosen(kind, item, (*path, i), found) for i, item in enumerate(value))
    # A broken stage has a stand-in later on; a sum with a broken part is none.
    return BROKEN if kind == "method" and any(isinstance(item, Broken) for item in made) else made


def _made(value: Mapping[str, Any], path: Path, found: list[Problem]) -> Any:
    """``{from: NAME, COMPRESSOR: settings}``."""
    known = list(catalog.entries("compressor"))
    refuse_unknown_keys(value, ["from", *known], "a network made from another", path, found)
    hows = [key for key in value if key in known]
    source = value.get("from")
    if not isinstance(source, str):
        found.append(
            Problem((*path, "from"), "the name of the network that the student is made of is needed: {from: NAME, ...}")
        )
        return BROKEN
    if len(hows) != 1:
        told = f"one compressor, of: {', '.join(known)}"
        found.append(Problem(path, f"expected {told}; got {', '.join(hows) if hows else 'none'}"))
        return BROKEN
    settings = value[hows[0]]
    if settings is not None and not isinstance(settings, dict):
        found.append(Problem((*path, hows[0]), f"expected a mapping with its settings, got {shown(settings)}"))
        return BROKEN
    here: list[Problem] = []
    how = _chosen("compressor", {"kind": hows[0], **(settings or {})}, (*path, hows[0]), here)
    found += here
    return BROKEN if isinstance(how, Broken) else Made(source=source, how=how)


def _mapping(cls: Any, value: Any, path: Path, found: list[Problem]) -> Any:
    if not isinstance(value, dict):
        found.append(Problem(path, f"expected a mapping from names to networks, got {shown(value)}"))
        return BROKEN
    # "student: resnet8" is short for "student: {name: resnet8}".
    full = {name: {"name": item} if isinstance(item, str) else item for name, item in value.items()}
    return {name: build_dataclass(cls, item, (*path, name), found) for name, item in full.items()}


def _chosen(kind: str, value: Any, path: Path, found: list[Problem]) -> Any:
    """One of several classes: a bare name, or a mapping with ``kind``."""
    known = catalog.entries(kind)
    given = {"kind": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        found.append(
            Problem(path, f"expected the name of a {kind}, or a mapping with the key 'kind', got {shown(value)}")
        )
        return BROKEN
    if "kind" not in given:
        found.append(Problem(path, f"which {kind}? The key 'kind' is missing; there are: {', '.join(known)}"))
        return BROKEN
    name = given["kind"]
    at = path if isinstance(value, str) else (*path, "kind")
    if not isinstance(name, str):
        found.append(Problem(at, f"expected the name of a {kind}, got {shown(name)}"))
        return BROKEN
    if name not in known:
        found.append(Problem(at, unknown(kind, name, known)))
        return BROKEN
    try:
        cls = known[name].load()
        fields = fields_of(cls)
    except Exception as error:  # a plug-in may fail in any way
        found.append(Problem(at, f"the {kind} {name!r} cannot be loaded: {type(error).__name__}: {error}"))
        return BROKEN
    settings = {key: item for key, item in given.items() if key != "kind"}
    title = f"{kind} {name!r}"
    if kind in _PRESETS and "preset" in settings and "preset" not in fields:
        chosen = settings.pop("preset")
        return build_dataclass(
            cls, settings, path, found, title=title, named=True, make=_preset(name, chosen, (*path, "preset"), found)
        )
    also = ("preset",) if kind in _PRESETS else ()
    return build_dataclass(cls, settings, path, found, title=title, named=True, also=also)


def _name_of(cls: Any) -> str | None:
    """What the catalogue calls a method; None for other classes."""
    return next(
        (name for name, entry in catalog.entries("method").items() if entry.where.endswith(f":{cls.__name__}")), None
    )


def _preset(name: str, chosen: Any, path: Path, found: list[Problem]) -> Callable[..., Any] | None:
    """What makes the method from changed settings; None if there is no such preset."""
    from limbeck import methods

    if not isinstance(chosen, str):
        found.append(Problem(path, f"expected the name of a preset, got {shown(chosen)}"))
        return None
    try:
        methods.preset(name, chosen)
    except LimbeckError as error:
        found.append(Problem(path, str(error)))
        return None
    return functools.partial(methods.preset, name, chosen)


def build_dataclass(
    cls: Any,
    value: Any,
    path: Path,
    found: list[Problem],
    *,
    title: str = "",
    named: bool = False,
    make: Callable[..., Any] | None = None,
    also: tuple[str, ...] = (),
) -> Any:
    """An instance of ``cls`` from a mapping.

    Args:
        cls: the dataclass.
        value: the mapping, by field.
        path: where it is.
        found: the problems so far; added to.
        title: what messages call it; the last key of the path by default.
        named: whether the class was chosen by the key ``kind``, which then is none of its own settings.
        make: what to call instead of ``cls``, with only the given settings (a preset fills in the rest).
        also: further keys that a near-miss hint may name.
    """
    fields = fields_of(cls)
    if not isinstance(value, dict):
        found.append(Problem(path, f"expected {nouns(cls)}, got {shown(value)}"))
        return BROKEN
    settings = dict(value)
    said = settings.get("kind")
    if "kind" not in fields and isinstance(said, str) and said in catalog.entries("method"):
        if catalog.find("method", said).load() is not cls and not named:
            found.append(Problem((*path, "kind"), f"no {said!r} here: it must be a {cls.__name__}"))
            return BROKEN
        del settings["kind"]  # a method in a field of one fixed class may say its kind
    if make is None and not named and "preset" in settings and "preset" not in fields and (own := _name_of(cls)):
        chosen, at = settings.pop("preset"), (*path, "preset")
        make = _preset(own, chosen, at, found)
    title = title or repr(str(path[-1]))
    keys = {name: key_of(name, named=named) for name in fields}
    before = len(found)
    refuse_unknown_keys(settings, [*(["kind"] if named else []), *keys.values(), *also], title, path, found)
    made = {
        name: build_field(cls, name, settings[key], (*path, key), found)
        for name, key in keys.items()
        if key in settings
    }
    needed = [name for name, field in fields.items() if not has_default(field)] if make is None else []
    for name in needed:
        if keys[name] not in settings:
            doc = attributes(cls).get(name, "").rstrip(".")
            found.append(
                Problem((*path, keys[name]), f"{title} needs the key {keys[name]!r}{': ' + doc if doc else ''}")
            )
    good = {name: item for name, item in made.items() if not isinstance(item, Broken)}
    if any(name not in good for name in needed):
        return BROKEN
    instance = _construct(make or cls, good, {name: (*path, key) for name, key in keys.items()}, needed, path, found)
    return instance if len(found) == before or cls in _KEPT_WHEN_WRONG else BROKEN


def _construct(
    make: Callable[..., Any],
    settings: dict[str, Any],
    places: Mapping[str, Path],
    needed: list[str],
    path: Path,
    found: list[Problem],
) -> Any:
    """Call ``make``; a setting out of its range is reported and left out, so that the next one is seen, too."""
    settings = dict(settings)
    while True:
        try:
            return make(**settings)
        except HyperParameterError as error:
            name = str(error).split(" = ")[0].strip()
            found.append(Problem(places.get(name, path), str(error)))
            if name not in settings or name in needed:
                return BROKEN
            del settings[name]
        except LimbeckError as error:
            found.append(Problem(path, str(error)))
            return BROKEN
        except (TypeError, ValueError) as error:  # a plug-in's own checks
            found.append(Problem(path, f"{type(error).__name__}: {error}"))
            return BROKEN
