"""Batches in parts."""

from __future__ import annotations

from itertools import pairwise

from limbeck.batches import batch_size, changed
from limbeck.phase import Batch


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch in so many parts, as equal as can be, none of them empty."""
    n = batch_size(batch.inputs)
    parts = min(parts, n)
    if parts <= 1:
        return [batch]
    edges = [n * i // parts for i in range(parts + 1)]

    return [
        Batch(*(changed(value, lambda tensor, a=a, b=b: tensor[a:b]) for value in batch)) for a, b in pairwise(edges)
    ]
