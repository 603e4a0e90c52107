"""Which layers to look at where the user names none: the ends of a network's stages, and pairs of them in two networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import dropwhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.errors import TapError
from limbeck.hooks import hooked
from limbeck.taps import call, original, quiet, title

Pairs = tuple[tuple[str, str], ...]


class _Event(NamedTuple):
    name: str
    value: Tensor
    leaf: bool
    active: bool


def _events(model: nn.Module, inputs: Any) -> list[_Event]:
    """What every module returned in one dry forward, in the order of completion; one per tensor.

    Where several nested modules return the same tensor, the outermost gives it its name.  Modules that
    run more than once are left out: they cannot be tapped.
    """
    model = original(model)
    events: list[_Event] = []
    runs: dict[str, int] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            # A dropout returns its input here, in eval mode, and would lend it its name; in training it returns noise.
            if isinstance(module, nn.modules.dropout._DropoutNd):
                return
            if isinstance(output, Tensor) and output.is_floating_point():
                active = "activation" in type(module).__module__.rsplit(".", 1)[-1]  # torch's, timm's, transformers'
                events.append(_Event(name, output, not any(True for _ in module.children()), active))

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name]
    with hooked(handles), quiet(model), torch.compiler.set_stance("force_eager"):
        call(model, inputs)
    best: dict[int, _Event] = {}
    for event in events:
        if runs[event.name] > 1:
            continue
        before = best.pop(id(event.value), None)
        deeper = before is not None and before.name.count(".") < event.name.count(".")
        chosen = before if before is not None and deeper else event
        best[id(event.value)] = chosen._replace(active=event.active or (before is not None and before.active))
    return list(best.values())


def _falling(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sizes that are smaller than all before them: what a later layer blows up again is no stage."""
    kept: list[tuple[int, int]] = []
    for size in sizes:
        if not kept or size[0] * size[1] < kept[-1][0] * kept[-1][1]:
            kept.append(size)
    return kept


def stage_ends(model: nn.Module, inputs: Any) -> list[tuple[str, tuple[int, ...]]]:
    """The ends of a network's resolution stages: (path, shape), first to last.

    A stage is a stretch with one spatial size, larger than 1x1.  Its end is the last of the outermost
    modules with that size: "layer2" rather than "layer2.8.relu".  A bare stem in front of stages that
    are blocks is no stage; nor is the patch embedding of a transformer, whose other layers return tokens.
    """
    events = _events(model, inputs)
    maps = [e for e in events if e.value.ndim == 4 and e.value.shape[2] * e.value.shape[3] > 1]
    ends: list[_Event] = []
    for size in _falling(list(dict.fromkeys((e.value.shape[2], e.value.shape[3]) for e in maps))):
        here = [e for e in maps if tuple(e.value.shape[2:]) == size]
        outermost = min(e.name.count(".") for e in here)
        ends.append([e for e in here if e.name.count(".") == outermost][-1])
    while len(ends) > 1 and ends[0].leaf and "." not in ends[0].name and any(not e.leaf for e in ends[1:]):
        ends.pop(0)
    if len(ends) == 1 and any(e.value.ndim == 3 for e in events[events.index(ends[0]) + 1 :]):
        return []
    return [(e.name, tuple(e.value.shape)) for e in ends]


def hidden_layers(model: nn.Module, inputs: Any) -> list[tuple[str, tuple[int, ...]]]:
    """The hidden layers of a network without maps: (path, shape) of its activations, first to last."""
    events = [e for e in _events(model, inputs) if e.value.ndim in (2, 3)]
    modules = dict(original(model).named_modules())
    # What comes before the first weights (a flattening, say) is still the input.
    weighted = list(dropwhile(lambda e: next(modules[e.name].parameters(), None) is None, events))
    chosen = [e for e in events if e.active] or weighted[:-1]
    return [(e.name, tuple(e.value.shape)) for e in chosen]


def _by_depth(short: Sequence[str], long: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, long[max(0, round((i + 1) * len(long) / len(short)) - 1)]) for i, name in enumerate(short)]


def match(
    student: nn.Module, teacher: nn.Module, inputs: Any, *, setting: str = "pairs=[(student layer, teacher layer)]"
) -> Pairs:
    """Layer pairs (student, teacher) for when the user names none.

    The ends of the resolution stages of both networks, matched by relative depth; each stage of the
    network with fewer stages gets one partner.  ``setting`` is how the user would name layers, for the message.

    Raises:
        TapError: one of the networks has no maps with a spatial extent.
    """
    names = []
    for role, model in (("student", student), ("teacher", teacher)):
        ends = [name for name, _ in stage_ends(model, inputs)]
        if not ends:
            raise TapError(
                f"the {role} ({title(model)}) returns no [batch, channels, height, width] maps "
                f"from any module (but maybe from a patch embedding), so no layers can be chosen; name them: {setting}"
            )
        names.append(ends)
    ours, theirs = names
    if len(ours) <= len(theirs):
        return tuple(_by_depth(ours, theirs))
    return tuple((s, t) for t, s in _by_depth(theirs, ours))


def _alike(layers: Sequence[Sequence[tuple[str, tuple[int, ...]]]]) -> bool:
    """Whether the middle layers of both networks have the same kind of shape (vectors, or as many tokens)."""
    ours, theirs = (found[(len(found) - 1) // 2][1] for found in layers)
    return ours[:-1] == theirs[:-1]


def middle(student: nn.Module, teacher: nn.Module, inputs: Any) -> tuple[str, str]:
    """The middle layers (student, teacher): of the stage ends, or of the hidden layers where there are no stages.

    A network with fewer than two stage ends (a transformer, say) has no stages to be in the middle of; if both have hidden layers of tokens or vectors, these are taken.

    Raises:
        TapError: one of the networks has neither.
    """
    ends = [stage_ends(m, inputs) for m in (student, teacher)]
    if min(map(len, ends)) < 2:
        hidden = [hidden_layers(m, inputs) for m in (student, teacher)]
        ends = hidden if all(hidden) and _alike(hidden) else ends
    for role, found in zip(("student", "teacher"), ends, strict=True):
        if not found:
            raise TapError(f"the {role} has no hidden layer that limbeck can tap by itself; name one: pair=(s, t)")
    return (ends[0][(len(ends[0]) - 1) // 2][0], ends[1][(len(ends[1]) - 1) // 2][0])
