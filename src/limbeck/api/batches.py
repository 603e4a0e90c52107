"""A user's iterable of batches, as the engine walks it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from limbeck.data.iterables import to_batch
from limbeck.errors import DataError
from limbeck.phase import Batch


class Batches:
    """A user's iterable of batches, as the engine walks it: anew every epoch."""

    seeks = False  # to come to the middle of an epoch, its first half is walked again

    def __init__(self, batches: Iterable[Any], what: str = "the training batches") -> None:
        if isinstance(batches, Iterator):
            raise DataError(
                f"{what} are a {type(batches).__name__}, which can be walked only once; give something that can be "
                "walked every epoch: a list, a DataLoader, or an object whose __iter__ starts anew"
            )
        if not isinstance(batches, Iterable):
            raise DataError(
                f"{what} are a {type(batches).__name__}; an iterable of (inputs, targets) or of dicts is needed"
            )
        self.batches = batches

    @property
    def steps(self) -> int | None:
        try:
            return len(self.batches)  # type: ignore[arg-type]
        except TypeError:
            return None

    @property
    def rows(self) -> int | None:
        """How many rows the batches' ``rows`` count, where the object that gives them says so."""
        rows = getattr(self.batches, "rows", None)
        return rows if isinstance(rows, int) else None

    def epoch(self, epoch: int, rank: int = 0, world: int = 1, skip: int = 0) -> Iterator[Batch]:
        set_epoch = getattr(getattr(self.batches, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        for item in self.batches:
            yield to_batch(item)
