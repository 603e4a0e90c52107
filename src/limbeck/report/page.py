"""The page: everything that a run says, in one HTML file that asks no network for anything."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from limbeck.errors import RunFolderError
from limbeck.report import charts, compressed, exhibits, learning, pictures, words
from limbeck.report.draw import Chart
from limbeck.report.ledger import layer_tables, ledger
from limbeck.report.read import Curves, Run, number, read_curves, read_run
from limbeck.report.tables import Measured, measure, part_of, results
from limbeck.report.verdict import verdict

SECTIONS = (
    ("results", "Results"),
    ("curves", "Curves"),
    ("calibration", "Calibration"),
    ("soft-labels", "Soft labels"),
    ("attention", "Attention"),
    ("confusions", "Confusions"),
    ("repeat", "Repeat this run"),
    ("birth", "Birth certificate"),
)


@dataclass(frozen=True)
class Certificate:
    """Where a figure comes from, as pairs of key and value."""

    caption: str
    rows: tuple[tuple[str, str], ...]


def limbeck_version() -> str:
    """The version that writes the page."""
    try:
        return version("limbeck")
    except PackageNotFoundError:
        return "(not installed)"


def unbroken(text: str) -> str:
    """The text with its figures kept on one line with their units and signs.

    >>> unbroken("93.0 ± 0.3 % (n = 5 seeds)").count("\N{NO-BREAK SPACE}")
    6
    """
    text = re.sub(r"(?<=\d) (?=(%|ms|s|seeds|points|[kMGT]i?B?)\b|%)", "\N{NO-BREAK SPACE}", text)
    return re.sub(r"(?<=[np±=<]) (?=[\d=<])| (?=[=±<] )", "\N{NO-BREAK SPACE}", text)


def render(context: Mapping[str, Any]) -> str:
    """Fill the template; every value is escaped unless the template says otherwise."""
    import jinja2

    room = files("limbeck.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=False, undefined=jinja2.StrictUndefined)
    environment.filters["unbroken"] = unbroken
    template = environment.from_string((room / "page.html.j2").read_text(encoding="utf-8"))
    style = (room / "style.css").read_text(encoding="utf-8")
    return template.render(style=style, version=limbeck_version(), **context)


def require_no_folder(path: Path) -> None:
    """Refuse a page that could not be written, before time goes into it.

    Raises:
        RunFolderError: it is a folder.
    """
    if path.is_dir():
        raise RunFolderError(f"{path} is a folder; name a file in it, such as {path / 'page.html'}")


def write(text: str, path: Path) -> Path:
    """Write a file beside its place and move it there, so that nobody ever reads half a page.

    Raises:
        RunFolderError: it cannot be written there.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise RunFolderError(
            f"cannot write {str(path)!r} ({error.strerror}); is {str(path.parent)!r} a folder you may write to?"
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp gives 0600; a page is there to be shown
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise RunFolderError(f"cannot write {str(path)!r} ({error.strerror})") from error
    return path


def colours_of(names: Sequence[str]) -> dict[str, int]:
    """A colour number for each name, the same everywhere on the page."""
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _overview(run: Run, measured: Sequence[Measured], colours: Mapping[str, int]) -> list[Chart]:
    found = [charts.differences("difference", measured, run.baseline)] if run.baseline else []
    return [chart for chart in found if chart] + paretos(measured, colours)


def paretos(measured: Sequence[Measured], colours: Mapping[str, int], *, joined: bool = True) -> list[Chart]:
    """Accuracy against each cost that is known; how to read them is said once."""
    drawn = [charts.pareto(f"pareto-{cost}", measured, cost, colours, joined=joined) for cost in charts.COSTS]
    found = [chart for chart in drawn if chart]
    return found[:1] + [replace(chart, caption="") for chart in found[1:]]


def _curves(run: Run) -> dict[str, dict[int, Curves]]:
    found = {s.name: {r.seed: read_curves(r.folder) for r in s.runs} for s in run.stages}
    return {name: {seed: c for seed, c in by_seed.items() if c.phases} for name, by_seed in found.items()}


def _epochs_of(run: Run, stage: str) -> dict[str, float]:
    known = run.stage(stage)
    phases = known.runs[0].phases if known and known.runs else ()
    return {str(p.get("name")): e for p in phases if (e := number(p.get("epochs"))) is not None}


def _metric_charts(run: Run, curves: Mapping[str, Mapping[int, Curves]], colours: Mapping[str, int]) -> list[Chart]:
    every = (m for by_seed in curves.values() for c in by_seed.values() for e in c.epochs for m in e.validation)
    names = sorted(set(every), key=lambda m: (list(learning.METRICS).index(m) if m in learning.METRICS else 9, m))
    found = []
    for i, name in enumerate(names):
        lines = {s: learning.metric_lines(by_seed, name, _epochs_of(run, s)) for s, by_seed in curves.items()}
        found.append(learning.metric(f"metric-{i}", name, lines, colours))
    return [chart for chart in found if chart]


def _loss_charts(curves: Mapping[str, Mapping[int, Curves]]) -> list[Chart]:
    found = []
    for stage, by_seed in curves.items():
        phases = dict.fromkeys(p for c in by_seed.values() for p in c.phases)
        found += [
            learning.loss_terms(f"loss-{len(found) + i}", stage, phase, by_seed) for i, phase in enumerate(phases)
        ]
    return [chart for chart in found if chart]


def _notes(run: Run, table_notes: Sequence[str], curves: Mapping[str, Mapping[int, Curves]]) -> list[str]:
    found = list(table_notes) + list(run.notes)
    for stage in run.stages:
        for phase in stage.runs[0].phases if stage.runs else ():
            found += [f"{stage.name}, {phase.get('name')}: {note}" for note in phase.get("notes") or []]
    skipped = number(run.data.get("skipped"))
    if skipped:
        found.append(f"{skipped:.0f} rows of the data could not be used and were skipped.")
    ignored = sum(c.ignored for by_seed in curves.values() for c in by_seed.values())
    if ignored:
        found.append(f"{ignored} unreadable line(s) in steps.jsonl were left out of the curves.")
    return list(dict.fromkeys(found))


def facts(run: Run) -> list[str]:
    """The line below the verdict."""
    seeds = sorted({r.seed for s in run.stages for r in s.runs})
    seconds = sum(r.seconds or 0.0 for s in run.stages if s.kind != "peer" for r in s.runs)
    found = [
        {"done": "finished", "running": "still running (or cut off)"}.get(run.status, run.status),
        f"{len(seeds)} seeds" if len(seeds) > 1 else "single run" if seeds else "",
        str(run.data.get("source") or ""),
        str(run.machine.get("device") or ""),
        f"{words.duration(seconds)} of training" if seconds else "",
        (run.created or "").replace("T", " ").replace("Z", " UTC"),
    ]
    return [fact for fact in found if fact]


def certificate(run: Run) -> Certificate:
    """Where the figures of a run come from: seeds, code, recipe, versions, machine, data."""
    seeds = sorted({r.seed for s in run.stages for r in s.runs})
    rows = run.data.get("rows")
    shape = run.data.get("shape")
    classes = exhibits.classes_of(run)
    devices = number(run.machine.get("devices"))
    entries = (
        ("Run", f"{run.name}, {run.status}"),
        ("Begun, ended", " to ".join(t for t in (run.created, run.finished) if t)),
        ("Seeds", ", ".join(map(str, seeds)) + (" (single run)" if len(seeds) == 1 else "")),
        ("Recipe hash", run.recipe_hash or "not recorded"),
        ("Commit", run.commit or "not recorded (not run from a repository)"),
        *((f"Version of {name}", str(found)) for name, found in run.versions.items() if found is not None),
        (
            "Device",
            str(run.machine.get("device") or "") + (f", {devices:.0f} of them" if devices and devices > 1 else ""),
        ),
        ("Processor", str(run.machine.get("processor") or "")),
        ("Threads", str(run.machine.get("threads") or "")),
        ("Data", str(run.data.get("source") or "")),
        (
            "Rows",
            ", ".join(f"{k} {v:,}" for k, v in rows.items() if isinstance(v, int)) if isinstance(rows, Mapping) else "",
        ),
        ("Shape of a sample", " x ".join(map(str, shape)) if isinstance(shape, list) else ""),
        (
            "Classes",
            f"{len(classes)}: {', '.join(classes[:12])}{' ...' if len(classes) > 12 else ''}" if classes else "",
        ),
    )
    return Certificate(f"Where the figures of {run.name} come from", tuple((k, v) for k, v in entries if v))


def per_seed(run: Run) -> exhibits.Grid | None:
    """The single figures behind the means: accuracy of every stage and seed, and what each repetition took."""
    part = part_of(run)
    rows = []
    for stage in run.stages:
        for r in stage.runs:
            last, best = r.last.get(part, {}), r.best.get("validation", {})
            rows.append(
                (
                    stage.name,
                    str(r.seed),
                    r.status,
                    _percent(r.before.get("validation", {}).get("accuracy")),
                    _percent(best.get("accuracy")),
                    _percent(last.get("accuracy")),
                    f"{last['loss']:.4f}" if "loss" in last else words.NONE,
                    f"{last['ece']:.4f}" if "ece" in last else words.NONE,
                    f"{r.epochs:g}" if r.epochs is not None else words.NONE,
                    words.duration(r.seconds) if r.seconds is not None else words.NONE,
                )
            )
    if not rows:
        return None
    columns = (
        "stage",
        "seed",
        "status",
        "validation before",
        "best validation",
        f"{part} accuracy",
        f"{part} loss",
        f"{part} ECE",
        "epochs",
        "time",
    )
    return exhibits.Grid("Every repetition", columns, tuple(rows))


def _percent(value: float | None) -> str:
    return words.NONE if value is None else f"{100 * value:.2f} %"


def page(run: Run) -> str:
    """The page of a run as HTML text."""
    measured = measure(run)
    table = results(run)
    colours = colours_of([m.name for m in measured])
    curves = _curves(run)
    classes = exhibits.classes_of(run)
    samples = run.exhibits.get("samples")
    shown = (
        [pictures.sample_picture(s, classes) for s in samples if isinstance(s, Mapping)]
        if isinstance(samples, list)
        else []
    )
    singles = per_seed(run)
    chain = ledger(run)
    return render(
        {
            "title": f"{run.name}: limbeck report",
            "name": run.name,
            "verdict": verdict(run),
            "facts": facts(run),
            "sections": SECTIONS if chain is None else (SECTIONS[0], ("ledger", "Ledger"), *SECTIONS[1:]),
            "ledger": chain,
            "compressed": compressed.pictures(run, measured),
            "ticket_tables": compressed.ticket_tables(measured),
            "layer_tables": layer_tables(run),
            "table": table,
            "notes": _notes(run, table.notes, curves),
            "colours": colours,
            "overview": _overview(run, measured, colours),
            "only_results": False,
            "metrics": _metric_charts(run, curves, colours),
            "losses": _loss_charts(curves),
            "calibration": exhibits.calibration(run, colours),
            "soft_labels": exhibits.soft_labels(run),
            "layers": pictures.layers(run.exhibits, classes),
            "samples": [s for s in shown if s],
            "confusions": exhibits.confusions(run),
            "absent": run.exhibits_problem or "this run recorded none",
            "command": run.command,
            "recipe": run.recipe_text,
            "recipe_hash": run.recipe_hash,
            "certificates": [certificate(run)],
            "further": [singles] if singles else [],
        }
    )


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder, finished or not.

    Args:
        folder: of the run.

    Returns:
        Where the page is.

    Raises:
        RunFolderError: the folder cannot be read or written.
    """
    run = read_run(folder)
    return write(page(run), run.folder / "report.html")
