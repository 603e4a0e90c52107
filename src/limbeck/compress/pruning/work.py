"""What `limbeck.compress.prune.Prune` does when it is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor, nn

from limbeck.compress.pruning.compare import moved_by
from limbeck.compress.pruning.graph import channel_graph, few
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judge import cannot_judge, judge
from limbeck.compress.pruning.labels import whole_groups
from limbeck.compress.pruning.reconstruct import REPAIRS, repair
from limbeck.compress.pruning.select import Row, checked, going, row_of
from limbeck.compress.pruning.surgery import masked, removed
from limbeck.compress.pruning.targets import touches, widths_of
from limbeck.compress.statistics import ANEW, recalibrated
from limbeck.compress.trial import require_trainable
from limbeck.compressor import silent, tell
from limbeck.data.iterables import Batches
from limbeck.errors import LimbeckError, NameUnknown, NonFiniteError, listed, unknown
from limbeck.models.macs import count_macs
from limbeck.randomness import base_seed

if TYPE_CHECKING:
    from limbeck.compress.prune import Prune


def pruned(
    told: Prune, model: nn.Module, *, example: Any, calibration: Iterable[Any], original: nn.Module
) -> nn.Module:
    """A copy of a model with fewer channels; see `limbeck.compress.prune.Prune`."""
    calibration = Batches(calibration, "the calibration batches")
    _finite(model)
    graph = channel_graph(model, example)
    ours = _chosen(told, model, graph.groups)
    ours, unjudged = _judged(told.by, model, ours)
    bases = {g.name: g.size for g in channel_graph(original, example).groups} if original is not model else {}
    rows = [
        row_of(g, base=max(g.size, bases.get(g.name, g.size)), multiple=told.multiple, minimum=told.minimum)
        for g in ours
    ]
    scores = checked(
        ours, judge(model, told.by, ours, example=example, calibration=calibration, seed=base_seed(told.seed))
    )
    before = count_macs(original, few(example, 1))
    cuts = _cuts(told, model, original, ours, rows, scores, example, before, calibration)
    cut = cuts[0] if len(cuts) == 1 else _nearest(told, model, ours, cuts, calibration)
    if told.soft and told.step is not None and told.step < told.steps:
        new = masked(model, ours, cut.gone, sides=("out",))
        silent(new)
        tell(
            new,
            f"{sum(map(len, cut.gone.values()))} of {sum(g.size for g in ours)} filters are zero and may come back",
            *cut.why,
            zeroed={name: len(channels) for name, channels in cut.gone.items()},
        )
        return new
    made = cut.made or _made(told, model, ours, cut.gone, calibration)
    new = made.network
    silent(new)
    require_trainable(new, model, few(example))
    after = count_macs(new, few(example, 1))
    counts = [sum(p.numel() for p in net.parameters()) for net in (original, new)]
    notes = [
        f"{before:,} MACs became {after:,} ({after / before:.1%}), {counts[0]:,} parameters became {counts[1]:,}",
        *cut.reached,
        *cut.why,
        *made.notes,
        *_left({**graph.left, **unjudged}),
    ]
    tell(
        new,
        *notes,
        by=told.by,
        scope=cut.scope,
        widths={row.name: [row.base, cut.widths[row.name]] for row in rows},
        macs=[before, after],
        parameters=counts,
        left={**graph.left, **unjudged},
    )
    return new


# -- which way ------------------------------------------------------------------------------------------


class _Made(NamedTuple):
    """A smaller network, and sentences about its repair."""

    network: nn.Module
    notes: list[str]


class _Cut(NamedTuple):
    """One way to reach the target.

    Attributes:
        scope: "layer" or "global".
        widths: that are left, by group.
        gone: the channels that go, by group.
        reached: sentences about the target.
        why: sentences about why it is this one.
        made: the network, where it has been made already.
    """

    scope: Literal["layer", "global"]
    widths: dict[str, int]
    gone: dict[str, list[int]]
    reached: list[str]
    why: list[str]
    made: _Made | None


def _cuts(
    told: Prune,
    model: nn.Module,
    original: nn.Module,
    groups: Sequence[Group],
    rows: Sequence[Row],
    scores: Mapping[str, Tensor],
    example: Any,
    before: int,
    calibration: Iterable[Any],
) -> list[_Cut]:
    """The ways among which the settings leave a choice; those that differ.

    A part of the channels costs more or less by where they go, so that answers alone would not tell which way is better.
    """
    scopes: tuple[Literal["layer", "global"], ...] = ("layer", "global") if told.scope == "auto" else (told.scope,)
    if told.scope == "auto" and (told.keep is not None or next(iter(calibration), None) is None):
        scopes = ("layer",)
    found: list[_Cut] = []
    for scope in scopes:
        widths, reached = widths_of(replace(told, scope=scope), model, original, groups, rows, scores, example, before)
        if all(widths != other.widths for other in found):
            found.append(_Cut(scope, widths, going(rows, scores, widths), reached, [], None))
    return found


def _nearest(
    told: Prune, model: nn.Module, groups: Sequence[Group], cuts: Sequence[_Cut], calibration: Iterable[Any]
) -> _Cut:
    """The way whose network answers most like the model; of equal ones the first."""
    made = [_made(told, model, groups, cut.gone, calibration) for cut in cuts]
    far = [moved_by(model, one.network, calibration) for one in made]
    best = far.index(min(far))
    names = {"layer": "the same part of every layer", "global": "one ranking of all channels"}
    measured = ", ".join(f"{far[i]:.3g} by {names[cut.scope]}" for i, cut in enumerate(cuts))
    why = f"scope = {cuts[best].scope!r}, tried on calibration batches: outputs move by so much of their length: {measured}"
    return cuts[best]._replace(made=made[best], why=[why])


def _made(
    told: Prune,
    model: nn.Module,
    groups: Sequence[Group],
    gone: Mapping[str, Sequence[int]],
    calibration: Iterable[Any],
) -> _Made:
    new = removed(model, groups, gone)
    fitted = _refit(told, model, new, groups, gone, calibration)
    anew = told.recalibrate and recalibrated(new, calibration)
    return _Made(new, [*fitted, *([ANEW] if anew else [])])


def _refit(
    told: Prune,
    model: nn.Module,
    new: nn.Module,
    groups: Sequence[Group],
    gone: Mapping[str, Sequence[int]],
    calibration: Iterable[Any],
) -> list[str]:
    if not told.refit or told.by not in REPAIRS or not any(gone.values()):
        return []
    kept = {g.name: [c for c in range(g.size) if c not in set(gone[g.name])] for g in groups}
    errors = repair(model, new, groups, kept, told.by, calibration=calibration, seed=base_seed(told.seed)).values()
    count = max(1, len(errors))
    before, after = sum(e.before for e in errors) / count, sum(e.after for e in errors) / count
    return [
        f"{len(errors)} layers were fitted anew: mean relative error of their answers {before:.3g}, then {after:.3g}"
    ]


def _finite(model: nn.Module) -> None:
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise NonFiniteError(f"the weights {name!r} are non-finite, so no channel of this network can be judged")


# -- which groups ---------------------------------------------------------------------------------------


def _chosen(told: Prune, model: nn.Module, groups: Sequence[Group]) -> list[Group]:
    known = [name for name, _ in model.named_modules() if name]
    for name in (*told.ignore, *told.layers):
        if name not in known:
            raise NameUnknown(unknown("layer", name, known, f"this {type(model).__name__}"))
    modules = dict(model.named_modules())
    ours = [
        g
        for g in groups
        if not any(touches(g, name) for name in told.ignore) and (told.residual or len(_makers(g, modules)) == 1)
    ]
    if not ours:
        raise LimbeckError(
            f"of the {len(groups)} groups of channels that could be removed none is left: `ignore` names them all"
            + ("" if told.residual else ", or they are made by several layers together (residual = False)")
        )
    for name in told.layers:
        if not any(touches(g, name) for g in ours):
            raise LimbeckError(f"layers: no channel that {name!r} makes can be removed")
    return ours


def _judged(by: str, model: nn.Module, groups: Sequence[Group]) -> tuple[list[Group], dict[str, str]]:
    """The groups that the score can say something about, and why it cannot about the others.

    Raises:
        LimbeckError: it can say nothing about any of them.
    """
    why = {g.name: told for g in groups if (told := cannot_judge(by, model, g)) is not None}
    if len(why) == len(groups):
        raise LimbeckError(next(iter(why.values())))
    return [g for g in groups if g.name not in why], why


def _makers(group: Group, modules: Mapping[str, nn.Module]) -> list[str]:
    return [m.module for m in group.of("out") if m.module not in modules or not whole_groups(modules[m.module])]


def _left(left: Mapping[str, str]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for path, why in left.items():
        if why != "it is the output of the network":
            reasons.setdefault(why, []).append(path)
    return [f"left whole: {listed(paths)}: {why}" for why, paths in reasons.items()]
