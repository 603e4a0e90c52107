"""Soft labels, confusions and calibration of a run's exhibits, as charts with the same figures in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.report import charts, words
from limbeck.report.draw import Chart
from limbeck.report.read import Run, number

WHOLE = 25  # up to so many classes a matrix is also given as a full table; above, as its largest entries


@dataclass(frozen=True)
class Grid:
    """Figures as a table for the page: headings of the columns, and rows that start with their own heading."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Shown:
    """A chart and the figures behind it."""

    chart: Chart
    grid: Grid
    lead: str = ""


def classes_of(run: Run) -> list[str]:
    """The names of the classes, from the exhibits or from the record."""
    for source in (run.exhibits, run.data):
        names = source.get("classes")
        if isinstance(names, list) and names:
            return [str(n) for n in names]
    return []


def square(value: Any) -> list[list[float]] | None:
    """A square matrix of finite numbers, or None."""
    if not isinstance(value, list) or not value or not all(isinstance(r, list) and len(r) == len(value) for r in value):
        return None
    found = [[number(v) for v in row] for row in value]
    return (
        [[v for v in row if v is not None] for row in found]
        if all(v is not None for row in found for v in row)
        else None
    )


def pairs(matrix: Sequence[Sequence[float]], most: int) -> list[tuple[int, int, float]]:
    """The largest entries beside the diagonal: row, column, value.

    >>> pairs([[0.9, 0.1], [0.3, 0.7]], 1)
    [(1, 0, 0.3)]
    """
    found = [(i, j, v) for i, row in enumerate(matrix) for j, v in enumerate(row) if i != j and v > 0]
    return sorted(found, key=lambda p: (-p[2], p[0], p[1]))[:most]


def _names(classes: Sequence[str], count: int) -> list[str]:
    return list(classes) if len(classes) == count else [str(i) for i in range(count)]


def _grid(
    caption: str, matrix: Sequence[Sequence[float]], names: Sequence[str], across: str, down: str, form: str
) -> Grid:
    if len(matrix) <= WHOLE:
        rows = tuple((name, *(format(v, form) for v in row)) for name, row in zip(names, matrix))
        return Grid(caption, (f"{down} \\ {across}", *names), rows)
    top = pairs(matrix, 40)
    return Grid(
        f"{caption}: the {len(top)} largest entries beside the diagonal",
        (down, across, "value"),
        tuple((names[i], names[j], format(v, form)) for i, j, v in top),
    )


def soft_labels(run: Run) -> list[Shown]:
    """The mean softened prediction of each class: which classes a network finds alike."""
    found = []
    exhibit = run.exhibits.get("soft_labels")
    for k, (model, raw) in enumerate((exhibit if isinstance(exhibit, Mapping) else {}).items()):
        matrix = square(raw.get("matrix")) if isinstance(raw, Mapping) else None
        if matrix is None:
            continue
        names = _names(classes_of(run), len(matrix))
        temperature = number(raw.get("temperature"))
        at = f" at temperature {temperature:g}" if temperature is not None else ""
        top = pairs(matrix, 3)
        said = words.listing([f"{names[i]} as {names[j]} ({100 * v:.1f} %)" for i, j, v in top])
        lead = f"{model} finds most alike: {said}." if top else f"{model} finds no two classes alike."
        sharp = sum(matrix[i][i] for i in range(len(matrix))) / len(matrix)
        shown = charts.matrix(
            f"soft-{k}",
            f"Mean soft label of {model}",
            f"For each true class (row) the mean probability that {model} gives every class (column){at}. "
            f"On average {100 * sharp:.0f} % goes to the true class. {lead}",
            matrix,
            names,
            across=f"probability given by {model} to",
            down="true class",
            cell=lambda v: f"{100 * v:.0f}" if v >= 0.005 else "",
            caption=f"Probabilities in per cent{at}, first seed; the shade is their square root, so that small ones show.",
        )
        found.append(
            Shown(shown, _grid(f"Mean soft label of {model}{at}", matrix, names, "given to", "true class", ".3f"), lead)
        )
    return found


def confusions(run: Run) -> list[Shown]:
    """Which class each network took for which."""
    found = []
    exhibit = run.exhibits.get("confusion")
    for k, (model, raw) in enumerate((exhibit if isinstance(exhibit, Mapping) else {}).items()):
        counts = square(raw)
        if counts is None:
            continue
        names = _names(classes_of(run), len(counts))
        total = sum(map(sum, counts))
        right = sum(counts[i][i] for i in range(len(counts)))
        top = pairs(counts, 3)
        said = words.listing([f"{names[i]} taken for {names[j]} ({v:.0f} times)" for i, j, v in top])
        lead = f"{model}: {total - right:,.0f} of {total:,.0f} wrong" + (f"; most often {said}." if top else ".")
        parts = [[v / sum(row) if sum(row) else 0.0 for v in row] for row in counts]
        sizes = {round(p, 12): v for prow, crow in zip(parts, counts) for p, v in zip(prow, crow)}
        equal = len({sum(row) for row in counts}) == 1

        def cell(part: float, sizes: dict[float, float] = sizes, equal: bool = equal) -> str:
            if part == 0.0:
                return ""
            return f"{sizes[round(part, 12)]:.0f}" if equal else f"{100 * part:.0f}" if part >= 0.005 else "·"

        unit = "Counts" if equal else "Per cent of the true class"
        shown = charts.matrix(
            f"confusion-{k}",
            f"Confusions of {model}",
            f"Confusion matrix: rows are true classes, columns what {model} chose. {lead}",
            parts,
            names,
            across=f"chosen by {model}",
            down="true class",
            cell=cell,
            caption=f"{unit}, first seed; the shade is the square root. {lead}",
        )
        found.append(
            Shown(shown, _grid(f"Confusions of {model}, counts", counts, names, "chosen", "true class", ".0f"), lead)
        )
    return found


def calibration(run: Run, colours: Mapping[str, int]) -> list[Shown]:
    """The reliability diagram of each network."""
    found = []
    exhibit = run.exhibits.get("reliability")
    for k, (model, raw) in enumerate((exhibit if isinstance(exhibit, Mapping) else {}).items()):
        if not isinstance(raw, Mapping):
            continue
        shown = charts.reliability(f"reliability-{k}", model, raw, colours.get(model, k))
        if shown is None:
            continue
        rows = tuple(
            (
                f"{b['low']:.2f} to {b['high']:.2f}",
                f"{b['count']:.0f}",
                f"{b['confidence']:.3f}",
                f"{b['accuracy']:.3f}",
            )
            for b in charts.filled(raw)
        )
        grid = Grid(
            f"Reliability of {model}, bins that hold samples",
            ("confidence", "samples", "mean confidence", "right"),
            rows,
        )
        found.append(Shown(shown, grid))
    return found
