"""A whole run, in one process or in several that share every batch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from limbeck import config, record
from limbeck.checks import require_fitting
from limbeck.data import load
from limbeck.data.images import Splits
from limbeck.engine.team import Team, fabric_for, member
from limbeck.errors import Interrupted, LimbeckError
from limbeck.processor import processor_name
from limbeck.recipe import (
    Compress,
    Ensemble,
    Evaluate,
    Machine,
    Peer,
    Recipe,
    Stage,
    Together,
    baseline_of,
    planned,
    student_of,
    teachers_of,
)
from limbeck.runner.finish import finish
from limbeck.runner.shelf import Work
from limbeck.runner.signals import passing_on_interrupts, stoppable
from limbeck.runner.stages import perform


def work_through(team: Team, recipe: Recipe, folder: Path, machine: Machine, quiet: bool, command: str) -> str | None:
    """Everything that a process of the team does; None, or where it was asked to stop."""
    kept = record.read_json(folder / "run.json") or {}
    threads = machine.threads or kept.get("machine", {}).get("threads")
    if threads:
        torch.set_num_threads(threads)  # the same number as before: it decides the last bits
    console = Console()
    data = load(recipe.data)
    require_fitting(recipe, data)
    work = Work(recipe, folder, data, team, console, quiet, begin(recipe, data, machine, command, team, kept))
    work.record["machine"]["threads"] = torch.get_num_threads()
    with stoppable() as stop:
        try:
            for note in data.notes:
                work.note(note)
            if recipe.evaluation != "fp32":
                work.note(f"finished networks are measured in {recipe.evaluation}, those in int8 as they are")
            work.write()
            for seed in recipe.seeds:
                for index, stage in enumerate(recipe.plan):
                    perform(work, index, stage, seed, stop)
                    work.write()
            if team.leads:
                finish(work)
            work.record["finished"] = kept.get("finished") or record.now()
            work.write("done")
        except Interrupted as stopped:
            work.write("interrupted")
            return str(stopped)
        except LimbeckError as error:
            work.record["error"] = str(error)
            work.write("failed")
            raise
    team.wait()
    return None


def work_in_processes(recipe: Recipe, folder: Path, machine: Machine, quiet: bool, command: str) -> str | None:
    """`work_through` in several processes.  What one of them raises is raised here, in its own words."""
    told = folder / ".error"
    told.unlink(missing_ok=True)
    # Bound beforehand: Fabric would look into arguments, and cannot look into frozen dataclasses.
    work = partial(_work_together, recipe=recipe, folder=folder, machine=machine, quiet=quiet, command=command)
    with passing_on_interrupts() as came:
        try:
            return fabric_for(machine.accelerator, machine.devices).launch(work)
        except (ProcessRaisedException, ProcessExitedException) as error:
            if told.exists():
                text = told.read_text(encoding="utf-8")
                told.unlink()
                raise LimbeckError(text) from None
            if came:  # before they could stop cleanly
                return "stopped at the start"
            raise LimbeckError(f"one of the {machine.devices} processes failed: {error}") from error


def _work_together(fabric: Any, **arguments: Any) -> str | None:
    try:
        return work_through(member(fabric), **arguments)
    except LimbeckError as error:
        # The others may be waiting for this process: only its end makes the one that started them stop them all.
        (arguments["folder"] / ".error").write_text(str(error), encoding="utf-8")
        sys.stdout.flush()
        os._exit(1)


def _line(stage: Stage, written: Stage, cost: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a stage in the record, before it has run; ``written`` is the recipe's stage that it comes from."""
    method = config.to_plain(written.method) if isinstance(stage, Peer) and isinstance(written, Together) else None
    line = {
        **config.to_plain(stage),
        **({"method": method} if method else {}),
        "name": stage.name,
        "kind": type(stage).__name__.lower(),
    }
    if isinstance(stage, Evaluate):
        return line | {"split": stage.split, "results": {}}
    if isinstance(stage, Compress):
        line["how"] = {"kind": line["how"]} if isinstance(line["how"], str) else line["how"]
        line["method"] = line["how"]
    method = line.get("method")
    if isinstance(method, (str, list)):
        line["method"] = {"kind": method} if isinstance(method, str) else {"kind": "sum", "methods": method}
    teachers = teachers_of(stage)
    return line | {
        "model": None if isinstance(stage, Ensemble) else student_of(stage),
        "teacher": teachers[0] if len(teachers) == 1 else list(teachers) or None,
        "part_of": None if stage.name == written.name else written.name,
        "cost": cost,
        "runs": [],
    }


def begin(
    recipe: Recipe, data: Splits, machine: Machine, command: str, team: Team, kept: Mapping[str, Any]
) -> dict[str, Any]:
    before = {s.get("name"): s for s in kept.get("stages", [])}
    stages = [
        _line(stage, recipe.stages[index], before.get(stage.name, {}).get("cost", {}))
        for index, stage in planned(recipe.stages)
    ]
    return {
        "format": record.FORMAT,
        "name": recipe.name,
        "status": "running",
        "created": kept.get("created") or record.now(),
        "finished": kept.get("finished"),
        "command": command,
        "recipe": config.to_data(recipe),
        "recipe_in_full": config.to_data(recipe, defaults=True),
        "recipe_hash": config.recipe_hash(recipe),
        "commit": record.commit(),
        "versions": record.versions(),
        "machine": {
            "device": torch.cuda.get_device_name(team.device) if team.device.type == "cuda" else team.device.type,
            "processor": processor_name(),
            "devices": team.world,
        },
        "data": {
            "source": data.source,
            "classes": list(data.classes),
            "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
            "skipped": data.skipped,
            "shape": list(data.shape),
            "mean": list(data.mean),
            "std": list(data.std),
        },
        "notes": [],
        "weights": kept.get("weights") or {},
        "models": kept.get("models") or {},
        "stages": stages,
        "baseline": baseline_of(recipe),
    }
