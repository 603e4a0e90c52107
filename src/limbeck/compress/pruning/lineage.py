"""Which groups of a network that has lost channels are which of those that it had before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from limbeck.compress.pruning.groups import Group, Member, Side

_Places = frozenset[tuple[str, Side, int]]


def lineage(wanted: Sequence[Group], before: Sequence[Group], now: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """The groups of today by their names of before, and those of before of which nothing can go any more.

    A group is known by the layers that it runs through: of two groups that one layer makes, the second bears the name of
    the first once that has a single channel.

    Args:
        wanted: the groups of before that are asked for.
        before: all groups of the network before it lost anything.
        now: its groups today.

    >>> from limbeck.compress.pruning.groups import Member
    >>> def group(name, size, reader):
    ...     each = tuple((i,) for i in range(size))
    ...     return Group(name, size, (Member("a", "out", each), Member(reader, "in", each)))
    >>> was = [group("a", 4, "b"), group("a#2", 8, "c")]
    >>> same, spent = lineage(was, was, [group("a", 6, "c")])
    >>> [(g.name, g.size) for g in same], [g.name for g in spent]
    ([('a#2', 6)], ['a'])
    """
    names = {_places(group): group.name for group in before}
    today = {names[_places(group)]: group for group in now if _places(group) in names}
    same = [replace(today[group.name], name=group.name) for group in wanted if group.name in today]
    return same, [group for group in wanted if group.name not in today]


def channels_left(
    spent: Sequence[Group], same: Sequence[Group], before: Sequence[Group], old: nn.Module, new: nn.Module
) -> dict[str, int]:
    """How many channels the groups of which nothing can go any more have by now: one, or more where a layer counts on them.

    What a layer has lost is what its groups have lost together.

    Args:
        spent, same: what `lineage` found.
        before: the groups of the network before it lost anything.
        old, new: that network, and what it is today.
    """
    sizes = {group.name: group.size for group in same}
    found: dict[str, int] = {}
    for group in spent:
        leader, each = group.members[0], len(group.members[0].index[0])
        lost = _width(old, leader) - _width(new, leader)
        for other in (g for g in before if g.name in sizes | found):
            shared = sum(len(m.index[0]) for m in other.of("out") if m.module == leader.module)
            lost -= (other.size - (sizes | found)[other.name]) * shared
        found[group.name] = min(group.size, max(1, group.size - lost // each))
    return found


def _width(model: nn.Module, member: Member) -> int:
    """The output channels of a layer, or the length of a parameter."""
    module = dict(model.named_modules()).get(member.module)
    if module is None:
        home, _, name = member.module.rpartition(".")
        return getattr(model.get_submodule(home), name).shape[member.dim]
    return int(getattr(module, "out_features" if isinstance(module, nn.Linear) else "out_channels"))


def _places(group: Group) -> _Places:
    return frozenset((member.module, member.side, member.dim) for member in group.members)
