"""The charts of a report: how sure the difference is, how honest the confidence, what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.report import words
from limbeck.report.draw import BAD, GOOD, GRID, INK, PAPER, SOFT, Chart, chart, clip, end_labels, marker, series
from limbeck.report.read import number
from limbeck.report.tables import Measured, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _log_counts(axis: Any, low: float, high: float) -> None:
    """Few readable ticks on a logarithmic axis of counts, also where it spans less than a decade."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [m * 10.0**e for e in decades for m in steps if low <= m * 10.0**e <= high]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: math.ceil(len(ticks) / 5)] if len(ticks) > 5 else ticks
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if v < 1000 else words.amount(v).replace(".00", "")))


def differences(key: str, measured: Sequence[Measured], baseline: str) -> Chart | None:
    """One dot per seed, and the mean with its interval: how far each network is from the baseline."""
    drawn = [m for m in measured if m.difference is not None]
    if not drawn:
        return None

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=SOFT, linewidth=1)
        for row, m in enumerate(reversed(drawn)):
            d = m.difference
            assert d is not None
            colour = {"better": GOOD, "worse": BAD}.get(d.verdict(), INK)
            points = [100 * v for _, v in d.differences]
            axes.plot(points, [row - 0.2] * len(points), "o", color=SOFT, markersize=3.5, alpha=0.55, markeredgewidth=0)
            if d.low is not None and d.high is not None:
                axes.plot([100 * d.low, 100 * d.high], [row + 0.08] * 2, color=colour, linewidth=2.2)
            axes.plot([100 * d.mean], [row + 0.08], "D", color=colour, markersize=5, markeredgewidth=0)
        axes.set_yticks(range(len(drawn)), [clip(m.name) for m in reversed(drawn)])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(-0.6, len(drawn) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"difference of accuracy to {clip(baseline)} (points)")

    said = "; ".join(
        f"{m.name} {words.signed(m.difference.mean)} points, {words.interval(m.difference)}, "
        f"n = {m.difference.n}: {m.difference.verdict()}"
        for m in drawn
        if m.difference
    )
    single = all(m.difference and m.difference.n == 1 for m in drawn)
    return chart(
        key,
        f"Difference to {baseline}, paired by seed",
        f"Differences of accuracy against {baseline}: {said}.",
        paint,
        width=4.6,
        height=1.0 + 0.42 * len(drawn),
        caption="Single run: one difference each and no interval."
        if single
        else "Small dots: one seed each. Diamond and bar: mean and 95 % t interval. A bar across zero is no clear difference.",
    )


def reliability(key: str, model: str, exhibit: Mapping[str, Any], colour: int) -> Chart | None:
    """A reliability diagram: how often the network is right, by how sure it is.

    Args:
        key: unique on the page.
        model: its name.
        exhibit: "ece" and "bins" with low, high, confidence, accuracy, count.
        colour: number of the model's colour.
    """
    bins = filled(exhibit)
    if not bins:
        return None
    total = sum(b["count"] for b in bins)

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        for b in bins:
            wide = b["high"] - b["low"]
            axes.bar(
                b["low"],
                b["accuracy"],
                width=wide,
                align="edge",
                color=series(colour),
                alpha=0.3,
                edgecolor=PAPER,
                linewidth=0.8,
            )
        most = max(b["count"] for b in bins)
        sizes = [10 + 60 * b["count"] / most for b in bins]
        axes.scatter(
            [b["confidence"] for b in bins], [b["accuracy"] for b in bins], s=sizes, color=series(colour), linewidths=0
        )
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.04)
        axes.set_aspect("equal")
        axes.set_xlabel("confidence")
        axes.set_ylabel("part that is right")

    ece = number(exhibit.get("ece"))
    gap = sum(b["count"] * (b["confidence"] - b["accuracy"]) for b in bins) / total
    mood = "overconfident" if gap > 0.005 else "underconfident" if gap < -0.005 else "neither over- nor underconfident"
    error = f"expected calibration error {ece:.3f}, " if ece is not None else ""
    text = f"{model}: {error}on average {mood} by {100 * abs(gap):.1f} points, over {total:,.0f} samples of one seed"
    return chart(
        key,
        f"Reliability of {model}",
        f"Reliability diagram. {text}. Bars below the diagonal mean that the network is surer than it is right.",
        paint,
        width=2.7,
        height=2.7,
        caption=f"{text}.",
    )


def filled(exhibit: Mapping[str, Any]) -> list[dict[str, float]]:
    """The bins of a reliability exhibit that hold anything, with all their numbers."""
    found = []
    for raw in exhibit.get("bins") or []:
        values = {k: number(raw.get(k)) for k in ("low", "high", "confidence", "accuracy", "count")}
        if all(v is not None for v in values.values()) and values["count"]:
            found.append({k: v for k, v in values.items() if v is not None})
    return found


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other beats on both counts: cost (less is better) and gain (more is better).

    >>> front([(1.0, 0.8), (2.0, 0.9), (3.0, 0.85)])
    [0, 1]
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, found = -math.inf, []
    for i in order:
        if points[i][1] > best:
            best = points[i][1]
            found.append(i)
    return found


def aside(costs: Sequence[float], step: float) -> list[float]:
    """Equal costs moved apart by a factor, around their place, so that their points do not hide each other.

    >>> [round(x, 2) for x in aside([4.0, 1.0, 4.0], 1.21)]
    [3.64, 1.0, 4.4]
    """
    found = []
    for i, cost in enumerate(costs):
        equal = [k for k, other in enumerate(costs) if math.isclose(other, cost, rel_tol=0.002)]
        found.append(cost * step ** (equal.index(i) - (len(equal) - 1) / 2))
    return found


COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("parameters", words.amount),
    "macs": ("multiply-accumulates per sample", words.amount),
    "latency": ("latency (ms, median)", words.milliseconds),
}


def pareto(
    key: str, measured: Sequence[Measured], cost: str, colours: Mapping[str, int], *, joined: bool = True
) -> Chart | None:
    """Accuracy against one cost, with one standard deviation up and down, and the front that nothing beats.

    Args:
        key: unique on the page.
        measured: the networks; those without the cost or the accuracy are left out.
        cost: "parameters", "macs" or "latency".
        colours: name -> number of its colour.
        joined: whether to draw the front; False where the networks were not measured on the same data.
    """
    label, written = COSTS[cost]
    drawn = [(m, x, s) for m in measured if (x := figure(m.cost, cost)) and (s := m.summary("accuracy"))]
    if not drawn:
        return None
    best = [drawn[i] for i in front([(x, s.mean) for _, x, s in drawn])]

    def paint(axes: Axes) -> None:
        axes.set_xscale("log")
        low, high = min(x for _, x, _ in drawn) / 1.5, max(x for _, x, _ in drawn) * 1.5
        xs = aside([x for _, x, _ in drawn], (high / low) ** 0.018)
        steps = [(x, 100 * s.mean) for _, x, s in best]
        if joined and len(steps) > 1:
            axes.step(*zip(*steps), where="post", color=GRID, linewidth=2.2, zorder=1)
        points = []
        for (m, _, s), x in zip(drawn, xs):
            i = colours.get(m.name, 0)
            axes.errorbar(
                [x],
                [100 * s.mean],
                yerr=None if s.std is None else [100 * s.std],
                fmt=marker(i),
                color=series(i),
                markersize=5.5,
                markeredgewidth=0,
                elinewidth=1.2,
                capsize=2.5,
                zorder=3,
            )
            points.append((x, 100 * s.mean, clip(m.name), series(i)))
        axes.set_xlim(low, high)
        _log_counts(axes.xaxis, low, high)
        axes.margins(y=0.12)
        axes.autoscale_view(scalex=False)
        axes.set_xlabel(f"{label}, log scale")
        axes.set_ylabel("accuracy (%)")
        end_labels(axes, points)

    said = "; ".join(f"{m.name} {words.percent(s)} ({words.counted(s.n)}) at {written(x)}" for m, x, s in drawn)
    undefeated = f" On the front, by their means: {words.listing([m.name for m, _, _ in best])}." if joined else ""
    return chart(
        key,
        f"Accuracy against {label.split(' (')[0]}",
        f"Accuracy against {label}: {said}.{undefeated}",
        paint,
        height=max(2.9, 1.0 + 0.17 * len(drawn)),
        caption="Up and to the left is better. Bars: one standard deviation over the seeds (none for a single run). "
        + ("Grey steps: the front of the means. " if joined else "No front: not the same data. ")
        + "Networks of equal cost are drawn side by side.",
    )


def matrix(
    key: str,
    title: str,
    description: str,
    values: Sequence[Sequence[float]],
    names: Sequence[str],
    *,
    across: str,
    down: str,
    cell: Callable[[float], str],
    caption: str = "",
) -> Chart:
    """A square table of numbers in [0, 1] as shades: the square root is drawn, so that small values show.

    Args:
        key, title, description, caption: see `Chart`.
        values: ``[classes][classes]`` in [0, 1].
        names: of the classes.
        across, down: what the columns and the rows are.
        cell: how to write a value into its cell (for 12 classes or fewer).
    """
    count = len(values)

    def paint(axes: Axes) -> None:
        import numpy as np
        from matplotlib.colors import to_rgb
        from matplotlib.patches import Rectangle

        shades = np.sqrt(np.clip(np.asarray(values, dtype=float), 0.0, 1.0))
        if count <= 30:
            for i in range(count):
                for j in range(count):
                    if shades[i, j] > 0.02:
                        alpha = 0.72 * float(shades[i, j])
                        axes.add_patch(
                            Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, color=series(0), alpha=alpha, linewidth=0)
                        )
        else:  # an image with transparency keeps the page small, and works on any ground
            picture = np.empty((count, count, 4))
            picture[..., :3] = to_rgb("#3b78c2")
            picture[..., 3] = shades
            axes.imshow(picture, interpolation="none", aspect="equal")
        if count <= 12:
            for i in range(count):
                for j in range(count):
                    text = cell(float(values[i][j]))
                    if text:
                        axes.text(j, i, text, ha="center", va="center", fontsize=6.6 if count > 6 else 8)
        step = 1 if count <= 30 else math.ceil(count / 25)
        shown = list(range(0, count, step))
        long = sum(len(clip(names[i], 12)) for i in shown) > 42  # letters that fit side by side
        axes.set_xticks(
            shown, [clip(names[i], 12) for i in shown], rotation=60 if long else 0, ha="right" if long else "center"
        )
        axes.set_yticks(shown, [clip(names[i], 12) for i in shown])
        if long:
            for label in axes.get_xticklabels():
                label.set_rotation_mode("anchor")
        small = 8 if count <= 15 else 6
        axes.tick_params(length=0, labelsize=small, labelcolor=INK)
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel(across)
        axes.set_ylabel(down)

    return chart(key, title, description, paint, width=4.0, height=3.9, caption=caption)
