"""Trying out on a copy with random weights what removing channels does.

A third of every group is removed, and the outputs must be those of the full copy with the same channels set to zero.  Groups
that break the network, or change what it computes, are found by halving and left whole; so are those of which the outputs
show nothing, whatever the weights are.  So a network that counts on its own widths somewhere costs channels that stay,
and never a wrong result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.attention import slow_attention
from limbeck.batches import changed
from limbeck.compress.answers import tensors
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.members import filters_of
from limbeck.compress.pruning.surgery import masked, removed
from limbeck.errors import LimbeckError
from limbeck.models.swap import copied
from limbeck.randomness import own_random_numbers
from limbeck.taps import call

_DRAWS = 8  # of random weights, where the outputs of earlier ones did not show everything
# Rounding is far below, and a channel in the wrong place far above.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_ROUGH = 0.05
WRONG = "the network did not run, or not rightly, when channels of it were removed"
UNSEEN = "the outputs do not show whether the network is right without some of its channels"


@dataclass(frozen=True)
class _Trial:
    """A network with random weights, inputs that it runs on, what it answers, and how far answers may be off."""

    model: nn.Module
    inputs: Any
    answers: list[Tensor]
    tolerance: float


@contextmanager
def aside() -> Iterator[None]:
    """No gradients, attention in plain steps, no warnings of a network on trial, and random numbers that are put back."""
    with own_random_numbers(), slow_attention(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tried(
    model: nn.Module, found: Sequence[Group], inputs: Any, ran: set[str]
) -> tuple[list[Group], list[tuple[Group, str]]]:
    """The groups that can go, together, and those that stay, with the reason.

    Args:
        model: its weights are overwritten.
        found: what might be removed.
        inputs: a small batch that it takes.
        ran: the layers that run in evaluation; of others the outputs can show nothing.
    """
    if not found:
        return [], []
    running = {g.name for g in found if any(m.module in ran for m in g.of("out"))}
    with aside():
        # Made as they are needed: the first one nearly always shows everything.
        at = cache(lambda draw: _scrambled(model, inputs, draw))
        unseen = [g for g in found if g.name in running]
        for draw in range(_DRAWS):
            unseen = unseen and _blind(at(draw), unseen)

        def fine(some: Sequence[Group]) -> bool:
            dark = [g for g in some if g.name in running]
            for draw in range(_DRAWS):
                trial, gone = at(draw), _third(some)
                if difference(trial.model, some, gone, trial.inputs) >= trial.tolerance:
                    return False
                # What is dead once other channels have gone, too, would let anything pass.
                dark = dark and _dark(masked(trial.model, some, gone), dark, gone, trial.inputs)
                if not dark:
                    break
            return True

        names = {g.name for g in unseen}
        good, broken = _halved([g for g in found if g.name not in names], fine)
        while good and broken and not fine(good):  # each half was right, but not both together
            broken.append(good.pop())
    return good, [(g, WRONG) for g in broken] + [(g, UNSEEN) for g in unseen]


def _third(some: Sequence[Group]) -> dict[str, list[int]]:
    generator = torch.Generator().manual_seed(len(some))
    return {g.name: torch.randperm(g.size, generator=generator)[: -(-g.size // 3)].tolist() for g in some}


def _halved(some: list[Group], fine: Callable[[Sequence[Group]], bool]) -> tuple[list[Group], list[Group]]:
    if not some or fine(some):
        return some, []
    if len(some) == 1:
        return [], some
    middle = len(some) // 2
    one, other = _halved(some[:middle], fine), _halved(some[middle:], fine)
    return one[0] + other[0], one[1] + other[1]


def difference(model: nn.Module, some: Sequence[Group], gone: Mapping[str, Iterable[int]], inputs: Any) -> float:
    """How far the outputs of removal are from those of zeroing, relative to the largest; infinite where it fails."""
    full = tensors(_run(masked(model, some, gone), inputs))
    try:
        less = tensors(_run(removed(model, some, gone), inputs))
    except Exception:  # whatever a forward raises that counts on its widths
        return float("inf")
    return _apart(full, less)


def _apart(full: Sequence[Tensor], less: Sequence[Tensor]) -> float:
    """By the numbers that are not whole: classes and flags may change by rounding alone, and only their shapes count."""
    if [t.shape for t in full] != [t.shape for t in less]:
        return float("inf")
    worst = [
        ((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny)).item()
        for a, b in zip(full, less, strict=True)
        if a.numel() and (a.is_floating_point() or a.is_complex())
    ]
    return max((w if w == w else float("inf") for w in worst), default=0.0)


def _run(model: nn.Module, inputs: Any) -> Any:
    torch.manual_seed(0)  # what a network draws is the same each time
    return call(model, inputs)


# -- whether the outputs would tell ---------------------------------------------------------------------


def _blind(trial: _Trial, some: Sequence[Group]) -> list[Group]:
    """The groups whose channels the outputs do not depend on: behind a ReLU that is never positive every answer is right."""
    # A backward tells it of nearly all of them at once; it cannot see through a rounding, a choice, or no_grad.
    dark = _dark(trial.model, some, {}, trial.inputs, unknown=True)
    return [g for g in dark if not _moves(trial, g)]


def _moves(trial: _Trial, group: Group) -> bool:
    zeroed = tensors(_run(masked(trial.model, [group], _third([group])), trial.inputs))
    return _apart(trial.answers, zeroed) > 0


def _dark(
    model: nn.Module, some: Sequence[Group], gone: Mapping[str, Sequence[int]], inputs: Any, *, unknown: bool = False
) -> list[Group]:
    """The groups on whose other filters no answer depends, by its gradient; ``unknown``: also where there is none."""
    modules, slopes = dict(model.named_modules()), _slopes(model, inputs)
    found: list[Group] = []
    for group in some:
        leader = group.members[0]
        slope = slopes.get(f"{leader.module}.weight")
        if slope is None:
            found += [group] if unknown else []
            continue
        stay = [c for c in range(group.size) if c not in set(gone.get(group.name, ()))]
        if not filters_of(slope, modules[leader.module], leader)[stay].any():
            found.append(group)
    return found


def _slopes(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """The gradient of all answers, each with a weight of its own, at every parameter that they depend on."""
    own = copied(model).requires_grad_(False)
    parameters = {name: p.requires_grad_() for name, p in own.named_parameters() if p.is_floating_point()}
    try:
        with torch.enable_grad():
            answers = [t for t in tensors(_run(own, inputs)) if t.requires_grad and t.is_floating_point()]
            generator = torch.Generator().manual_seed(0)
            total = sum((t * torch.randn(t.shape, generator=generator).to(t)).sum() for t in answers)
            if not isinstance(total, Tensor):
                return {}
            found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    except Exception:  # a forward that has no backward
        return {}
    return {name: slope for name, slope in zip(parameters, found, strict=True) if slope is not None}


# -- random weights -------------------------------------------------------------------------------------


def _scrambled(model: nn.Module, inputs: Any, draw: int) -> _Trial:
    """The model with random weights that hide nothing (zeros and ones would).

    In double precision and on random inputs if it can be, else in single precision or its own, and on numbers between the
    example's smallest and largest, or the example itself.
    """
    generator = torch.Generator().manual_seed(draw)
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is None or not tensor.is_floating_point():
                    continue
                random = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                if name in module._buffers:
                    if name not in ("running_mean", "running_var"):
                        continue
                    random = 0.5 + random.abs() if name == "running_var" else 0.3 * random
                elif tensor.ndim > 1:
                    random = random * (2.0 / max(1, tensor[0].numel())) ** 0.5
                else:
                    random = 1.0 + 0.3 * random if name == "weight" else 0.3 * random
                tensor.copy_(random.to(tensor.device, tensor.dtype))
    fails = "its answers are not finite"
    for dtype in (torch.float64, torch.float32, None):
        own = copied(model).eval() if dtype is None else copied(model).eval().to(dtype)
        tolerance = _ROUGH if dtype is None else _TOLERANCE[dtype]
        for numbers in (_normal, _between, _same):
            given = changed(inputs, lambda tensor, numbers=numbers, dtype=dtype: _cast(tensor, dtype, numbers, draw))
            try:
                answers = tensors(_run(own, given))
            except Exception as error:  # a forward that makes a precision itself, or takes certain numbers only
                fails = f"{type(error).__name__}: {error}"
                continue
            if all(bool(t.isfinite().all()) for t in answers):
                return _Trial(own, given, answers, tolerance)
    raise LimbeckError(
        f"this {type(model).__name__} does not run with random weights, so that what removing channels does to it cannot "
        f"be tried out: {fails}"
    )


def _cast(tensor: Tensor, dtype: torch.dtype | None, numbers: Callable[[Tensor, int], Tensor], draw: int) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return numbers(tensor, draw).to(tensor.device, tensor.dtype if dtype is None else dtype)


def _normal(like: Tensor, draw: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw + 1)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _between(like: Tensor, draw: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw + 1)
    low, high = (like.double().min().item(), like.double().max().item()) if like.numel() else (0.0, 0.0)
    return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=torch.float64)


def _same(like: Tensor, draw: int) -> Tensor:
    return like
