"""The ways to reach a target, and which of them leaves the network's answers most as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import nn

from limbeck.compress.pruning.closed import take_over
from limbeck.compress.pruning.compare import moved_by
from limbeck.compress.pruning.judged import Judged
from limbeck.compress.pruning.reconstruct import REPAIRS, repair
from limbeck.compress.pruning.select import Widths
from limbeck.compress.pruning.targets import widths_of
from limbeck.compress.statistics import recalibrated
from limbeck.randomness import base_seed

if TYPE_CHECKING:
    from limbeck.compress.prune import Prune

Scope = Literal["layer", "global"]
_NAMES: dict[Scope, str] = {"layer": "the same part of every layer", "global": "one ranking of all channels"}


class Made(NamedTuple):
    """A smaller network, and sentences about its repair."""

    network: nn.Module
    notes: list[str]


class Way(NamedTuple):
    """One way to reach the target.

    Attributes:
        scope: "layer" or "global".
        widths: that are left, by group.
        reached: sentences about the target.
        why: sentences about why it is this way.
        made: the network, where it has been made already.
    """

    scope: Scope
    widths: Widths
    reached: list[str]
    why: list[str]
    made: Made | None


def way(told: Prune, judged: Judged) -> Way:
    """The way that the settings name, or, where they leave a choice, the one whose network answers most like the model."""
    found = _ways(told, judged)
    return found[0] if len(found) == 1 else _nearest(told, judged, found)


def made(told: Prune, judged: Judged, widths: Widths) -> Made:
    """The network with these widths: cut, fitted anew where the score has such a step, and recalibrated."""
    new = judged.cut(widths)
    if widths == judged.whole:
        return Made(new, [])
    fitted = _refit(told, judged, new, widths)
    anew = recalibrated(new, judged.calibration).notes if told.recalibrate else []
    return Made(new, [*fitted, *anew])


def _ways(told: Prune, judged: Judged) -> list[Way]:
    """All that differ.

    A part of the channels costs more or less by where they go, so that answers alone would not tell which way is better.
    """
    scopes: tuple[Scope, ...] = ("layer", "global") if told.scope == "auto" else (told.scope,)
    if told.scope == "auto" and (told.keep is not None or next(iter(judged.calibration), None) is None):
        scopes = ("layer",)
    found: list[Way] = []
    for scope in scopes:
        widths, reached = widths_of(replace(told, scope=scope), judged)
        if all(widths != other.widths for other in found):
            found.append(Way(scope, widths, reached, [], None))
    return found


def _nearest(told: Prune, judged: Judged, ways: Sequence[Way]) -> Way:
    """Of equal ones the first."""
    networks = [made(told, judged, one.widths) for one in ways]
    far = [moved_by(judged.model, one.network, judged.calibration) for one in networks]
    best = far.index(min(far))
    measured = ", ".join(f"{d:.3g} by {_NAMES[one.scope]}" for d, one in zip(far, ways, strict=True))
    chosen = ways[best]
    why = f"scope = {chosen.scope!r}, tried on calibration batches: outputs move by so much of their length: {measured}"
    return chosen._replace(why=[why], made=networks[best])


def _refit(told: Prune, judged: Judged, new: nn.Module, widths: Widths) -> list[str]:
    gone = judged.gone(widths)
    if told.refit and told.by == "slimming":
        behind = take_over(judged.model, new, judged.groups, gone, judged.sample)
        return [f"{len(behind)} layers took over the constant that closed channels say (their shift)"] * bool(behind)
    if not told.refit or told.by not in REPAIRS or not any(gone.values()):
        return []
    kept = {g.name: [c for c in range(g.size) if c not in set(gone[g.name])] for g in judged.groups}
    errors = repair(
        judged.model,
        new,
        judged.groups,
        kept,
        told.by,
        calibration=judged.calibration,
        seed=base_seed(told.seed),
    ).values()
    count = max(1, len(errors))
    before, after = sum(e.before for e in errors) / count, sum(e.after for e in errors) / count
    return [
        f"{len(errors)} layers were fitted anew: mean relative error of their answers {before:.3g}, then {after:.3g}"
    ]
