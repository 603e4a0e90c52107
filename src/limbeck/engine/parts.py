"""Batches in parts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor

from limbeck.phase import Batch


def size_of(batch: Batch) -> int:
    """How many samples a batch has."""
    inputs = next(iter(batch.inputs.values())) if isinstance(batch.inputs, Mapping) else batch.inputs
    return int(inputs.shape[0])


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch in so many parts, as equal as can be, none of them empty."""
    n = size_of(batch)
    parts = min(parts, n)
    if parts <= 1:
        return [batch]
    edges = [n * i // parts for i in range(parts + 1)]

    def cut(value: Any, a: int, b: int) -> Any:
        if isinstance(value, Mapping):
            return {k: cut(v, a, b) for k, v in value.items()}
        return value[a:b] if isinstance(value, Tensor) else value

    return [Batch(*(cut(value, a, b) for value in batch)) for a, b in pairwise(edges)]
