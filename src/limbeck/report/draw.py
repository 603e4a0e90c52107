"""From a Matplotlib figure to an inline SVG that takes its colours and letters from the page around it.

Matplotlib is asked to draw in *sentinel* colours that nothing else uses; in the text of the SVG these
are replaced by CSS variables, so one drawing serves light, dark and print.  Letters stay letters.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID, PAPER, GOOD, BAD = "#010201", "#010202", "#010203", "#010204", "#010205", "#010206"
SERIES = tuple(f"#0103{i:02x}" for i in range(1, 9))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

_VARIABLES = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    **{colour: f"var(--c{i})" for i, colour in enumerate(SERIES, 1)},
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "limbeck",
    "text.parse_math": False,
    "font.size": 8.8,
    "axes.titlesize": 9,
    "axes.labelsize": 8.8,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "text.color": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Chart:
    """A drawing for the page.

    Attributes:
        svg: inline SVG, with a title and a description for those who do not see it.
        title: a short heading.
        description: what the drawing shows, in words.
        caption: how to read it, or an empty text.
    """

    svg: str
    title: str
    description: str
    caption: str = ""


def series(index: int) -> str:
    """The colour of the series of that number; they repeat after eight."""
    return SERIES[index % len(SERIES)]


def marker(index: int) -> str:
    """The marker of the series of that number; with `series` there are many pairs before one repeats."""
    return MARKERS[(index + index // len(SERIES)) % len(MARKERS)]


def clip(text: str, length: int = 20) -> str:
    """A name that fits beside a chart; its middle goes, for names that differ do so at their ends.

    >>> clip("kd, digits-quickstart (b)", 13)
    'kd, di…rt (b)'
    """
    if len(text) <= length:
        return text
    head = length // 2
    return f"{text[:head]}…{text[head + 1 - length :]}"


def chart(
    key: str,
    title: str,
    description: str,
    paint: Callable[[Axes], Any],
    *,
    width: float = 3.9,
    height: float = 2.9,
    caption: str = "",
) -> Chart:
    """Draw one pair of axes.

    Args:
        key: unique on the page; every id in the SVG starts with it.
        title, description, caption: see `Chart`.
        paint: draws on the axes it is given.
        width, height: in inches of 72 units; letters are 8.8 units high; names beside the axes come on top, and the whole fills a phone.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that Matplotlib's own font lacks: the browser has another font
        figure = Figure(figsize=(width, height))
        figure.subplots_adjust(left=0.11, right=0.97, bottom=0.13, top=0.97)  # the rest is cut to what is drawn
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        raw = _saved(figure)
    return Chart(inline(raw, key, title, description), title, description, caption)


def _saved(figure: Figure) -> str:
    buffer = io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=nothing, bbox_inches="tight", pad_inches=0.02)
    return buffer.getvalue().decode("utf-8")


def inline(svg: str, key: str, title: str, description: str) -> str:
    """Make a stand-alone SVG fit for a page: no prologue, own ids, the page's colours and letters, words for all."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{key}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    view = box.group(1) if box else "0 0 330 210"
    # Sizes come from the page, and the description from us.
    head = (
        f'<svg class="chart" viewBox="{view}" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{html.escape(title)}</title><desc id="{key}-desc">{html.escape(description)}</desc>'
    )
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    return re.sub(r"\n\s*", "\n", svg).strip()


def spread(positions: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Move labels apart, as little as it takes, in their order, inside [low, high] where they fit.

    >>> spread([0.5, 0.5], 0.2)
    [0.4, 0.6]
    """
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    if not order:
        return []
    gap = min(gap, (high - low) / max(1, len(order) - 1))
    # Groups of labels that touch are placed around their common middle, and merged while they overlap.
    groups: list[tuple[float, list[int]]] = []
    for i in order:
        centre, members = positions[i], [i]
        while True:
            half = gap * (len(members) - 1) / 2
            centre = min(max(centre, low + half), high - half)
            if not groups:
                break
            before, others = groups[-1]
            if before + gap * (len(others) - 1) / 2 + gap <= centre - half + 1e-9:
                break
            groups.pop()
            total = len(others) + len(members)
            centre, members = (before * len(others) + centre * len(members)) / total, [*others, *members]
        groups.append((centre, members))
    placed = [0.0] * len(positions)
    for centre, members in groups:
        for k, i in enumerate(members):
            placed[i] = round(centre + gap * (k - (len(members) - 1) / 2), 6)
    return placed


def end_labels(axes: Axes, points: Sequence[tuple[float, float, str, str]], size: float = 8.0) -> None:
    """Names beside the plot, each with a thin line to its point: no legend to look up, no label over another.

    Args:
        axes: with its limits already final.
        points: x, y in data units, text, colour.
        size: of the letters.
    """
    if not points:
        return
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [to_axes.transform((x, y)) for x, y, _, _ in points]
    tall = figure.get_size_inches()[1] * 72 * 0.75
    heights = spread([float(p[1]) for p in places], 1.25 * size / tall, 0.0, 1.0)
    for (x, y, text, colour), height in zip(points, heights):
        axes.annotate(
            text,
            xy=(x, y),
            xycoords="data",
            xytext=(1.04, height),
            textcoords="axes fraction",
            color=colour,
            fontsize=size,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.55,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )
