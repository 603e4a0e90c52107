"""What `limbeck.compress.prune.Prune` does when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from limbeck.compress.cost import latency
from limbeck.compress.pruning.arithmetic import macs_of
from limbeck.compress.pruning.graph import channel_graph, few
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judge import cannot_judge, judge
from limbeck.compress.pruning.labels import whole_groups
from limbeck.compress.pruning.reconstruct import REPAIRS, repair
from limbeck.compress.pruning.select import (
    COMPARABLE,
    Row,
    by_layer,
    by_ranking,
    checked,
    going,
    ranked,
    row_of,
    settle,
    stepped,
)
from limbeck.compress.pruning.surgery import masked, removed
from limbeck.compress.statistics import ANEW, recalibrated
from limbeck.compress.trial import require_trainable
from limbeck.compressor import silent, tell
from limbeck.data.iterables import Batches
from limbeck.errors import LimbeckError, NameUnknown, NonFiniteError, listed, unknown
from limbeck.models.macs import count_macs
from limbeck.randomness import base_seed

if TYPE_CHECKING:
    from limbeck.compress.prune import Prune

_RAISES = 8  # widths that may be tried one step wider when time is the target: each try is timed


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
    widths, reached = _widths(told, model, original, ours, rows, scores, example, before)
    gone = going(rows, scores, widths)
    if told.soft and told.step is not None and told.step < told.steps:
        new = masked(model, ours, gone, sides=("out",))
        silent(new)
        tell(
            new,
            f"{sum(map(len, gone.values()))} of {sum(g.size for g in ours)} filters are zero and may come back",
            zeroed={name: len(channels) for name, channels in gone.items()},
        )
        return new
    new = removed(model, ours, gone)
    silent(new)
    require_trainable(new, model, few(example))
    fitted = _refit(told, model, new, ours, gone, calibration)
    told_again = told.recalibrate and recalibrated(new, calibration)
    after = count_macs(new, few(example, 1))
    counts = [sum(p.numel() for p in net.parameters()) for net in (original, new)]
    notes = [
        f"{before:,} MACs became {after:,} ({after / before:.1%}), {counts[0]:,} parameters became {counts[1]:,}",
        *reached,
        *fitted,
        *_left({**graph.left, **unjudged}),
        *([ANEW] if told_again else []),
    ]
    tell(
        new,
        *notes,
        by=told.by,
        widths={row.name: [row.base, widths[row.name]] for row in rows},
        macs=[before, after],
        parameters=counts,
        left={**graph.left, **unjudged},
    )
    return new


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


def touches(group: Group, path: str) -> bool:
    """Whether a layer at this path, or inside it, makes channels of the group."""
    return any(m.module == path or m.module.startswith(f"{path}.") for m in group.of("out"))


def _makers(group: Group, modules: Mapping[str, nn.Module]) -> list[str]:
    return [m.module for m in group.of("out") if m.module not in modules or not whole_groups(modules[m.module])]


def _left(left: Mapping[str, str]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for path, why in left.items():
        if why != "it is the output of the network":
            reasons.setdefault(why, []).append(path)
    return [f"left whole: {listed(paths)}: {why}" for why, paths in reasons.items()]


# -- how wide -------------------------------------------------------------------------------------------


def _widths(
    told: Prune,
    model: nn.Module,
    original: nn.Module,
    groups: Sequence[Group],
    rows: Sequence[Row],
    scores: Mapping[str, Tensor],
    example: Any,
    before: int,
) -> tuple[dict[str, int], list[str]]:
    """The widths, and sentences about what was reached."""
    named: dict[str, float] = {}
    for path, part in told.layers.items():
        named |= {g.name: part for g in groups if touches(g, path)}
    settled = {row.name: stepped(row, told.on_the_way(named[row.name]) * row.base) for row in rows if row.name in named}
    free = [row for row in rows if row.name not in settled]
    if not free:
        return settled, []
    if told.scope == "layer":

        def wanted(keep: float) -> Mapping[str, float]:
            return by_layer(free, keep)
    else:
        toll = _toll(told.flops, _counter(model, groups, rows, scores, example), rows) if told.flops else None
        ranking = ranked(free, scores, comparable=told.by in COMPARABLE, toll=toll)

        def wanted(keep: float) -> Mapping[str, float]:
            return by_ranking(free, ranking, keep)

    finest = all(row.step == 1 for row in free)
    if told.keep is not None:
        keep, base = told.on_the_way(told.keep), sum(row.base for row in free)
        wide = {row.name: stepped(row, wanted(keep)[row.name]) for row in free}
        share = lambda widths: sum(widths[row.name] for row in free) / base  # noqa: E731
        least = {row.name: row.least for row in free}
        if not finest and share(least) <= keep:
            wide = settle(free, wanted, share, keep, start=keep, what=f"keep = {told.keep}")
        return {**settled, **wide}, [f"{share(wide):.1%} of the channels stay, {keep:.1%} were asked for"]
    if told.macs is not None:
        count = _counter(model, groups, rows, scores, example)
        target = told.on_the_way(told.macs if told.macs < 1 else told.macs / before) * before
        if target > before:
            return {row.name: row.size for row in rows}, [f"the network has {before:,} MACs and may have {target:,.0f}"]
        wide = settle(
            free,
            wanted,
            lambda widths: count({**settled, **widths}),
            target,
            what=f"macs = {told.macs}",
            raises=0 if finest and told.scope == "global" else None,
        )
        return {**settled, **wide}, [f"{target:,.0f} MACs were asked for"]
    assert told.latency is not None
    timed = _timer(told, model, original, groups, rows, scores, example)
    part = told.latency if told.latency < 1 else None
    if part is None:
        part = told.latency / timed.alone() if told.step is not None and told.step < told.steps else None
    target = told.on_the_way(part) if part is not None else told.latency
    relative = part is not None
    wide = settle(
        free,
        wanted,
        lambda widths: timed({**settled, **widths}, relative),
        target,
        what=f"latency = {told.latency}",
        raises=_RAISES,
        rounds=6,
    )
    got = timed({**settled, **wide}, relative)
    unit = " of the time" if relative else " ms"
    return {**settled, **wide}, [f"measured latency: {got:.3g}{unit}, {target:.3g}{unit} were asked for"]


def _toll(flops: float, count: Callable[[Mapping[str, int]], int], rows: Sequence[Row]) -> dict[str, float]:
    """What a channel of each group loses of its score for the arithmetic that goes with it, from the widths as they are."""
    whole = {row.name: row.size for row in rows}
    saved = {row.name: count(whole) - count({**whole, row.name: row.size - 1}) for row in rows if row.size > 1}
    return {name: flops * 2 * macs / 1e6 for name, macs in saved.items()}


def _counter(
    model: nn.Module, groups: Sequence[Group], rows: Sequence[Row], scores: Mapping[str, Tensor], example: Any
) -> Callable[[Mapping[str, int]], int]:
    """Multiply-accumulates of widths: by arithmetic, or by cutting and counting where modules multiply by themselves."""
    modules = dict(model.named_modules())
    if all(m.module in modules or m.side == "norm" for g in groups for m in g.members):
        return macs_of(model, groups, example)
    inputs = few(example, 1)
    return lambda widths: count_macs(removed(model, groups, going(rows, scores, widths)), inputs)


class _timer:
    """Measured latency of widths; each is measured once."""

    def __init__(
        self,
        told: Prune,
        model: nn.Module,
        original: nn.Module,
        groups: Sequence[Group],
        rows: Sequence[Row],
        scores: Mapping[str, Tensor],
        example: Any,
    ) -> None:
        self.model, self.original, self.groups, self.rows, self.scores = model, original, groups, rows, scores
        self.inputs = few(example, told.batch)
        self.known: dict[tuple[int, ...], tuple[float, float]] = {}

    def __call__(self, widths: Mapping[str, int], relative: bool) -> float:
        key = tuple(widths[row.name] for row in self.rows)
        if key not in self.known:
            small = removed(self.model, self.groups, going(self.rows, self.scores, widths))
            times = latency({"whole": self.original, "small": small}, self.inputs, repeats=20, warmup=3)
            self.known[key] = (times["small"].median_ms, times["small"].median_ms / times["whole"].median_ms)
        return self.known[key][int(relative)]

    def alone(self) -> float:
        return latency({"whole": self.original}, self.inputs, repeats=20, warmup=3)["whole"].median_ms
