"""The curves of a report: what was learnt when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from limbeck.report import words
from limbeck.report.draw import INK, Chart, chart, clip, end_labels, marker, series
from limbeck.report.read import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = list[tuple[float, float]]

METRICS = {  # key -> heading, axis, factor, whether more is better
    "accuracy": ("Accuracy on validation rows", "accuracy (%)", 100.0, True),
    "loss": ("Loss on validation rows", "cross-entropy (nats)", 1.0, False),
    "ece": ("Calibration error on validation rows", "expected calibration error", 1.0, False),
}


def smoothed(line: Line, parts: int | None = None) -> Line:
    """The means of equal stretches of a line: the noise of single batches goes, the trend stays.

    Args:
        line: points in the order of training.
        parts: how many stretches; None: some four points each, but 40 stretches at most.

    >>> smoothed([(0, 1.0), (1, 3.0), (2, 5.0), (3, 7.0)], 2)
    [(0.5, 2.0), (2.5, 6.0)]
    """
    parts = parts or min(40, max(8, len(line) // 4))
    if len(line) <= parts:
        return list(line)
    found: Line = []
    for i in range(parts):
        piece = line[i * len(line) // parts : (i + 1) * len(line) // parts]
        found.append((sum(x for x, _ in piece) / len(piece), sum(y for _, y in piece) / len(piece)))
    return found


def thinned(line: Line, most: int = 400) -> Line:
    """At most so many points, lowest and highest of every stretch kept, so that spikes stay visible."""
    if len(line) <= most:
        return list(line)
    stretches = most // 2
    found: Line = []
    for i in range(stretches):
        piece = line[i * len(line) // stretches : (i + 1) * len(line) // stretches]
        found.extend(sorted({min(piece, key=lambda p: p[1]), max(piece, key=lambda p: p[1])}))
    return found


def wants_log(values: Iterable[float]) -> bool:
    """Whether a logarithmic axis shows these values better: all positive and over more than 1.5 decades."""
    found = sorted(values)
    return len(found) > 3 and found[0] > 0 and found[-1] / found[0] > 30


def _plain_log(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda v, _: words.amount(v) if v >= 1000 else f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


def loss_terms(key: str, stage: str, phase: str, curves: Mapping[int, Curves]) -> Chart | None:
    """Every loss term of one phase of one stage, and the total, by seed.

    Args:
        key: unique on the page.
        stage, phase: names.
        curves: by seed.

    Returns:
        The chart, or None where no step was recorded.
    """
    lines: dict[str, dict[int, Line]] = {}
    for seed, curve in curves.items():
        for step in curve.steps:
            if step.phase == phase:
                for name, value in step.terms.items():
                    lines.setdefault(name, {}).setdefault(seed, []).append((step.epoch, value))
                for player, value in step.loss.items():
                    lines.setdefault(f"{player}: total", {}).setdefault(seed, []).append((step.epoch, value))
    if not lines:
        return None
    players = {name.split("/")[0] for name in lines if "/" in name}
    totals = [name for name in lines if name.endswith(": total")]
    if len(players) == 1:  # one player: its name says nothing
        short = {n: "total" if n in totals else n.split("/", 1)[-1] for n in lines}
    else:
        short = {n: n for n in lines}
    if len(lines) == 2 and totals:  # the total of one term, times its weight, repeats it
        lines = {n: v for n, v in lines.items() if n not in totals}
    # The axis follows the trend: one wild batch at the start must not flatten everything else.
    trends = {n: [y for line in by_seed.values() for _, y in smoothed(line)] for n, by_seed in lines.items()}
    every = [y for ys in trends.values() for y in ys]
    log = wants_log(every)
    first = min(curves)

    def paint(axes: Axes) -> None:
        ends = []
        for i, (name, by_seed) in enumerate(lines.items()):
            total = name in totals
            colour = INK if total else series(i)
            for seed, line in by_seed.items():
                if seed == first:
                    axes.plot(*zip(*thinned(line)), color=colour, linewidth=0.5, alpha=0.28)
                axes.plot(
                    *zip(*smoothed(line)),
                    color=colour,
                    linewidth=1.5 if seed == first else 0.9,
                    alpha=1.0 if seed == first else 0.5,
                    linestyle=(0, (4, 2)) if total else "-",
                )
            x, y = smoothed(by_seed.get(first) or next(iter(by_seed.values())))[-1]
            ends.append((x, y, clip(short[name], 20), colour))
        if log:
            axes.set_yscale("log")
            _plain_log(axes.yaxis)
        low, high = min(every), max(every)
        if log:
            axes.set_ylim(low / 1.4, high * 1.4)
        elif high > low:
            axes.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low))
        axes.margins(x=0.02)
        axes.set_xlabel("epoch of this phase" if several else "epoch")
        axes.set_ylabel("loss" + (" (log scale)" if log else ""))
        end_labels(axes, ends)

    said = "; ".join(
        f"{short[n]} from {next(iter(smoothed(v[min(v)])))[1]:.3g} to {smoothed(v[min(v)])[-1][1]:.3g}"
        for n, v in lines.items()
    )
    seeds = f"{len(curves)} seeds" if len(curves) > 1 else "single run"
    several = len({p for c in curves.values() for p in c.phases}) > 1
    title = f"{stage}, phase {phase}" if several else stage
    return chart(
        key,
        f"Loss of {title}",
        f"Loss terms over the epochs of stage {stage}, phase {phase}, {seeds}. Smoothed, seed {first}: {said}.",
        paint,
        height=max(2.6, 1.0 + 0.17 * len(lines)),
        caption=f"{seeds[0].upper()}{seeds[1:]}. Thin: seed {first} as recorded; bold: its trend"
        + ("; fainter: the other seeds." if len(curves) > 1 else ".")
        + (" Terms are shown before their weights, the total with them." if len(lines) > 1 else ""),
    )


def metric_lines(
    curves: Mapping[int, Curves], metric: str, epochs_of: Mapping[str, float] | None = None
) -> dict[int, Line]:
    """A metric of one stage over its epochs, phases one behind the other, by seed."""
    found: dict[int, Line] = {}
    for seed, curve in curves.items():
        start = 0.0
        for phase in curve.phases:
            lines = [e for e in curve.epochs if e.phase == phase]
            found.setdefault(seed, []).extend(
                (start + e.epoch, e.validation[metric]) for e in lines if metric in e.validation
            )
            planned = (epochs_of or {}).get(phase)
            start += planned if planned is not None else max((e.epoch for e in lines), default=0.0)
    return {seed: line for seed, line in found.items() if line}


def metric(key: str, name: str, stages: Mapping[str, Mapping[int, Line]], colours: Mapping[str, int]) -> Chart | None:
    """A metric of all stages over their epochs: the mean over seeds, with a band from lowest to highest.

    Args:
        key: unique on the page.
        name: of the metric in the record.
        stages: stage -> seed -> line, see `metric_lines`.
        colours: stage -> number of its colour, the same on the whole page.
    """
    title, label, factor, rising = METRICS.get(name, (f"{name} on validation rows", name, 1.0, False))
    drawn = {stage: by_seed for stage, by_seed in stages.items() if by_seed}
    if not drawn:
        return None
    bands: dict[str, list[tuple[float, float, float, float]]] = {}
    for stage, by_seed in drawn.items():
        at: dict[float, list[float]] = {}
        for line in by_seed.values():
            for x, y in line:
                at.setdefault(round(x, 6), []).append(factor * y)
        bands[stage] = [(x, min(ys), sum(ys) / len(ys), max(ys)) for x, ys in sorted(at.items())]
    log = not rising and wants_log(m for band in bands.values() for _, _, m, _ in band)

    def paint(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        ends = []
        for stage, band in bands.items():
            colour = series(colours.get(stage, 0))
            xs, lows, means, highs = ([point[k] for point in band] for k in range(4))
            if len(drawn[stage]) > 1:
                axes.fill_between(xs, lows, highs, color=colour, alpha=0.16, linewidth=0)
            axes.plot(
                xs, means, color=colour, marker=marker(colours.get(stage, 0)) if len(xs) < 3 else None, markersize=3.5
            )
            ends.append((xs[-1], means[-1], clip(stage), colour))
        if log:
            axes.set_yscale("log")
            _plain_log(axes.yaxis)
        elif rising:  # the end is what matters; a first epoch by chance level would squeeze it
            means = [m for band in bands.values() for _, _, m, _ in band[len(band) // 5 :]]
            reach = max(max(means) - min(means), 1e-3)
            axes.set_ylim(min(means) - 0.15 * reach, max(h for b in bands.values() for _, _, _, h in b) + 0.06 * reach)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch of the stage")
        axes.set_ylabel(label + (", log scale" if log else ""))
        end_labels(axes, ends)

    digits = 1 if factor == 100 else 3
    said = "; ".join(f"{s} ends at {b[-1][2]:.{digits}f} ({words.counted(len(drawn[s]))})" for s, b in bands.items())
    most = max(len(by_seed) for by_seed in drawn.values())
    return chart(
        key,
        title,
        f"{title} over the epochs. {said}.",
        paint,
        height=max(2.9, 1.0 + 0.17 * len(bands)),
        caption="Single runs."
        if most == 1
        else "Line: mean over the seeds; band: from the lowest to the highest seed.",
    )
