"""Hooks for the time of a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from limbeck.attention import plain_attention

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Look at a network through hooks that were set, and take them away at the end, whatever happens.

    The fast path of torch's transformer layers is off meanwhile: it passes parts by and, given a mask of padded places, calls
    others on nested tensors, which have no shape.

    >>> from torch import nn, zeros
    >>> net, seen = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), []
    >>> with hooked([net[0].register_forward_hook(lambda part, args, output: seen.append(tuple(output.shape)))]):
    ...     _ = net(zeros(5, 4))
    >>> _ = net(zeros(6, 4))
    >>> seen
    [(5, 3)]
    """
    handles = list(handles)
    try:
        with plain_attention():
            yield
    finally:
        for handle in handles:
            handle.remove()
