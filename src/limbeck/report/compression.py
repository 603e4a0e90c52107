"""Charts about compressed networks: which layers bear pruning, and how wide they became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from limbeck.report.draw import GRID, INK, SOFT, Chart, chart, clip, end_labels, marker, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 6  # so many lines have a name and a colour; the others stand behind them in grey


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
    fall = {name: line[0][1] - min(y for _, y in line) for name, line in drawn.items()}
    worst = sorted(drawn, key=lambda name: -fall[name])[:NAMED]

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
