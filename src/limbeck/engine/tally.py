"""The values of terms, step by step: left on the device until somebody looks, then brought over and checked at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.errors import LimbeckError, NonFiniteError
from limbeck.phase import Update


class Place(NamedTuple):
    """Where in a training something happened, for messages.

    ``folder`` is where its last good checkpoint lies, if there is one.
    """

    stage: str
    phase: str
    epoch: int
    step: int
    global_step: int
    rows: Tensor | None = None
    folder: Path | None = None

    def __str__(self) -> str:
        rows = "" if self.rows is None else f", rows {self.rows[:8].tolist()} ..."
        return f"{self.stage}, {self.phase}, epoch {self.epoch + 1}, step {self.step + 1}{rows}"

    def trouble(self, what: str) -> NonFiniteError:
        """The error that numbers broke here."""
        kept = "" if self.folder is None else f" The last good checkpoint is kept in {self.folder}."
        return NonFiniteError(
            f"{self}: {what}.{kept} Try a lower learning rate, gradient clipping (training.clip), or fp32."
        )


def weigh(update: Update, place: Place) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of an update, the sum of ``weight * value.mean()`` over its terms, and what it was made of.

    Raises:
        LimbeckError: there are no terms.
        NonFiniteError: on a CPU, where a look is free and comes before the weights have moved, the loss is not finite.
    """
    total: Tensor | None = None
    values: dict[str, Tensor] = {}
    for name, term in update.terms.items():
        mean = term.value.mean()
        values[f"{update.player}/{name}"] = mean.detach()
        weighted = term.weight * mean
        total = weighted if total is None else total + weighted
    if total is None:
        raise LimbeckError(f"phase {place.phase!r}: an update of {update.player!r} came without terms")
    values[f"{update.player}/loss"] = total.detach()
    if total.device.type == "cpu" and not math.isfinite(total.item()):
        raise place.trouble(culprit({name: value.item() for name, value in values.items()}))
    return total, values


def culprit(values: Mapping[str, float]) -> str:
    """Which of these values is not finite, in words."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    named = [name for name in bad if not name.endswith("/loss")] or bad
    rest = ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
    return f"non-finite term {', '.join(repr(n) for n in named)} (all terms: {rest})"


class Tally:
    """The terms of the steps since the last look."""

    def __init__(self) -> None:
        self.pending: list[tuple[Place, Mapping[str, Tensor]]] = []

    def add(self, place: Place, terms: Mapping[str, Tensor]) -> None:
        """Remember what a step came to, without waiting for the device."""
        if terms:
            self.pending.append((place, terms))

    def collect(self) -> list[tuple[int, dict[str, float]]]:
        """What was added, as numbers beside the number of the step; it is forgotten here.

        Raises:
            NonFiniteError: the first step that had a term which is not finite.
        """
        pending, self.pending = self.pending, []
        if not pending:
            return []
        values = iter(torch.stack([v.float() for _, terms in pending for v in terms.values()]).tolist())
        found = []
        for place, terms in pending:
            row = {name: next(values) for name in terms}
            if not all(map(math.isfinite, row.values())):
                raise place.trouble(culprit(row))
            found.append((place.global_step, row))
        return found


def means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every term over the steps that had it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
