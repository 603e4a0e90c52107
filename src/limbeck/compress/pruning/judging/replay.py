"""Not computing again what a change further on cannot alter: the answers of layers, kept of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

KEPT = 2**30  # bytes of answers that are kept at most; layers that come later are computed


class Replay:
    """Forward passes of a network over one and the same input, in which the first layers answer as they did before.

    The first pass computes everything, and keeps the answers.  Of the next ones it is said how many of the layers' calls
    are answered from memory.  That is exact where nothing changes before that call, and the network computes the same
    from the same input, as it does in eval mode.

    Attributes:
        calls: of the layers in question in this pass so far.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    >>> with torch.no_grad(), replayed(model) as replay:
    ...     first = replay(lambda: model(torch.ones(1, 2)))
    ...     _ = model[0].weight.zero_()  # nobody asks this layer
    ...     again = replay(lambda: model(torch.ones(1, 2)), until=1)
    >>> torch.equal(first, again)
    True
    """

    def __init__(self) -> None:
        self.calls = 0
        self._until: int | None = None
        self._kept: dict[int, tuple[Tensor, int]] = {}  # by call: the answer, and how often it had been written to
        self._copies: dict[int, Tensor | None] = {}  # ... of answers that are written over later, as by x += y
        self._storages: set[int] = set()
        self._bytes = 0

    def __call__(self, forward: Callable[[], Tensor], *, until: int | None = None) -> Tensor:
        """One pass; the calls before ``until`` are answered from memory.  None, the first time: all are computed."""
        self.calls, self._until = 0, until
        found = forward()
        for call, (answer, written) in list(self._kept.items()):
            if answer._version != written:
                del self._kept[call]
                self._copies[call] = None
        return found

    def answer(self, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a layer answers in this call."""
        call, self.calls = self.calls, self.calls + 1
        known = self._until is not None and call < self._until
        if known and call in self._kept:
            return self._kept[call][0]
        if known and (copy := self._copies.get(call)) is not None:
            return copy.clone()
        found = compute(*args, **kwargs)
        if type(found) is Tensor:
            if self._until is None and self._room(found):
                self._kept[call] = (found, found._version)
            elif known and call in self._copies and self._room(copy := found.clone()):
                self._copies[call] = copy
        return found

    def _room(self, answer: Tensor) -> bool:
        """Whether it may be kept; it counts from then on, if its memory does not already."""
        memory = answer.untyped_storage()
        more = 0 if memory.data_ptr() in self._storages else memory.nbytes()
        if self._bytes + more > KEPT:
            return False
        self._bytes += more
        self._storages.add(memory.data_ptr())
        return True


@contextmanager
def replayed(model: nn.Module) -> Iterator[Replay]:
    """Let the layers of torch.nn answer from memory for the time of a block.

    Layers of other origin are computed in every pass, as they may do more than to answer; so are those that have layers
    in them, which get theirs.
    """
    replay = Replay()
    layers = [
        m for m in model.modules() if type(m).__module__.startswith("torch.nn.modules.") and not any(m.children())
    ]
    layers = [m for m in layers if "forward" not in vars(m)]
    try:
        for layer in layers:
            layer.forward = partial(replay.answer, layer.forward)
        yield replay
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
