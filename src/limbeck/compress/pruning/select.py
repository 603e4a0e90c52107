"""How many channels of which group go: by ratio, by one ranking over all groups, and until a budget is met.

Scores are low where a channel should go first.  Of equal scores the lower index goes first.  Exactly so many go as were
asked for, whatever the scores are: no threshold decides, which could take twice as many where half of them are zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limbeck.compress.pruning.groups import Group
from limbeck.errors import HyperParameterError, LimbeckError, NonFiniteError, ShapeError

Widths = dict[str, int]
Measure = Callable[[Mapping[str, int]], float]

# Scores that mean the same in every layer as they are; the others are divided by their root mean square in the layer.
COMPARABLE = frozenset(
    ("slimming", "random", "apoz", "taylor", "taylor_gate", "taylor_weight", "obd", "oracle", "lasso", "thinet")
)


@dataclass(frozen=True)
class Row:
    """A group, as far as selection is concerned.

    Attributes:
        name: of the group.
        size: channels it has now.
        base: channels it had in the network that ratios refer to.
        step: its kept width is a multiple of this, or its whole size.
        least: at least so many stay.
    """

    name: str
    size: int
    base: int
    step: int = 1
    least: int = 1


def step_of(width: int, multiple: int | Literal["auto"] = "auto") -> int:
    """The step in which a layer's width is cut.

    Args:
        width: channels of the whole layer.
        multiple: a number, or "auto": 16 for 128 channels and more, and for fewer a power of two of which the
            layer holds eight or more.  A number too large for a layer is halved until the layer holds two.

    >>> [step_of(w) for w in (10, 16, 32, 64, 128, 512)], [step_of(w, 8) for w in (6, 12, 16)]
    ([1, 2, 4, 8, 16, 16], [2, 4, 8])
    """
    if multiple == "auto":
        return next((step for step in (16, 8, 4, 2) if width >= 8 * step), 1)
    step = multiple
    while step > 1 and 2 * step > width:
        step //= 2
    return max(1, step)


def row_of(group: Group, *, base: int | None = None, multiple: int | Literal["auto"] = "auto", minimum: int = 1) -> Row:
    """A group with its step and its least width; a channel that takes several filters along counts as so many."""
    base = group.size if base is None else base
    each = max(1, len(group.members[0].index[0]))
    step = step_of(base * each, multiple)
    step //= math.gcd(step, each)
    if 2 * step > base:
        step = 1
    return Row(group.name, group.size, base, step, min(group.size, -(-minimum // step) * step))


def order(scores: Tensor) -> list[int]:
    """The channels in the order in which they go; of equal ones the lower index first.

    >>> order(torch.tensor([2.0, 1.0, 3.0, 1.0]))
    [1, 3, 0, 2]
    """
    return torch.argsort(scores.double(), stable=True).tolist()


def kept_share(size: int, keep: float) -> int:
    """How many channels a part is: rounded down, never none.

    >>> [kept_share(n, 0.9) for n in (16, 32, 64, 1)]
    [14, 28, 57, 1]
    """
    return max(1, math.floor(keep * size + 1e-9))


def stepped(row: Row, width: float) -> int:
    """The largest width that may be had and is no larger than this one; the least, where there is none."""
    if width >= row.size:
        return row.size
    return min(row.size, max(row.least, int(width + 1e-9) // row.step * row.step))


def by_layer(rows: Sequence[Row], keep: float) -> dict[str, float]:
    """The same part of every group: how many channels that would be, unrounded."""
    return {row.name: min(float(row.size), keep * row.base) for row in rows}


def ranked(
    rows: Sequence[Row], scores: Mapping[str, Tensor], *, comparable: bool, toll: Mapping[str, float] | None = None
) -> list[str]:
    """One ranking over all groups: whose channel goes first, second, and so on; each group's least is left out.

    Args:
        rows: the groups.
        scores: of their channels.
        comparable: whether scores mean the same in every group; others are divided by their root mean square in it.
        toll: what is taken off the scores of a group's channels after that; None: nothing.

    >>> gammas = {"a": torch.tensor([0.9, 0.01, 0.5]), "b": torch.tensor([0.02, 0.03, 0.8, 0.7])}
    >>> ranked([Row("a", 3, 3), Row("b", 4, 4)], gammas, comparable=True)[:3]
    ['a', 'b', 'b']
    >>> ranked([Row("a", 3, 3), Row("b", 4, 4)], gammas, comparable=True, toll={"a": 0.5})[:3]
    ['a', 'a', 'b']
    """
    listed: list[tuple[float, int, int]] = []
    for place, row in enumerate(rows):
        values = scores[row.name].double()
        if not comparable:
            mean = values.square().mean().sqrt().item()
            values = values / mean if mean > 0 else values
        values = values - (toll or {}).get(row.name, 0.0)
        going = order(values)[: row.size - row.least]
        listed += [(values[i].item(), place, i) for i in going]
    return [rows[place].name for _, place, _ in sorted(listed)]


def by_ranking(rows: Sequence[Row], ranking: Sequence[str], keep: float) -> dict[str, float]:
    """The widths when the lowest of the ranking go, so many that this part of all channels is left."""
    base, now = sum(row.base for row in rows), sum(row.size for row in rows)
    count = math.floor((1 - keep) * base + 1e-9) - (base - now)
    widths = {row.name: float(row.size) for row in rows}
    for name in ranking[: max(0, count)]:
        widths[name] -= 1
    return widths


def settle(
    rows: Sequence[Row],
    wanted: Callable[[float], Mapping[str, float]],
    measure: Measure,
    target: float,
    *,
    start: float | None = None,
    what: str,
    raises: int | None = None,
    rounds: int = 40,
) -> Widths:
    """The widths whose measure comes nearest to the target from below.

    First the largest part that can be kept is found by bisection, all widths rounded down to their steps.  Then widths
    are raised by one step each, those first that rounding has taken most from, as far as the target allows.

    Args:
        rows: the groups.
        wanted: widths, unrounded, for a part to be kept in [0, 1]; more for a larger part.
        measure: what the widths cost.
        target: what they may cost.
        start: the part to try first, and the largest that is allowed; None: all.
        what: name of the target, for messages.
        raises: how many widths may be tried one step wider afterwards; None: all.
        rounds: of the bisection.

    Raises:
        HyperParameterError: even the least widths cost more.
    """

    def rounded(keep: float) -> Widths:
        exact = wanted(keep)
        return {row.name: stepped(row, exact[row.name]) for row in rows}

    slack = abs(target) * 1e-9
    high = 1.0 if start is None else start
    best, part = rounded(high), high
    if measure(best) > target + slack:
        low, best, part = 0.0, rounded(0.0), 0.0
        if (reached := measure(best)) > target + slack:
            raise HyperParameterError(
                f"{what}: with every layer at its least width {reached:.4g} are left, and {target:.4g} are asked for; give a larger "
                f"{what.split()[0]}, ignore fewer layers, or lower `minimum` or `multiple`"
            )
        for _ in range(rounds):
            middle = (low + high) / 2
            tried = rounded(middle)
            if tried == best or measure(tried) <= target + slack:
                low, best, part = middle, tried, middle
            else:
                high = middle
            if high - low < 1e-6:
                break
    exact = wanted(part)
    could = [row for row in rows if best[row.name] < row.size]
    lost = sorted(
        could, key=lambda row: -(exact[row.name] - best[row.name]) / row.step
    )  # stable: in order of the network
    for row in lost[:raises]:
        raised = {**best, row.name: min(row.size, best[row.name] + row.step)}
        if measure(raised) <= target + slack:
            best = raised
    return best


def going(rows: Sequence[Row], scores: Mapping[str, Tensor], widths: Mapping[str, int]) -> dict[str, list[int]]:
    """Which channels go so that these widths are left."""
    return {row.name: sorted(order(scores[row.name])[: row.size - widths[row.name]]) for row in rows}


def checked(groups: Sequence[Group], scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Scores that fit their groups.

    Raises:
        LimbeckError: a group has no scores.
        ShapeError: a group has another number of scores than of channels.
        NonFiniteError: a score is NaN.
    """
    for group in groups:
        if group.name not in scores:
            raise LimbeckError(f"the channels of {group.name!r} have no scores")
        if scores[group.name].shape != (group.size,):
            raise ShapeError(f"{group.name}: {group.size} channels and scores {list(scores[group.name].shape)}")
        if scores[group.name].isnan().any():
            raise NonFiniteError(f"the scores of {group.name!r} hold NaN")
    return scores
