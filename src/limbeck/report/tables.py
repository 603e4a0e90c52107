"""The results of a run as a table: one row per trained (or only measured) network, no figure without its n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from limbeck.report import words
from limbeck.report.read import Run, Stage, number
from limbeck.stats import Paired, Summary, paired, summarise

if TYPE_CHECKING:
    import rich.table

Part = Literal["test", "validation"]


@dataclass(frozen=True)
class Column:
    """A column: its key, its heading, whether it holds numbers, and what they are."""

    key: str
    label: str
    numeric: bool = True
    help: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell: what to print, a smaller second line, the value behind it, a mood, and the second line for a terminal."""

    text: str = words.NONE
    note: str = ""
    value: Any = None
    mood: str = ""
    brief: str | None = None


@dataclass(frozen=True)
class Table:
    """A table as text and as values.

    Attributes:
        caption: says what the table is.
        columns: in order.
        rows: one tuple of cells each, in the order of the columns.
        notes: what a reader has to know to read it rightly.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def values(self) -> list[dict[str, Any]]:
        """The values behind the cells, one mapping from column key to value for each row."""
        return [{c.key: cell.value for c, cell in zip(self.columns, row)} for row in self.rows]

    def column(self, key: str) -> list[Cell]:
        """The cells of one column."""
        index = [c.key for c in self.columns].index(key)
        return [row[index] for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One network of a run, with all that was measured of it.

    Attributes:
        name: of the stage, or of the model on the shelf.
        stage: what trained it, or None where the run only measured it.
        part: which part of the data the metrics come from.
        metrics: metric -> seed -> value, of finished repetitions.
        agreement: seed -> part of the rows on which it agrees with its teacher.
        cost: parameters, macs, bytes, latency.
        network: the architecture, where no stage tells it.
        teacher: the network to which sizes are compared, or None.
        baseline: the name of the stage it is compared with, or None.
        difference: of accuracy against the baseline, paired by seed, or None.
        planned: how many repetitions were planned.
    """

    name: str
    stage: Stage | None
    part: Part
    metrics: Mapping[str, Mapping[int, float]]
    agreement: Mapping[int, float] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    network: str = ""
    teacher: str | None = None
    baseline: str | None = None
    difference: Paired | None = None
    planned: int = 1

    def summary(self, metric: str) -> Summary | None:
        """Of one metric over the seeds, or None where nothing was measured."""
        values = self.metrics.get(metric, {})
        return summarise(values.values()) if values else None

    def factor(self, other: Measured | None, what: str) -> float | None:
        """How many times smaller or faster than another network: "parameters", "macs", "bytes" or "latency"."""
        if other is None or other.name == self.name:
            return None
        ours, theirs = figure(self.cost, what), figure(other.cost, what)
        return theirs / ours if ours and theirs else None


def figure(cost: Mapping[str, Any], what: str) -> float | None:
    """One figure of a cost; the latency is its median in milliseconds."""
    if what == "latency":
        latency = cost.get("latency")
        return number(latency.get("median_ms")) if isinstance(latency, Mapping) else None
    return number(cost.get(what))


def part_of(run: Run) -> Part:
    """Which part of the data the results come from: the test part wherever it was measured."""
    for stage in run.stages:
        if any("accuracy" in r.last.get("test", {}) for r in stage.runs if r.status == "done"):
            return "test"
    if any(e.split == "test" and e.results for e in run.evaluations):
        return "test"
    return "validation"


def _metrics(run: Run, name: str, stage: Stage | None, part: Part) -> dict[str, dict[int, float]]:
    by_metric: dict[str, dict[int, float]] = {}
    for evaluation in run.evaluations:
        if evaluation.split == part:
            for seed, found in evaluation.results.get(name, {}).items():
                for metric, value in found.items():
                    by_metric.setdefault(metric, {})[seed] = value
    for repetition in stage.runs if stage else ():
        if repetition.status == "done":
            for metric, value in repetition.last.get(part, {}).items():
                by_metric.setdefault(metric, {})[repetition.seed] = value
    if stage is not None and not stage.per_seed and stage.runs:
        # One network for all seeds: its measurement in an evaluate stage may stand under every seed, yet n is 1.
        first = stage.runs[0].seed
        by_metric = {
            m: {first: v[first]} if first in v else dict([next(iter(v.items()))]) for m, v in by_metric.items()
        }
    return by_metric


