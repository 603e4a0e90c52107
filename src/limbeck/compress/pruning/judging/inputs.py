"""Looking at what goes into layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from limbeck.compress.pruning.groups import Group, Member
from limbeck.hooks import hooked

Found = dict[str, Tensor]  # scores by the name of the group
Reasons = dict[str, str]  # ... and why there are none


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a layer of torch was called on, by place or by the only name that it has there."""
    return args[0] if args else kwargs["input"]


@contextmanager
def inputs_of(watched: Mapping[str, nn.Module], see: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Show ``see`` what goes into these layers, by the names that they are given; what it returns goes in instead."""

    def watch(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            new = see(name, first_input(args, kwargs))
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "input": new})

        return hook

    with hooked(layer.register_forward_pre_hook(watch(name), with_kwargs=True) for name, layer in watched.items()):
        yield


def unseen(
    by: str, groups: Sequence[Group], consumers: Mapping[str, tuple[nn.Module, Member]], seen: Collection[str]
) -> Reasons:
    """The groups whose consumers were never called."""
    return {
        g.name: f"{by} looks at what goes into {consumers[g.name][1].module!r}, which never ran as a module of its own (a fused "
        "attention uses the weights of its parts without calling them, say)"
        for g in groups
        if g.name not in seen
    }
