"""Running a recipe: stage by stage and seed by seed, resumable, with a record and a report."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from limbeck import record
from limbeck.engine.progress import waiting
from limbeck.engine.team import alone, require_devices
from limbeck.errors import Interrupted
from limbeck.recipe import Machine, Recipe
from limbeck.report.ledger import ledger
from limbeck.report.page import write_report
from limbeck.report.read import read_run
from limbeck.report.tables import render_text, results
from limbeck.report.verdict import verdict
from limbeck.runner.folder import is_complete, open_folder, require_catalogued
from limbeck.runner.whole import work_in_processes, work_through

__all__ = ["run", "show"]


def run(
    recipe: Recipe,
    *,
    out: str | Path,
    machine: Machine | None = None,
    quiet: bool = False,
    command: str | None = None,
) -> Path:
    """Run a recipe in a folder, or go on with it there; returns the folder.

    What is done already is kept: finished stages are not repeated, and a stage that was interrupted goes
    on at its checkpoint, to the bits that an uninterrupted run would have given on this machine.

    Args:
        recipe: what to do.
        out: the run folder; made if need be.
        machine: where to run.
        quiet: print nothing.
        command: what to type to repeat the run; None makes one up.

    Raises:
        HyperParameterError: this machine does not have the accelerator that was asked for.
        RunFolderError: the folder holds another recipe's run, is in use, or cannot be written.
        Interrupted: SIGINT or SIGTERM came; all is saved.
    """
    folder, machine = Path(out), machine or Machine()
    require_catalogued(recipe)
    require_devices(machine.accelerator, machine.devices)
    command = command or f"limbeck run {shlex.quote(str(folder / 'recipe.yaml'))} --out {shlex.quote(str(folder))}"
    console = Console()
    with record.locked(folder):
        open_folder(folder, recipe)
        if is_complete(folder):
            stopped = None
        elif machine.devices == 1:
            stopped = work_through(alone(machine.accelerator), recipe, folder, machine, quiet, command)
        else:
            stopped = work_in_processes(recipe, folder, machine, quiet, command)
        if stopped is not None:
            raise Interrupted(f"{stopped}; to go on: {command}")
        with waiting(console, "drawing the report", quiet):
            write_report(folder)
    if not quiet:
        show(folder, console)
    return folder


def show(folder: Path, console: Console) -> None:
    """Print a run's table, its verdict, and where its report is."""
    done = read_run(folder)
    console.print(render_text(results(done), width=console.width))
    if (chain := ledger(done)) is not None:
        console.print(render_text(chain, width=console.width))
    console.print(verdict(done).text, highlight=False, markup=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
