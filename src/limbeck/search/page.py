"""The page of a search: the trials, the best of them, and the fronts of accuracy against latency and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import RunFolderError
from limbeck.report import words
from limbeck.report.draw import BAD, GOOD, GRID, INK, SOFT, Chart, chart, end_labels
from limbeck.report.exhibits import Grid
from limbeck.report.page import Certificate, certificate, render, write
from limbeck.report.read import read_run
from limbeck.report.tables import Cell, Column, Table
from limbeck.report.verdict import Sentence
from limbeck.search import judge
from limbeck.search.judge import Trial
from limbeck.search.spec import Search
from limbeck.search.tell import budget_text, figure, outcome, over_text, percent, settings_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AXES = {"latency": ("latency of one image (ms, median)", 1.0), "bytes": ("file (KiB)", 1 / 1024)}
_COLUMNS = (
    Column("stage", "Trial", False, "its number, and the name of its run folder"),
    Column("settings", "Settings", False, "what was varied, and its value"),
    Column("accuracy", "Accuracy", True, "on validation rows, mean over the seeds"),
    Column("points", "Lost", True, "percentage points of accuracy lost against the original"),
    Column("latency", "1 image", True, "median of one forward pass with one image"),
    Column("bytes", "File", True, "the file in which it is handed over"),
    Column("macs", "MACs", True, "multiply-accumulate operations for one sample"),
    Column("parameters", "Parameters", True, "how many numbers the network has learnt"),
    Column("budget", "Budget", False, "whether all limits are kept, else by how much they are exceeded"),
)


def table(search: Search, trials: Sequence[Trial]) -> Table:
    """Every trial that is done, best first; those that failed last."""
    limits = search.within.limits()
    best = judge.best(trials, limits, search.aim)
    ordered = sorted(trials, key=lambda trial: judge.standing(trial, limits, search.aim))
    return Table(
        caption=f"{len(trials)} trials, {budget_text(limits)}; aim: {search.aim}",
        columns=_COLUMNS,
        rows=tuple(_row(trial, search, trial is best) for trial in ordered),
        notes=(
            "Accuracy and points are of the validation rows, on which the best was chosen: they flatter it. The report of its "
            "run has the test rows, at which the search did not look.",
            "Latency is measured, so it differs a little when it is measured again; a trial near its limit may fall on either side.",
        ),
    )


def _row(trial: Trial, search: Search, is_best: bool) -> tuple[Cell, ...]:
    name = Cell(str(trial.number), "best" if is_best else "", trial.number)
    settings = Cell(settings_text(trial.settings), "", dict(trial.settings))
    if trial.status != "done":
        empty = (Cell(),) * (len(_COLUMNS) - 3)
        return (name, settings, *empty, Cell(trial.status, trial.problem, trial.status, "bad"))
    over = over_text(trial, search.within.limits())
    figures = trial.figures
    return (
        name,
        settings,
        *(
            Cell(figure(key, figures.get(key)).removesuffix(" points"), "", figures.get(key))
            for key in ("accuracy", "points", "latency", "bytes", "macs", "parameters")
        ),
        Cell(over or "within", "", not over, "bad" if over else "good"),
    )


def front_chart(cost: str, search: Search, trials: Sequence[Trial]) -> Chart | None:
    """Accuracy against one cost: every trial, the front, and the limits as lines."""
    drawn = [
        (t, x, y)
        for t in trials
        if (x := t.figures.get(cost)) is not None and (y := t.figures.get("accuracy")) is not None
    ]
    if not drawn:
        return None
    label, factor = _AXES[cost]
    limits = search.within.limits()
    best, steps = judge.best(trials, limits, search.aim), judge.pareto(trials, cost)
    originals = [y for t in trials if (y := t.figures.get("original")) is not None]
    floor = originals[0] - limits["points"] / 100 if originals and "points" in limits else None

    def paint(axes: Axes) -> None:
        axes.step(
            [factor * (t.figures[cost] or 0) for t in steps],
            [100 * (t.figures["accuracy"] or 0) for t in steps],
            where="post", color=GRID, linewidth=2.2, zorder=1,
        )  # fmt: skip
        named = []
        for trial, x, y in drawn:
            within = not judge.overruns(trial.figures, limits)
            colour = GOOD if within and limits else BAD if limits else INK
            axes.plot(
                [factor * x], [100 * y], marker="*" if trial is best else "o" if within else "x", color=colour,
                markersize=10 if trial is best else 5.5, linestyle="none", zorder=3,
            )  # fmt: skip
            if trial in steps or trial is best:
                named.append((factor * x, 100 * y, f"trial {trial.number}", INK if trial is best else SOFT))
        axes.margins(0.1)
        axes.autoscale_view()
        low, high = axes.get_xlim()
        bottom, top = axes.get_ylim()
        # A limit far from every trial stays outside, so that the trials keep their room.
        if cost in limits and low <= factor * limits[cost] <= high + (high - low):
            axes.axvline(factor * limits[cost], color=SOFT, linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
        if floor is not None and bottom - (top - bottom) <= 100 * floor <= top + (top - bottom):
            axes.axhline(100 * floor, color=SOFT, linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
        axes.set_xlabel(label)
        axes.set_ylabel("accuracy on validation rows (%)")
        end_labels(axes, named)

    said = "; ".join(f"trial {t.number} {percent(y)} at {figure(cost, x)}" for t, x, y in drawn)
    names = words.listing([str(t.number) for t in steps])
    return chart(
        f"front-{cost}",
        f"Accuracy against {cost}",
        f"Accuracy against {label}: {said}. On the front: {names}.",
        paint,
        caption="Up and to the left is better. Grey steps: the front that no trial beats. "
        + ("Dots: within the budget, crosses: not, dashed: its limits. " if limits else "")
        + ("Star: the best." if best is not None else ""),
    )


def write_page(folder: Path, name: str, search: Search, trials: Sequence[Trial], command: str) -> Path:
    """Write ``search.html`` into the folder of a search, finished or not.

    Raises:
        RunFolderError: it cannot be written.
    """
    limits = search.within.limits()
    best = judge.best(trials, limits, search.aim)
    shown = table(search, trials)
    drawn = [found for cost in judge.FRONTS if (found := front_chart(cost, search, trials)) is not None]
    seconds = sum(trial.seconds for trial in trials)
    ready = any(trial.status == "done" for trial in trials)
    return write(
        render(
            {
                "title": f"{name}: limbeck search",
                "name": f"Search: {name}",
                "verdict": Sentence(outcome(search, trials, folder), "good" if best else "bad" if ready else "plain"),
                "facts": [f"{len(trials)} of {search.trials} trials", words.duration(seconds), budget_text(limits)],
                "sections": (),
                "table": shown,
                "notes": list(shown.notes),
                "colours": {},
                "overview": drawn,
                "only_results": True,
                "certificates": [_certificate(search, command), *_of_run(folder, best)],
                "further": [_space(search)],
            }
        ),
        folder / "search.html",
    )


def _certificate(search: Search, command: str) -> Certificate:
    rows = (
        ("Aim", search.aim),
        ("Budget", budget_text(search.within.limits())),
        ("Stage", search.stage or "the last that leaves a network"),
        ("Seed of the choices", str(search.seed)),
        ("Command", command),
    )
    return Certificate("What was looked for", rows)


def _of_run(folder: Path, best: Trial | None) -> list[Certificate]:
    """Where the figures of the best trial come from."""
    if best is None:
        return []
    try:
        return [certificate(read_run(folder / "trials" / best.name))]
    except RunFolderError:  # somebody made room
        return []


def _space(search: Search) -> Grid:
    rows = tuple((name, str(value)) for name, value in search.space.items())
    return Grid("What was varied", ("setting", "values"), rows)
