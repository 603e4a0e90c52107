"""A network whose channels have been judged: all that a choice of widths is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.select import Row, Widths, going
from limbeck.compress.pruning.surgery import removed, tell_norms
from limbeck.compress.trial import smallest
from limbeck.data.iterables import Batches
from limbeck.models.macs import count_macs


@dataclass(frozen=True)
class Judged:
    """A network, what may go of it, and what each channel is worth.

    Attributes:
        model: the network that is to be cut; it stays as it is.
        original: the network that parts refer to: the model itself, or what it was before earlier steps.
        groups: whose channels may go.
        rows: the same groups, as selection sees them.
        scores: of their channels, by group.
        example: a batch as the model takes it.
        calibration: batches of training rows.
    """

    model: nn.Module
    original: nn.Module
    groups: Sequence[Group]
    rows: Sequence[Row]
    scores: Mapping[str, Tensor]
    example: Any
    calibration: Batches

    @cached_property
    def sample(self) -> Any:
        """One sample of the example; more where the network does not take so few."""
        return smallest(self.model, self.example, 1)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the original, per sample."""
        return count_macs(self.original, self.sample)

    @property
    def whole(self) -> Widths:
        """The widths as they are."""
        return {row.name: row.size for row in self.rows}

    def gone(self, widths: Mapping[str, int]) -> dict[str, list[int]]:
        """Which channels go so that these widths are left."""
        gone = going(self.rows, self.scores, widths)
        return {group.name: gone[group.name] for group in self.groups}

    def cut(self, widths: Mapping[str, int]) -> nn.Module:
        """The network with these widths."""
        new = removed(self.model, self.groups, self.gone(widths))
        tell_norms(new, self.sample)
        return new
