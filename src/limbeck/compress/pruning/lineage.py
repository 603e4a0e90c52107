"""Which groups of a network that has lost channels are which of those that it had before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from limbeck.compress.pruning.groups import Group, Side

_Places = frozenset[tuple[str, Side, int]]


def lineage(wanted: Sequence[Group], before: Sequence[Group], now: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """The groups of today by their names of before, and those of before of which a single channel is left.

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


def _places(group: Group) -> _Places:
    return frozenset((member.module, member.side, member.dim) for member in group.members)
