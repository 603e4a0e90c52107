"""How wide the layers become so that a part of the channels, of the arithmetic or of the time is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from limbeck.compress.cost import latency
from limbeck.compress.pruning.arithmetic import macs_of
from limbeck.compress.pruning.graph import few
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.select import COMPARABLE, Row, by_layer, by_ranking, going, ranked, settle, stepped
from limbeck.compress.pruning.surgery import removed
from limbeck.models.macs import count_macs

if TYPE_CHECKING:
    from limbeck.compress.prune import Prune

_RAISES = 8  # widths that may be tried one step wider when time is the target: each try is timed


def touches(group: Group, path: str) -> bool:
    """Whether a layer at this path, or inside it, makes channels of the group."""
    return any(m.module == path or m.module.startswith(f"{path}.") for m in group.of("out"))


def widths_of(
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
