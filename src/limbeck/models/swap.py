"""A copy of a network with some of its modules exchanged, and modules to be filled in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def swapped(model: nn.Module, change: Callable[[nn.Module], nn.Module | None]) -> tuple[nn.Module, int]:
    """A copy in which every module that `change` answers with another one is that other one.

    Outer modules are asked first; what is inside an exchanged one is not asked.  A module that stands in several
    places is asked once and exchanged in all of them.  Hooks on an exchanged module are not carried over.

    Args:
        model: stays as it is.
        change: is given modules of the copy; None: leave it.

    Returns:
        The copy, and how many modules were exchanged.
    """
    new = copy.deepcopy(model)
    answers: dict[nn.Module, nn.Module | None] = {}
    done: list[str] = []
    for path, part in list(new.named_modules(remove_duplicate=False)):
        if any(path.startswith(f"{outer}.") for outer in done):
            continue
        if part not in answers:
            answers[part] = change(part)
        other = answers[part]
        if other is None:
            continue
        if not path:
            return other, 1
        outer, _, name = path.rpartition(".")
        setattr(new.get_submodule(outer), name, other)
        done.append(path)
    return new, sum(other is not None for other in answers.values())


def blank(kind: type[M], *args: Any, **options: Any) -> M:
    """A module with memory for its parameters and nothing in it: no random numbers for what is overwritten at once."""
    made = nn.utils.skip_init(kind, *args, **options)
    assert isinstance(made, kind)
    return made
