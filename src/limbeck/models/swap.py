"""Copies of networks, modules put in the place of others, and modules to be filled in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from limbeck.errors import LimbeckError

M = TypeVar("M", bound=nn.Module)
_TORCHS_OWN = frozenset(vars(nn.Module()))  # the attributes that every module has


def copied(model: M) -> M:
    """A deep copy.

    Raises:
        LimbeckError: a module keeps a tensor that was computed, with the way back to its parameters, which torch does not
            copy: old-style weight norm, or a result that a forward put aside.
    """
    try:
        new = copy.deepcopy(model)
        for p, own in zip(model.parameters(), new.parameters(), strict=True):
            if p.is_leaf and not own.is_leaf:  # torch copies scripted modules so, and no optimizer would take them
                own.detach_().requires_grad_(p.requires_grad)
        return new
    except RuntimeError as error:
        if "created explicitly by the user" not in str(error):
            raise
        kept = [
            f"{path}.{name}".removeprefix(".")
            for path, part in model.named_modules()
            for name, value in vars(part).items()
            if isinstance(value, Tensor) and value.grad_fn is not None
        ]
        raise LimbeckError(
            f"this {type(model).__name__} cannot be copied, because it keeps tensors that were computed with gradients"
            f"{': ' + ', '.join(kept[:5]) if kept else ''}. torch.nn.utils.weight_norm does so: take it off "
            "(torch.nn.utils.remove_weight_norm), or use torch.nn.utils.parametrizations.weight_norm; of what a forward puts "
            "aside, one run under torch.no_grad() leaves plain tensors"
        ) from error


def refer_anew(model: nn.Module, others: Mapping[nn.Module, nn.Module]) -> None:
    """Let what the network keeps beside its parts (attributes, lists, tuples, dicts) mean the exchanged modules, too.

    A forward that walks a plain list of layers would run the old ones otherwise.

    >>> net = nn.Sequential(nn.ReLU())
    >>> net.walk = [net[0]]
    >>> net[0] = nn.Tanh()
    >>> refer_anew(net, {net.walk[0]: net[0]})
    >>> net.walk
    [Tanh()]
    """
    seen: set[int] = set()

    def anew(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return others.get(value, value)
        if id(value) in seen or not isinstance(value, (list, tuple, dict)):
            return value
        seen.add(id(value))
        if isinstance(value, list):  # changed in place, since others may hold the same list
            value[:] = [anew(item) for item in value]
        elif isinstance(value, dict):
            value.update({key: anew(item) for key, item in value.items()})
        elif type(value) is tuple:
            return tuple(anew(item) for item in value)
        return value

    for part in list(model.modules()):
        for name, value in list(vars(part).items()):
            if name not in _TORCHS_OWN and isinstance(value, (nn.Module, list, tuple, dict)):
                part.__dict__[name] = anew(value)


def exchange(model: nn.Module, others: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put other modules in the places of some, at every path where they stand; the model changes, and is returned.

    >>> net = nn.Sequential(nn.ReLU(), nn.Flatten())
    >>> exchange(net, {net[0]: nn.Tanh()})
    Sequential(
      (0): Tanh()
      (1): Flatten(start_dim=1, end_dim=-1)
    )
    """
    if model in others:
        return others[model]
    for path, part in list(model.named_modules(remove_duplicate=False)):
        if part in others:
            outer, _, name = path.rpartition(".")
            setattr(model.get_submodule(outer), name, others[part])
    refer_anew(model, others)
    return model


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
    new = copied(model)
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
    refer_anew(new, {part: other for part, other in answers.items() if other is not None})
    return new, sum(other is not None for other in answers.values())


def blank(kind: type[M], *args: Any, **options: Any) -> M:
    """A module with memory for its parameters and nothing in it: no random numbers for what is overwritten at once."""
    made = nn.utils.skip_init(kind, *args, **options)
    assert isinstance(made, kind)
    return made
