"""Several runs side by side: one table, and what each network costs for its accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from limbeck.errors import RunFolderError
from limbeck.report import words
from limbeck.report.page import certificate, colours_of, paretos, render, write
from limbeck.report.read import Run, read_run
from limbeck.report.tables import (
    Cell,
    Column,
    Measured,
    Table,
    cautions,
    columns,
    decimals_for,
    measure,
    part_of,
    row,
)


def read_all(folders: Iterable[str | Path]) -> list[tuple[str, Run]]:
    """Read runs, each with a label that no other has: its name, else its name and as much of its folder as it takes.

    Raises:
        RunFolderError: no folder was given, or some cannot be read; the message says each.
    """
    places = list(dict.fromkeys(Path(folder).resolve() for folder in folders))
    if not places:
        raise RunFolderError("no run folders given to compare; for example: limbeck compare runs/*")
    runs: list[Run] = []
    troubles: list[str] = []
    for place in places:
        try:
            runs.append(read_run(place))
        except RunFolderError as error:
            troubles.append(str(error))
    if troubles:
        raise RunFolderError("; ".join(troubles))
    return list(zip(labels([(run.name, run.folder) for run in runs]), runs))


def labels(named: Sequence[tuple[str, Path]]) -> list[str]:
    """A label for each run that no other run has.

    >>> labels([("kd", Path("/r/a")), ("kd", Path("/r/b")), ("at", Path("/r/c"))])
    ['kd (a)', 'kd (b)', 'at']
    """
    names = [name for name, _ in named]
    found = []
    for name, folder in named:
        rivals = [f for n, f in named if n == name and f != folder]
        if not rivals:
            found.append(name)
            continue
        depth = next(
            (d for d in range(1, len(folder.parts)) if all(f.parts[-d:] != folder.parts[-d:] for f in rivals)), 1
        )
        found.append(f"{name} ({'/'.join(folder.parts[-depth:])})")
    assert len(found) == len(names)
    return found


def same_data(runs: Sequence[tuple[str, Run]]) -> bool:
    """Whether all runs were measured on the same part of the same data, as far as the records say."""
    return len({(str(r.data.get("source")), str(r.data.get("rows")), part_of(r)) for _, r in runs}) <= 1


def _differing(runs: Sequence[tuple[str, Run]]) -> list[str]:
    """What makes figures of different runs hard to compare."""
    found = []
    if not same_data(runs):
        found.append("These runs were not measured on the same data or rows: compare within a run, not between them.")
    machines = {
        (str(r.machine.get("processor")), str(r.machine.get("device")), str(r.machine.get("threads"))) for _, r in runs
    }
    if len(machines) > 1:
        found.append("These runs come from different machines or thread counts: their latencies do not compare.")
    commits = {run.commit for _, run in runs}
    if len(commits) > 1:
        found.append("These runs come from different commits; the birth certificates have them.")
    if len(runs) > 1:
        found.append("Differences are paired within each run, against that run's own baseline.")
    return found


def _table(runs: Sequence[tuple[str, Run]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    notes: list[str] = _differing(runs)
    for label, run in runs:
        measured = measure(run)
        everything = {m.name: m for m in measured}
        baseline = run.baseline if run.baseline in everything else None
        note = "" if run.finished_well else run.status
        for m in measured:
            name = Cell(label, note, label)
            rows.append((name, *row(m, everything, decimals_for(run), baseline)))
        notes += [f"{label}: {text}" if len(runs) > 1 else text for text in cautions(run, measured)]
    parts = {part_of(run) for _, run in runs}
    heads = columns("validation" if parts == {"validation"} else "test", None)
    return Table(
        caption=f"{len(runs)} runs compared" if len(runs) > 1 else f"Results of {runs[0][0]}",
        columns=(Column("run", "Run", False, "the run"), *heads),
        rows=tuple(rows),
        notes=tuple(dict.fromkeys(notes)),
    )


def compare(folders: Iterable[str | Path]) -> Table:
    """The results of several runs in one table.

    Args:
        folders: of the runs; the same folder twice counts once, and runs of one name are told apart by folder.

    Returns:
        A row for each network of each run, the run first.

    Raises:
        RunFolderError: no folder was given, or some cannot be read.
    """
    return _table(read_all(folders))


def everyone(runs: Sequence[tuple[str, Run]]) -> list[Measured]:
    """Every network of every run, named so that each name is there once."""
    many = len(runs) > 1
    return [replace(m, name=f"{m.name}, {label}" if many else m.name) for label, run in runs for m in measure(run)]


def write_compare(folders: Iterable[str | Path], path: str | Path) -> Path:
    """Write the comparison of several runs as one self-contained HTML page.

    Args:
        folders: of the runs.
        path: of the page; its folder is made if need be.

    Returns:
        Where the page is.

    Raises:
        RunFolderError: a run cannot be read, or the page not written.
    """
    runs = read_all(folders)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot make {str(path.parent)!r} for the page ({error.strerror})") from error
    measured = everyone(runs)
    colours = colours_of([m.name for m in measured])
    table = _table(runs)
    return write(
        render(
            {
                "title": "limbeck: runs compared",
                "name": f"Compared: {words.listing([label for label, _ in runs])}"
                if len(runs) <= 4
                else f"{len(runs)} runs",
                "verdict": None,
                "facts": [],
                "sections": (),
                "table": table,
                "notes": table.notes,
                "colours": {},
                "overview": paretos(measured, colours, joined=same_data(runs)),
                "only_results": True,
                "certificates": [certificate(run) for _, run in runs],
                "further": [],
            }
        ),
        path,
    )
