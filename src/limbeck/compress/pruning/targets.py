"""How wide the layers become so that a part of the channels, of the arithmetic or of the time is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.batches import batch_size, resized
from limbeck.compress.cost import latency
from limbeck.compress.pruning.arithmetic import macs_of
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judged import Judged
from limbeck.compress.pruning.select import (
    COMPARABLE,
    Row,
    Widths,
    by_layer,
    by_ranking,
    ranked,
    settle,
    stepped,
)
from limbeck.compress.trial import answers
from limbeck.errors import HyperParameterError, listed
from limbeck.models.macs import count_macs

if TYPE_CHECKING:
    from limbeck.compress.prune import Prune

_RAISES = 8  # widths that may be tried one step wider when time is the target: each try is timed
_ROUNDING = 1e-6  # of the whole network's arithmetic: products of an attention that shrink with it are far above
_Wanted = Callable[[float], Mapping[str, float]]
_Count = Callable[[Mapping[str, int]], int]


def within(model: nn.Module, path: str) -> frozenset[str]:
    """The modules at a path and inside it, by the first path of each."""
    first = {id(module): name for name, module in model.named_modules()}
    return frozenset(first[id(module)] for module in model.get_submodule(path).modules())


def touches(group: Group, paths: frozenset[str]) -> bool:
    """Whether one of these modules, or a parameter of theirs, makes channels of the group."""
    return any(m.module in paths or m.module.rpartition(".")[0] in paths for m in group.of("out"))


def widths_of(told: Prune, judged: Judged) -> tuple[Widths, list[str]]:
    """The widths, and sentences about what was reached."""
    settled = _settled(told, judged)
    free = [row for row in judged.rows if row.name not in settled]
    if not free:
        return settled, []
    wanted = _wanted(told, judged, free)
    if told.keep is not None:
        wide, reached = _by_channels(told, told.keep, free, wanted)
    elif told.macs is not None:
        wide, reached = _by_arithmetic(told, told.macs, judged, settled, free, wanted)
    else:
        assert told.latency is not None
        wide, reached = _by_time(told, told.latency, judged, settled, free, wanted)
    return {**settled, **wide}, [reached]


def _settled(told: Prune, judged: Judged) -> Widths:
    """The widths that `layers` names, whatever the target is."""
    named = {g.name: part for g in judged.groups if (part := _own_part(told, judged.model, g)) is not None}
    return {
        row.name: stepped(row, told.on_the_way(named[row.name]) * row.base) for row in judged.rows if row.name in named
    }


def _own_part(told: Prune, model: nn.Module, group: Group) -> float | None:
    """What `layers` says of a group: the innermost paths count, and must agree."""
    inside = {path: within(model, path) for path in told.layers}
    at = {path: modules for path, modules in inside.items() if touches(group, modules)}
    inmost = [path for path in at if not any(other < at[path] for other in at.values())]
    parts = {path: told.layers[path] for path in inmost}
    if len(set(parts.values())) > 1:
        said = ", ".join(f"{path!r}: {part:g}" for path, part in parts.items())
        makers = listed(m.module for m in group.of("out"))
        raise HyperParameterError(
            f"layers = {{{said}}}: these make channels that can only go together ({makers}), so that one part must hold for all; name one of them"
        )
    return next(iter(parts.values()), None)


def _wanted(told: Prune, judged: Judged, free: Sequence[Row]) -> _Wanted:
    """Unrounded widths for a part of the channels to be kept, as the scope says."""
    if told.scope == "layer":
        return lambda keep: by_layer(free, keep)
    toll = _toll(told.flops, _counter(judged), judged) if told.flops else None
    ranking = ranked(free, judged.scores, comparable=told.by in COMPARABLE, toll=toll)
    return lambda keep: by_ranking(free, ranking, keep)


# -- a part of the channels -----------------------------------------------------------------------------


def _by_channels(told: Prune, asked: float, free: Sequence[Row], wanted: _Wanted) -> tuple[Widths, str]:
    keep, base = told.on_the_way(asked), sum(row.base for row in free)
    exact = wanted(keep)
    wide = {row.name: stepped(row, exact[row.name]) for row in free}

    def share(widths: Mapping[str, int]) -> float:
        return sum(widths[row.name] for row in free) / base

    if not _finest(free) and share({row.name: row.least for row in free}) <= keep:
        wide = settle(free, wanted, share, keep, start=keep, what=f"keep = {asked}")
    return wide, f"{share(wide):.1%} of the channels stay, {keep:.1%} were asked for"


def _finest(rows: Sequence[Row]) -> bool:
    return all(row.step == 1 for row in rows)


# -- arithmetic -----------------------------------------------------------------------------------------


def _by_arithmetic(
    told: Prune, asked: float, judged: Judged, settled: Widths, free: Sequence[Row], wanted: _Wanted
) -> tuple[Widths, str]:
    before = judged.macs
    target = told.on_the_way(asked if asked < 1 else asked / before) * before
    if target > before:
        whole = {row.name: row.size for row in free}
        return whole, f"the network has {before:,} MACs and may have {target:,.0f}"
    count = _counter(judged)
    wide = settle(
        free,
        wanted,
        lambda widths: count({**settled, **widths}),
        target,
        what=f"macs = {asked}",
        raises=0 if _finest(free) and told.scope == "global" else None,
    )
    return wide, f"{target:,.0f} MACs were asked for"


def _counter(judged: Judged) -> _Count:
    """Multiply-accumulates of widths: by arithmetic, or by cutting and counting where layers are not all that multiplies."""
    counted: dict[tuple[int, ...], int] = {}

    def cut(widths: Mapping[str, int]) -> int:
        key = tuple(widths[row.name] for row in judged.rows)
        if key not in counted:
            counted[key] = count_macs(judged.cut(widths), judged.sample)
        return counted[key]

    modules = dict(judged.model.named_modules())
    if all(m.module in modules or m.side == "norm" for g in judged.groups for m in g.members):
        quick = macs_of(judged.model, judged.groups, judged.sample)
        half = {row.name: max(row.least, row.size // 2) for row in judged.rows}
        try:
            agree = abs(quick(half) - cut(half)) <= _ROUNDING * judged.macs
        except Exception:  # a forward that does not take these widths: nothing is known, and nothing is lost
            agree = True
        if agree:
            return quick
    return cut


def _toll(flops: float, count: _Count, judged: Judged) -> dict[str, float]:
    """What a channel of each group loses of its score for the arithmetic that goes with it, from the widths as they are."""
    whole = judged.whole
    saved = {name: count(whole) - count({**whole, name: size - 1}) for name, size in whole.items() if size > 1}
    return {name: flops * 2 * macs / 1e6 for name, macs in saved.items()}


# -- time -----------------------------------------------------------------------------------------------


def _by_time(
    told: Prune, asked: float, judged: Judged, settled: Widths, free: Sequence[Row], wanted: _Wanted
) -> tuple[Widths, str]:
    timed = _Timer(judged, told.batch)
    part = asked if asked < 1 else None
    if part is None and told.step is not None and told.step < told.steps:
        part = asked / timed.alone()  # on the way there are only parts of the whole network
    relative = part is not None
    target = told.on_the_way(part) if part is not None else asked
    wide = settle(
        free,
        wanted,
        lambda widths: timed({**settled, **widths}, relative),
        target,
        what=f"latency = {asked}",
        raises=_RAISES,
        rounds=6,
    )
    got = timed({**settled, **wide}, relative)
    unit = " of the time" if relative else " ms"
    return wide, f"measured latency: {got:.3g}{unit}, {target:.3g}{unit} were asked for"


def _samples(judged: Judged, batch: int) -> Any:
    inputs = resized(judged.example, batch)
    if answers(judged.model, inputs) is None:
        raise HyperParameterError(
            f"batch = {batch}: the network does not run on so many samples, though it does on the example's {batch_size(judged.example)}; "
            "give `batch` a number that it takes"
        )
    return inputs


class _Timer:
    """Measured latency of widths; each is measured once."""

    def __init__(self, judged: Judged, batch: int) -> None:
        self.judged, self.inputs = judged, _samples(judged, batch)
        self.known: dict[tuple[int, ...], tuple[float, float]] = {}

    def __call__(self, widths: Mapping[str, int], relative: bool) -> float:
        key = tuple(widths[row.name] for row in self.judged.rows)
        if key not in self.known:
            networks = {"whole": self.judged.original, "small": self.judged.cut(widths)}
            times = latency(networks, self.inputs, repeats=20, warmup=3)
            self.known[key] = (times["small"].median_ms, times["small"].median_ms / times["whole"].median_ms)
        return self.known[key][int(relative)]

    def alone(self) -> float:
        return latency({"whole": self.judged.original}, self.inputs, repeats=20, warmup=3)["whole"].median_ms
