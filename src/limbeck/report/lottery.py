"""Lottery tickets in a report: accuracy against density, the ticket beside its controls.

A run names the parts of a ticket's stage STAGE so: ``STAGE.0`` the dense training, ``STAGE.maskK`` the ticket of round K
before it is trained, ``STAGE.K`` after (the last round: ``STAGE``), and ``STAGE.maskK.CONTROL``, ``STAGE.K.CONTROL`` for
each control.  How dense a round is stands in the details of ``STAGE.maskK``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from limbeck.report import words
from limbeck.report.draw import Chart, chart, clip, end_labels, marker, series
from limbeck.report.read import number
from limbeck.report.tables import Cell, Column, Measured, Table
from limbeck.stats import Summary, paired

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKET, UNTRAINED = "ticket", "untrained"
_TITLES = {
    TICKET: "ticket",
    UNTRAINED: "ticket, untrained",
    "reinit": "new weights",
    "reinit_sign": "new weights, first signs",
    "reshuffle": "shuffled weights",
    "reshuffle_sign": "shuffled weights, first signs",
    "constant": "one size",
    "constant_sign": "one size, first signs",
    "rewind_nosign": "first sizes, other signs",
    "random": "random mask",
    "random_reinit": "random mask, new weights",
}


@dataclass(frozen=True)
class Point:
    """One network of a ticket's stage.

    Attributes:
        round: how often weights were dropped; 0: the dense network.
        density: the part of the weights that is left, mean over the seeds.
        accuracies: by seed, fractions.
        summary: of them.
    """

    round: int
    density: float
    accuracies: Mapping[int, float]
    summary: Summary


def tickets(measured: Sequence[Measured]) -> tuple[str, ...]:
    """The stages that were lottery tickets, by name."""
    names = {m.name for m in measured}
    return tuple(m.name for m in measured if {f"{m.name}.0", f"{m.name}.mask1"} <= names)


def lines(measured: Sequence[Measured], stage: str) -> dict[str, list[Point]]:
    """The series of a ticket's stage: "ticket", "untrained", and each control, by falling density.

    Every series begins with the dense network but the untrained one.  Networks that were not measured, and rounds whose
    density nobody recorded, are left out.
    """
    by_name = {m.name: m for m in measured}
    densities = {0: 1.0}
    untrained: dict[int, Measured] = {}
    controls: list[str] = []
    for name, m in by_name.items():
        found = re.fullmatch(rf"{re.escape(stage)}\.mask(\d+)(?:\.(\w+))?", name)
        if not found:
            continue
        k = int(found[1])
        if found[2]:
            controls += [found[2]] if found[2] not in controls else []
        elif (dense := _density(m)) is not None:
            densities[k], untrained[k] = dense, m
    last = max(densities)

    def network(k: int, control: str = "") -> Measured | None:
        name = stage if k == last and not control else f"{stage}.{k}" + (f".{control}" if control else "")
        return by_name.get(name)

    dense = by_name.get(f"{stage}.0")
    start = {0: dense}
    candidates: dict[str, dict[int, Measured | None]] = {
        TICKET: {**start, **{k: network(k) for k in untrained}},
        **{name: {**start, **{k: network(k, name) for k in untrained}} for name in controls},
        UNTRAINED: dict(untrained),
    }
    series_of = {
        name: [
            _point(k, densities[k], m) for k, m in sorted(by_round.items()) if m is not None and m.summary("accuracy")
        ]
        for name, by_round in candidates.items()
    }
    return {name: points for name, points in series_of.items() if any(p.round for p in points)}


def table(measured: Sequence[Measured], stage: str) -> Table | None:
    """One row per round: how dense, and how good the ticket and each control are; None without a measured round."""
    found = lines(measured, stage)
    if TICKET not in found:
        return None
    columns = (
        Column("round", "round"),
        Column("density", "weights left", help="of the weights under masks; biases and normalisation do not count"),
        *(Column(name, title_of(name)) for name in found),
    )
    rounds = sorted({p.round: p.density for points in found.values() for p in points}.items())
    at = {name: {p.round: p for p in points} for name, points in found.items()}
    rows = []
    for k, density in rounds:
        row = [Cell(str(k), value=k), Cell(f"{100 * density:.3g} %", value=density)]
        for name in found:
            row.append(_cell(at[name].get(k), at[TICKET].get(k) if name != TICKET and k else None))
        rows.append(tuple(row))
    notes = ("Below an accuracy: its difference from the ticket's in percentage points, paired by seed.",)
    return Table(f"{stage}: accuracy by the part of the weights that is left", columns, tuple(rows), notes)


def density_chart(key: str, measured: Sequence[Measured], stage: str) -> Chart | None:
    """Accuracy against density, the ticket and all controls, one standard deviation up and down.

    Args:
        key: unique on the page.
        measured: everything that the run measured.
        stage: of the ticket, by name.

    Returns:
        The chart, or None where no round was measured.
    """
    # Untrained masks are tens of points below all others, which would leave these no room: they are in the table.
    found = {name: points for name, points in lines(measured, stage).items() if name != UNTRAINED}
    if TICKET not in found:
        return None
    dense = next((p for p in found[TICKET] if p.round == 0), None)

    def paint(axes: Axes) -> None:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        ends = []
        axes.set_xscale("log")
        for i, (name, points) in enumerate(found.items()):
            xs, ys = [100 * p.density for p in points], [100 * p.summary.mean for p in points]
            spread = [100 * (p.summary.std or 0.0) for p in points]
            axes.errorbar(
                xs,
                ys,
                yerr=spread if any(spread) else None,
                fmt=f"{marker(i)}{'-' if name == TICKET else '--'}",
                color=series(i),
                markersize=4.5,
                markeredgewidth=0,
                linewidth=1.8 if name == TICKET else 1.1,
                elinewidth=1.0,
                capsize=2,
                zorder=4 if name == TICKET else 3,
            )
            ends.append((xs[-1], ys[-1], clip(title_of(name), 30), series(i)))
        if dense is not None:
            axes.axhline(100 * dense.summary.mean, color=series(0), linewidth=0.7, alpha=0.6, linestyle=":")
        low = 100 * min(p.density for points in found.values() for p in points)
        ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low / 1.3 <= t <= 100]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.set_xlim(120, low / 1.2)  # from dense to sparse, as the rounds go
        axes.margins(y=0.1)
        axes.autoscale_view(scalex=False)
        axes.set_xlabel("weights left (%), log scale")
        axes.set_ylabel("accuracy (%)")
        end_labels(axes, ends)

    said = "; ".join(
        f"{title_of(name)}: "
        + ", ".join(f"{words.percent(p.summary)} at {100 * p.density:.3g} %" for p in points if p.round)
        for name, points in found.items()
    )
    begin = f" The dense network has {words.percent(dense.summary)}." if dense is not None else ""
    counts = {words.counted(p.summary.n) for points in found.values() for p in points}
    return chart(
        key,
        f"{stage}: accuracy against density",
        f"Accuracy by the part of the weights that is left ({', '.join(sorted(counts))}).{begin} {said}.",
        paint,
        width=4.4,
        height=max(2.9, 1.2 + 0.17 * len(found)),
        caption="From dense (left) to sparse. Bars: one standard deviation over the seeds (none for a single run). Dotted: "
        "the dense network. Only where a ticket stays above its controls do its first weights matter.",
    )


def title_of(name: str) -> str:
    """A series as a report calls it."""
    return _TITLES.get(name, name.replace("_", " "))


def _density(m: Measured) -> float | None:
    runs = m.stage.runs if m.stage is not None else ()
    values = [value for run in runs if (value := number(run.details.get("density"))) is not None]
    return fmean(values) if values else None


def _point(k: int, density: float, m: Measured) -> Point:
    summary = m.summary("accuracy")
    assert summary is not None  # asked for by who calls
    return Point(k, density, dict(m.metrics["accuracy"]), summary)


def _cell(point: Point | None, ticket: Point | None) -> Cell:
    if point is None:
        return Cell()
    note = ""
    if ticket is not None and point.accuracies.keys() & ticket.accuracies.keys():
        difference = paired(point.accuracies, ticket.accuracies)
        note = f"{words.signed(difference.mean)}; {words.interval(difference)}"
    return Cell(words.percent(point.summary), note=note, value=point.summary.mean)
