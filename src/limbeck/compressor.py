"""The contract of everything that makes a smaller network out of a network without training it.

A *compressor* is a frozen dataclass that is called with a model and returns a *new* one; the old one keeps every bit,
its modes and its hooks.  What takes several steps, with training between them, is a `limbeck.course.Course` whose
lessons are trainings and operations.  What a compressor has to say about its work goes along with the new model, as
`Findings`, and from there into the record and the report.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn


_WHERE = "limbeck_findings"


@runtime_checkable
class Compressor(Protocol):
    """Model in, new model out.  Never subclassed.

    Args of the call:
        model: any module, in any mode, on any device; it is not changed.
        example: a batch as the model takes it, on the model's device; a mapping becomes keyword arguments.
        calibration: batches of training rows, without augmentation, that can be walked more than once; compressors
            that look at no data ignore them.  A run and a chain hand over `Batch`es; ours take whatever `limbeck.train` takes.
    """

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module: ...


@dataclass(frozen=True)
class Findings:
    """What a compressor has to say about the model that it made.

    Attributes:
        notes: sentences for the user: a layer that was left alone and why, a budget that was met only nearly.
        details: plain data (what JSON holds) for the report: widths per layer, ranks, scores.
    """

    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def tell(model: nn.Module, *notes: str, **details: Any) -> None:
    """Put notes and details with a model, beside what it has; no part of its state.

    >>> class Thing: pass
    >>> tell(thing := Thing(), "fc is left alone", widths={"conv1": 8})
    >>> findings(thing).notes, findings(thing).details
    (['fc is left alone'], {'widths': {'conv1': 8}})
    """
    told = findings(model)
    merged = Findings([*told.notes, *(note for note in notes if note not in told.notes)], {**told.details, **details})
    object.__setattr__(model, _WHERE, merged)


def findings(model: nn.Module) -> Findings:
    """What its compressor said about a model; nothing, for one that no compressor made."""
    return getattr(model, _WHERE, None) or Findings()


def silent(model: nn.Module) -> None:
    """Forget what an earlier compressor said: the model is about to be changed again."""
    object.__setattr__(model, _WHERE, None)


def is_compressor(value: object) -> bool:
    """Whether this is a compressor: an instance that can be called with a model, and no network or class itself."""
    return (
        callable(value)
        and not isinstance(value, type)
        and hasattr(type(value), "__dataclass_fields__")
        and not isinstance(value, Mapping)
    )
