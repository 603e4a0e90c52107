"""Whom the loop talks to: a loader, a watch, whoever may ask it to stop, and who reads what it came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from limbeck.phase import Batch


class Loader(Protocol):
    """Batches, epoch by epoch; the same ones whenever it is asked for the same epoch."""

    @property
    def steps(self) -> int | None: ...

    def epoch(self, epoch: int, rank: int, world: int, skip: int) -> Iterator[Batch]: ...


class Watch(Protocol):
    """Who is told how it goes."""

    def phase(self, name: str, epochs: int, steps: int | None, done: int, notes: Sequence[str]) -> None: ...
    def step(self, epoch: int, step: int, terms: Mapping[str, float], rate: float) -> None: ...
    def epoch(self, epoch: int, measured: Mapping[str, float] | None) -> None: ...
    def close(self) -> None: ...


@dataclass
class Stop:
    """Set `asked` to end a run cleanly after the step at hand."""

    asked: bool = False


@dataclass
class Fit:
    """What a stage's training came to.

    Attributes:
        phases: name, epochs, notes and taps of each phase.
        epochs: how many were trained, over all phases that the stage's epochs are divided among.
        seconds, images: spent and seen, over all sittings.
        best: epoch and measures of the best epoch on the validation part, or None.
        history: what was measured at the end of each epoch.
        before: the measures before training, or None.
        best_state: the best epoch's weights when there is no folder to keep them in.
        snapshots: the student's weights after the steps that were asked for, likewise.
    """

    phases: list[dict[str, Any]] = field(default_factory=list)
    epochs: int = 0
    seconds: float = 0.0
    images: int = 0
    best: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, float] | None = None
    best_state: dict[str, Tensor] | None = None
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)