def _given_metrics(run: Run, name: str, part: Part) -> dict[str, dict[int, float]]:
    """The test metrics of a network that came with weights, measured once, at the end of the run."""
    values = run.models.get(name, {}).get("test") if part == "test" else None
    return {metric: {0: float(value)} for metric, value in values.items()} if isinstance(values, Mapping) else {}


def _distinct(values: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """Weights from a file give the same figures under every seed: that is one measurement, not several."""
    if values and all(len(set(v.values())) == 1 for v in values.values()):
        return {m: dict([next(iter(v.items()))]) for m, v in values.items()}
    return {m: dict(v) for m, v in values.items()}


def against(
    metrics: Mapping[str, Mapping[int, float]], baseline: Mapping[str, Mapping[int, float]], *, shared: bool
) -> Paired | None:
    """The accuracy of one network against another's, seed by seed; of one that all seeds share (`shared`) against its only value."""
    ours, theirs = metrics.get("accuracy", {}), baseline.get("accuracy", {})
    if shared and len(theirs) == 1:
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    return paired(ours, theirs) if ours.keys() & theirs.keys() else None


def _students(run: Run) -> set[str | None]:
    return {stage.model for stage in run.stages if stage.taught}


def _common_teacher(run: Run) -> str | None:
    names = {teacher for stage in run.stages for teacher in stage.teachers}
    return names.pop() if len(names) == 1 else None


def _rivals(run: Run, stage: Stage) -> bool:
    """Whether a stage competes with the baseline: it was taught, or is the plain student, or is made of such."""
    taught = {other.name for other in run.stages if other.taught}
    return stage.taught or stage.model in _students(run) or bool(taught.intersection(stage.members))


def measure(run: Run) -> tuple[Measured, ...]:
    """Everything that a run measured, one `Measured` per network, in the order of the run."""
    part = part_of(run)
    common = _common_teacher(run)
    names = {stage.name: stage for stage in run.stages}
    extra = [m for e in run.evaluations if e.split == part for m in e.results if m not in names]
    metrics = {name: _metrics(run, name, stage, part) for name, stage in names.items()}
    seeds = run.recipe.get("seeds")
    planned = len(seeds) if isinstance(seeds, list) and seeds else 1
    found = [
        Measured(
            name=name,
            stage=None,
            part=part,
            metrics=_distinct(_metrics(run, name, None, part) or _given_metrics(run, name, part)),
            cost=run.models.get(name, {}).get("cost") or {},
            network=str(run.models.get(name, {}).get("network") or ""),
        )
        for name in dict.fromkeys([*run.models, *extra])
        if name not in names
    ]
    for name, stage in names.items():
        rival = run.baseline if run.baseline in names and run.baseline != name else None
        compared = rival is not None and _rivals(run, stage)
        found.append(
            Measured(
                name=name,
                stage=stage,
                part=part,
                metrics=metrics[name],
                agreement={r.seed: r.agreement for r in stage.runs if r.agreement is not None and r.status == "done"},
                cost=stage.cost,
                teacher=stage.teacher or (common if common != name else None),
                baseline=rival,
                difference=against(metrics[name], metrics[rival], shared=not names[rival].per_seed)
                if compared and rival
                else None,
                planned=planned if stage.per_seed else 1,
            )
        )
    return tuple(found)


def decimals_for(run: Run) -> int:
    """Digits behind the point of a percentage: no finer than one row of the part that was measured."""
    rows = run.data.get("rows")
    count = number(rows.get(part_of(run))) if isinstance(rows, Mapping) else None
    return 2 if count and count >= 5000 else 1


def columns(part: Part, baseline: str | None) -> tuple[Column, ...]:
    """The columns of a results table."""
    against = f"Difference to {baseline}" if baseline else "Difference to baseline"
    return (
        Column("stage", "Stage", False, "the stage, and so the name of the network it made"),
        Column("accuracy", "Accuracy", True, f"on the {part} part, mean ± standard deviation over the seeds"),
        Column("difference", against, True, "in percentage points, paired by seed, with its 95 % t interval"),
        Column("parameters", "Parameters", True, "how many numbers the network has learnt"),
        Column("macs", "MACs", True, "multiply-accumulate operations for one sample"),
        Column("bytes", "Size", True, "of the weights"),
        Column("latency", "Latency", True, "median [10 % to 90 %] of one forward pass"),
        Column("agreement", "Agreement", True, "part of the test rows where student and teacher choose the same class"),
        Column("ece", "ECE", True, "expected calibration error: how far confidence and accuracy are apart"),
        Column("network", "Network", False, "the architecture"),
        Column("method", "Method", False, "how it was trained"),
    )


def _short(n: int, planned: int) -> str:
    if n == 1 and planned <= 1:
        return "single run"
    missing = f" of {planned}" if n < planned else ""
    return f"single run{', 1' + missing + ' seeds' if missing else ''}" if n == 1 else f"n = {n}{missing} seeds"


def _accuracy(m: Measured, decimals: int) -> Cell:
    summary = m.summary("accuracy")
    if summary is None:
        return Cell(note="not finished" if m.stage else "")
    return Cell(words.percent(summary, decimals), _short(summary.n, m.planned), summary)


def _difference_cell(m: Measured, baseline: str | None, decimals: int) -> Cell:
    if m.name == baseline:
        return Cell("baseline")
    d = m.difference
    if d is None:
        return Cell()
    verdict = d.verdict()
    detail = words.interval(d, decimals) + (f", n = {d.n}, {words.p_value(d.p)}" if d.p is not None else "")
    mood = {"better": "good", "worse": "bad"}.get(verdict, "plain")
    low, high = (None if v is None else words.signed(v, decimals) for v in (d.low, d.high))
    brief = verdict if d.n == 1 else f"[{low}, {high}]\n{verdict}, n = {d.n}"
    return Cell(words.signed(d.mean, decimals), f"{verdict}; {detail}", d, mood, brief)


def _plain_metric(summary: Summary | None, text: str, planned: int) -> Cell:
    return Cell() if summary is None else Cell(text, _short(summary.n, planned), summary)


def _cost_cell(m: Measured, teacher: Measured | None, what: str) -> Cell:
    value = figure(m.cost, what)
    if value is None:
        return Cell()
    more, less = {"latency": ("faster", "slower"), "bytes": ("smaller", "larger")}.get(what, ("fewer", "more"))
    factor = m.factor(teacher, what)
    note = words.times(factor, more, less) if factor else ""
    brief = note.replace(" times", "×")
    if what == "bytes":
        return Cell(words.size(value), note, value, "", brief)
    if what != "latency":
        return Cell(words.amount(value), note, value, "", brief)
    latency = m.cost["latency"]
    low, high = number(latency.get("p10_ms")), number(latency.get("p90_ms"))
    reach = f"[{low:.3g} to {high:.3g}]" if low is not None and high is not None else ""
    n = number(latency.get("n"))
    counted = f"n = {n:.0f}" if n else ""
    details = [" ".join(t for t in (reach, counted) if t), note]
    short = "\n".join(t for t in (reach.replace(" to ", ", "), counted, brief) if t)
    return Cell(words.milliseconds(value), ", ".join(d for d in details if d), value, "", short)


def row(m: Measured, everything: Mapping[str, Measured], decimals: int, baseline: str | None) -> tuple[Cell, ...]:
    """The cells of one network."""
    stage = m.stage
    method, settings = (
        words.method_words(stage.method, stage.network if stage.kind == "compress" else "")
        if stage
        else ("only measured", "")
    )
    teacher = everything.get(m.teacher or "")
    network = stage.network if stage else m.network
    accuracy, ece = _accuracy(m, decimals), m.summary("ece")
    agreement = summarise(m.agreement.values()) if m.agreement else None
    taught = f"taught by {', '.join(stage.teachers)}" if stage and stage.teachers else ""
    rows = f"on {stage.rows:,} rows" if stage and stage.rows else ""
    return (
        Cell(m.name, ", ".join(t for t in (taught, rows) if t), m.name),
        accuracy,
        _difference_cell(m, baseline, decimals),
        *(_cost_cell(m, teacher, what) for what in ("parameters", "macs", "bytes", "latency")),
        _plain_metric(agreement, words.percent(agreement, decimals) if agreement else "", m.planned),
        _plain_metric(ece, words.fraction(ece) if ece else "", m.planned),
        Cell(words.repeated(network) or words.NONE, "", network or None),
        Cell(method, settings, method, "", ""),
    )


def cautions(run: Run, measured: Sequence[Measured]) -> tuple[str, ...]:
    """What a reader of these figures has to know, as far as it applies to this run."""
    found: list[str] = []
    part = part_of(run)
    ns = {s.n for m in measured if m.stage and (s := m.summary("accuracy"))}
    if part == "validation" and ns:
        found.append(
            "No test part was measured: the figures are from the validation part, which a choice may have used."
        )
    if ns and max(ns) == 1:
        found.append(
            "Single run: one seed says nothing about spread, so no difference here is a result. Three or more seeds are."
        )
    shared = [
        m.name
        for m in measured
        if not (m.stage and m.stage.per_seed) and any(o.stage and m.name in o.stage.teachers for o in measured)
    ]
    if shared and max(ns, default=1) > 1:
        found.append(
            f"All seeds share one {words.listing(shared)}: "
            "the spread and the intervals do not hold what another such teacher would change."
        )
    compared = [m for m in measured if m.difference and m.difference.n > 1]
    if len(compared) > 1:
        found.append(
            f"{len(compared)} comparisons with one baseline: each interval is for itself, "
            "so the more comparisons, the likelier one of them leaves zero out by chance."
        )
    failed = [f"{s.name} seed {r.seed} ({r.status})" for s in run.stages for r in s.runs if r.status != "done"]
    if failed:
        found.append(f"Not in these figures: {words.listing(failed)}.")
    if any(figure(m.cost, "latency") for m in measured):
        found.append(_latency_words(run, measured))
    return tuple(found)


def _latency_words(run: Run, measured: Sequence[Measured]) -> str:
    latency = next(m.cost["latency"] for m in measured if figure(m.cost, "latency"))
    device = measured_on(run, latency)
    count = number(latency.get("threads"))
    threads = f", {count:.0f} thread{'' if count == 1 else 's'}" if count else ""
    clock = f", clock {latency['clock']}" if latency.get("clock") else ""
    return f"Latency was measured on {device or 'an unnamed device'}{threads}{clock}, in batches of {latency.get('batch', 1)}; it holds for that machine only."


def measured_on(run: Run, latency: Mapping[str, Any]) -> str:
    """The device on which a time was measured, in words that name the processor; empty if no record does."""
    device = str(latency.get("device") or run.machine.get("device") or "")
    if device.startswith("cpu (") and "," in device:
        return device  # it names the processor itself, which older records left to the run
    return ", ".join(filter(None, (device, str(run.machine.get("processor") or ""))))


def results(run: Run) -> Table:
    """The results of one run.

    Args:
        run: finished or not; what is missing shows as a dash.

    Returns:
        One row per network.  Sizes are compared with the network's own teacher, accuracy with the run's baseline.
    """
    measured = measure(run)
    everything = {m.name: m for m in measured}
    baseline = run.baseline if run.baseline in everything else None
    decimals = decimals_for(run)
    part = part_of(run)
    return Table(
        caption=f"Results of {run.name}, measured on the {part} part with the weights of the last epoch",
        columns=columns(part, baseline),
        rows=tuple(row(m, everything, decimals, baseline) for m in measured),
        notes=cautions(run, measured),
    )


ESSENTIAL = ("run", "stage", "accuracy", "difference", "kept", "parameters", "latency", "latency_32")
"""What is shown where there is no room for all columns."""


def render_text(table: Table, *, notes: bool = True, width: int | None = None) -> rich.table.Table:
    """The table for a terminal; columns in which every cell is empty are left out.

    On a terminal of fewer than 140 columns (``width``; None: as wide as need be) the columns that matter
    most are shown; the page has all of them.
    """
    import rich.box
    import rich.table
    from rich.text import Text

    caption = "\n".join(table.notes) if notes and table.notes else None
    shown = rich.table.Table(
        title=Text(table.caption),
        caption=Text(caption) if caption else None,
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    kept = [i for i, _ in enumerate(table.columns) if any(r[i].text != words.NONE for r in table.rows) or i == 0]
    if width is not None and width < 140:
        kept = [i for i in kept if table.columns[i].key in ESSENTIAL]
    for i in kept:
        column = table.columns[i]
        whole = column.key in ("network", "method")  # names: half of one is none
        justify = "right" if column.numeric else "left"
        shown.add_column(Text(column.label), justify=justify, overflow="fold", no_wrap=whole)
    styles = {"good": "green", "bad": "red"}
    for cells in table.rows:
        line = []
        for i in kept:
            text = Text(cells[i].text, style=styles.get(cells[i].mood, ""))
            brief = cells[i].note if cells[i].brief is None else cells[i].brief
            if brief:
                text.append(f"\n{brief}", style="dim")
            line.append(text)
        shown.add_row(*line)
    return shown
