"""Published settings of the methods, by name: what a paper used, and what later comparisons used.

They stand in the dataclass that they belong to, as its ``presets``.  "benchmark" is the CRD code base (Tian, Krishnan,
Isola: Contrastive Representation Distillation, ICLR 2020), with which most later papers compare, unless a comment
there says otherwise.
"""

from __future__ import annotations

from typing import Any

from limbeck import catalog
from limbeck.errors import NameUnknown, unknown
from limbeck.settings import Presets


def presets_of(method: type) -> Presets:
    """The presets of a method's dataclass; a plug-in may have none."""
    return getattr(method, "presets", {})


def preset(method: str | type, name: str, **changes: Any) -> Any:
    """A method with published settings, some of them changed.

    Args:
        method: what a recipe calls it ("fitnets"), or its dataclass (`FitNets`), or that class's name.
        name: "paper" or "benchmark" for every method, and for some further ones ("one_stage" for FitNets, say).
        **changes: fields that replace the preset's.

    Raises:
        NameUnknown: no such method, preset or field; the message has near names.
        HyperParameterError: a change is outside its range.

    Example:
        >>> preset("nst", "benchmark", weight=10.0).weight
        10.0
    """
    dataclass = method if isinstance(method, type) else _class_of(method)
    known = presets_of(dataclass)
    if name not in known:
        raise NameUnknown(unknown("preset", name, known, dataclass.__name__))
    for field in changes:
        if field not in dataclass.__dataclass_fields__:
            raise NameUnknown(unknown("field", field, dataclass.__dataclass_fields__, dataclass.__name__))
    return dataclass(**{**known[name], **changes})


def _class_of(wanted: str) -> Any:
    entries = catalog.entries("technique")
    named = {entry.attribute: entry.name for entry in entries.values()}
    key = named.get(wanted, wanted)
    if key not in entries:
        raise NameUnknown(unknown("method", wanted, entries))
    return entries[key].load()
