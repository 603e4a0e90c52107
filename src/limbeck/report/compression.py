"""Charts about compressed networks: which layers bear pruning, and how wide they became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from limbeck.report.draw import GRID, INK, SOFT, Chart, chart, clip, end_labels, marker, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 6  # so many lines have a name and a colour; the others stand behind them in grey


def mean_fall(line: Sequence[tuple[float, float]]) -> float:
    """How far a line falls, on average over its parts.

    Not its lowest point: without nearly all of its channels every layer falls to guessing.

    >>> mean_fall([(0.0, 1.0), (0.5, 0.75), (0.9, 0.25)])
    0.5
    """
    (_, whole), *further = sorted(line)
    return sum(whole - value for _, value in further) / max(1, len(further))


def sensitivity(
    key: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    label: str = "accuracy (%)",
    factor: float = 100.0,
) -> Chart | None:
    """Accuracy against the part removed, one line per layer; the most sensitive layers are named.

    Args:
        key: unique on the page.
        lines: what `limbeck.compress.pruning.sensitivity.scan` returns.
        label: of the axis.
        factor: from what was measured to the axis.

    Returns:
        The chart, or None where nothing was measured.
    """
    drawn = {name: sorted(line) for name, line in lines.items() if line}
    if not drawn:
        return None
    worst = sorted(drawn, key=lambda name: -mean_fall(drawn[name]))[:NAMED]

    def paint(axes: Axes) -> None:
        ends = []
        for name, line in drawn.items():
            xs, ys = [100 * x for x, _ in line], [factor * y for _, y in line]
            if name not in worst:
                axes.plot(xs, ys, color=SOFT, linewidth=0.8, alpha=0.6)
                continue
            place = worst.index(name)
            axes.plot(xs, ys, color=series(place), marker=marker(place), markersize=3.5)
            ends.append((xs[-1], ys[-1], clip(name), series(place)))
        axes.margins(x=0.02)
        axes.autoscale_view()  # names stand beside their ends, which only final limits tell
        axes.set_xlabel("channels removed of one layer (%)")
        axes.set_ylabel(label)
        end_labels(axes, ends)

    said = "; ".join(f"{n} from {factor * drawn[n][0][1]:.1f} to {factor * drawn[n][-1][1]:.1f}" for n in worst)
    others = len(drawn) - len(worst)
    return chart(
        key,
        "Sensitivity to pruning",
        f"{label} against the part of one layer's channels that is removed, without training. The most sensitive: {said}.",
        paint,
        height=max(2.9, 1.0 + 0.17 * len(worst)),
        caption="One layer at a time, no training. "
        + (
            f"Named: the {len(worst)} that fall most; grey: the other {others}." if others else "Every line is a layer."
        ),
    )


def layer_losses(
    key: str, losses: Mapping[str, float], *, whole: float, won_back: bool = False, most: int = 40
) -> Chart | None:
    """What int8 in each layer costs, as bars, the greatest on top.

    Args:
        key: unique on the page.
        losses: layer -> accuracy lost with this layer alone in int8; with `won_back` what is won back when this layer
            alone stays in float.
        whole: lost with all layers in int8.
        won_back: which of the two.
        most: so many layers are drawn.

    Returns:
        The chart, or None where there are no layers.
    """
    if not losses:
        return None
    ordered = sorted(losses.items(), key=lambda pair: -pair[1])
    shown = ordered[:most][::-1]

    def paint(axes: Axes) -> None:
        places = range(len(shown))
        axes.barh(places, [100 * loss for _, loss in shown], color=series(0), height=0.72, linewidth=0)
        axes.axvline(0, color=SOFT, linewidth=0.6)
        axes.axvline(100 * whole, color=SOFT, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.set_yticks(list(places), [clip(name, 28) for name, _ in shown])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        low, high = (pick([0.0, whole, *losses.values()]) for pick in (min, max))
        axes.set_xlim(100 * low - 0.05, 100 * high + 0.05)  # nothing lost at all is no reason for an axis of 1e-17
        axes.set_xlabel(f"accuracy {'won back' if won_back else 'lost'} (points)")

    what = "Won back by one layer in float" if won_back else "Lost by one layer in int8"
    said = "; ".join(f"{name} {100 * loss:.2f}" for name, loss in ordered[:most])
    left = len(ordered) - len(shown)
    return chart(
        key,
        what,
        f"{what}, in points of accuracy: {said}. All layers in int8 lose {100 * whole:.2f}.",
        paint,
        width=4.2,
        height=0.9 + 0.2 * max(3, len(shown)),
        caption=f"Dashed: all layers in int8, {100 * whole:.2f} points lost."
        + (f" {left} more layers are in the table." if left else ""),
    )


def widths(key: str, layers: Mapping[str, Sequence[int]]) -> Chart | None:
    """How many channels each group had and has, from the network's first layer down to its last.

    Args:
        key: unique on the page.
        layers: name -> (channels before, channels after): "widths" of a pruned network's findings.

    Returns:
        The chart, or None where there are no layers.
    """
    if not layers:
        return None
    shown = [(name, (pair[0], pair[1])) for name, pair in layers.items()][::-1]

    def paint(axes: Axes) -> None:
        places = range(len(shown))
        axes.barh(places, [before for _, (before, _) in shown], color=GRID, height=0.72, linewidth=0)
        axes.barh(places, [after for _, (_, after) in shown], color=series(0), height=0.72, linewidth=0)
        axes.set_yticks(list(places), [clip(name, 28) for name, _ in shown])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlabel("channels")

    before, after = (sum(pair[k] for pair in layers.values()) for k in (0, 1))
    return chart(
        key,
        "Widths before and after",
        f"Channels by group: {'; '.join(f'{n} {a} of {b}' for n, (b, a) in layers.items())}.",
        paint,
        width=4.2,
        height=0.9 + 0.2 * len(shown),
        caption=f"{after:,} of {before:,} channels are left. Pale: before.",
    )
