"""Which channels of a network can be removed, and what each of them takes along.

`groups` watches one forward (`limbeck.compress.pruning.labels`), reads the groups off, and then tries them out
(`limbeck.compress.pruning.trying`): what breaks the network, or changes what it computes, is left whole.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from limbeck.compress.answers import tensors
from limbeck.compress.finished import computed, require_unfinished, under_masks
from limbeck.compress.pruning.groups import Group, Member
from limbeck.compress.pruning.labels import Key, Ledger, Watch, Watcher, whole_groups
from limbeck.compress.pruning.trying import aside, tried
from limbeck.compress.trial import require_runs, smallest
from limbeck.errors import LimbeckError
from limbeck.models.swap import copied
from limbeck.taps import call, original

WEIGHED = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class ChannelGraph:
    """What can be removed from a network.

    Attributes:
        groups: in the order in which the network runs.
        left: layer -> why its output channels stay.
    """

    groups: tuple[Group, ...]
    left: Mapping[str, str]


def groups(model: nn.Module, example: Any) -> tuple[Group, ...]:
    """The groups of `channel_graph`."""
    return channel_graph(model, example).groups


def channel_graph(model: nn.Module, example: Any) -> ChannelGraph:
    """What can be removed from a network without changing its inputs or outputs.

    Followed are sums of branches, concatenation, splits and shuffles, flattening, depthwise and grouped convolutions,
    gates, and zero-padded shortcuts.  Heads of an attention can go where its module keeps their number (timm's).
    What is followed by a LayerNorm or GroupNorm stays: these take means over channels, so that no channel can go
    without a trace.

    Args:
        model: any module; it is copied and stays as it is.
        example: a batch as the model takes it, on its device; a mapping becomes keyword arguments.  Two samples of it
            are used, or as few as the model takes.

    Raises:
        LimbeckError: no channel of the network can be removed; the message says why for its layers.

    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> [(group.name, group.size) for group in groups(net, torch.zeros(2, 4))]
    [('0', 6)]
    """
    graph = looked_through(model, example)
    if not graph.groups:
        told = "; ".join(f"{path}: {why}" for path, why in list(graph.left.items())[:6])
        reasons = [words for words in (told, under_masks(model)) if words] or ["It has no layer with weights in front"]
        raise LimbeckError(
            f"no channel of this {type(model).__name__} can be removed. {'. '.join(reasons)}. "
            "Prune weights instead of channels, factorize, or quantize"
        )
    return graph


_COMPUTED = "its weight is made anew in every forward"
_RECURRENT = "a recurrent layer, whose states come back to its own gates, is never pruned"


@torch.inference_mode(False)  # in inference mode a network runs past what watches it
def looked_through(model: nn.Module, example: Any) -> ChannelGraph:
    """As `channel_graph`, of a network that may have nothing to remove."""
    require_unfinished(model, "Prune")
    require_runs(model, example)
    model = original(model)
    inputs = smallest(model, example, 2)
    trial = copied(model)
    ledger, ran = _watched(trial, inputs)
    found = [*_read_off(trial, ledger), *_heads(trial)]
    good, broken = tried(trial, found, inputs, ran)
    kept = {member.module for group in good for member in group.of("out")}
    left = {path: _RECURRENT for path, m in trial.named_modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))}
    left |= dict.fromkeys(computed(trial), _COMPUTED)
    reasons = ledger.fixed()
    for (path, side, _), (start, size) in ledger.slots.items():
        if side == "out" and path not in kept:
            roots = ledger.roots(torch.arange(start, start + size)).tolist()
            why = next((reasons[r] for r in roots if r in reasons), None)
            left[path] = why or "all its channels belong together"
    for group, why in broken:
        left |= {member.module: why for member in group.of("out") if member.module not in kept}
    order = {key[0]: i for i, key in enumerate(ledger.slots)}
    return ChannelGraph(tuple(sorted(good, key=lambda g: order.get(g.members[0].module, 0))), left)


def _watched(model: nn.Module, inputs: Any) -> tuple[Ledger, set[str]]:
    """What belongs together, and the layers that ran in evaluation."""
    ledger = Ledger()
    with aside():
        ran = _watch(model.eval(), inputs, ledger)
        weighed = {path for path, module in model.named_modules() if isinstance(module, WEIGHED)}
        saved = copy.deepcopy(model.state_dict())
        with suppress(Exception):  # one value per channel, targets that are missing: nothing is known of them then
            if not weighed <= ran or _shapes(model.train(), inputs) != _shapes(model.eval(), inputs):
                _watch(model.train(), inputs, ledger)  # heads that only run, outputs that only come, in training
        model.load_state_dict(saved)
        model.eval()
    ledger.settle()
    return ledger, ran


def _shapes(model: nn.Module, inputs: Any) -> list[torch.Size]:
    return [answer.shape for answer in tensors(call(model, inputs))]


def _watch(model: nn.Module, inputs: Any, ledger: Ledger) -> set[str]:
    watch = Watch(model, ledger)
    with Watcher(watch):
        output = call(model, inputs)
    watch.fix(tensors(output), "it is the output of the network")
    return watch.ran


# -- from labels to groups ------------------------------------------------------------------------------


def _read_off(model: nn.Module, ledger: Ledger) -> list[Group]:
    modules = dict(model.named_modules())
    fixed = ledger.fixed()
    classes: dict[int, dict[Key, list[int]]] = {}
    for key, (start, size) in ledger.slots.items():
        if key[1] == "in" and key[0] in modules and whole_groups(modules[key[0]]):
            continue
        for index, root in enumerate(ledger.roots(torch.arange(start, start + size)).tolist()):
            if root not in fixed:
                classes.setdefault(root, {}).setdefault(key, []).append(index)
    alike: dict[tuple[Any, ...], list[dict[Key, list[int]]]] = {}
    for taken in classes.values():
        if any(key[1] == "out" for key in taken):
            kind = tuple((key, len(index)) for key, index in taken.items())
            alike.setdefault(kind, []).append(taken)
    found: list[Group] = []
    used: dict[str, int] = {}
    for kind, channels in alike.items():
        if len(channels) < 2:
            continue
        keys = [key for key, _ in kind]
        leader = next(key for key in keys if key[1] == "out")
        channels.sort(key=lambda taken: taken[leader])
        keys.remove(leader)
        members = tuple(
            Member(path, side, tuple(tuple(taken[(path, side, dim)]) for taken in channels), dim)
            for path, side, dim in [leader, *keys]
        )
        used[leader[0]] = count = used.get(leader[0], 0) + 1
        found.append(Group(leader[0] + (f"#{count}" if count > 1 else ""), len(channels), members))
    return found


def _heads(model: nn.Module) -> list[Group]:
    """Attentions that say how many heads they have, and read it in their forward: their heads."""
    found: list[Group] = []
    for path, module in model.named_modules():
        if (shape := attention(module)) is None:
            continue
        heads, wide = shape
        all_wide = heads * wide
        inside = tuple(tuple(range(h * wide, (h + 1) * wide)) for h in range(heads))
        three = tuple(tuple(part * all_wide + i for part in range(3) for i in own) for own in inside)
        if heads > 1:
            qkv, proj = f"{path}.qkv", f"{path}.proj"
            found.append(Group(qkv, heads, (Member(qkv, "out", three), Member(proj, "in", inside))))
    return found


def attention(module: Any) -> tuple[int, int] | None:
    """Heads and their width, of an attention with one layer for queries, keys and values that keeps both as numbers."""
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    heads, wide, all_wide = (getattr(module, name, None) for name in ("num_heads", "head_dim", "attn_dim"))
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        return None
    if not isinstance(heads, int) or not isinstance(wide, int) or heads * wide != all_wide:
        return None
    return (heads, wide) if (proj.in_features, qkv.out_features) == (all_wide, 3 * heads * wide) else None
