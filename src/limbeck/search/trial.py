"""One trial: an ordinary run of the recipe with its settings, judged on the validation rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from limbeck import config, record
from limbeck.config import Parsed
from limbeck.errors import DataError, Interrupted, LimbeckError, RecipeError, RunFolderError, unknown
from limbeck.recipe import Evaluate, Recipe
from limbeck.report.read import number
from limbeck.runner import run
from limbeck.runner.folder import open_folder
from limbeck.runner.shelf import Work
from limbeck.search.judge import Trial
from limbeck.search.share import Shelf
from limbeck.search.spec import Search, as_set, read_changed

_GIVEN = "search.original"  # a stage that measures an original with weights on the validation rows


def judged_stage(recipe: Recipe, search: Search) -> str:
    """Whose network is judged.

    Raises:
        LimbeckError: the recipe has no such stage.
    """
    names = [stage.name for stage in recipe.plan if not isinstance(stage, Evaluate)]
    if search.stage is None:
        if not names:
            raise RecipeError("search.stage: no stage of the recipe leaves a network to judge")
        return names[-1]
    if search.stage not in names:
        raise RecipeError(
            "search.stage: " + unknown("stage", search.stage, names, "this recipe (that leaves a network)")
        )
    return search.stage


def original_of(recipe: Recipe, stage: str) -> str | None:
    """The network at the beginning of the chain that ends with this stage."""
    nothing = cast(Any, None)
    work = Work(recipe, Path(), nothing, nothing, Console(quiet=True), True, {})  # its shelf needs the recipe alone
    return work.original(stage, len(recipe.plan))


def prepared(recipe: Recipe, search: Search, number: int) -> tuple[Recipe, str, str | None]:
    """The recipe of a trial, the stage that is judged, and the original; one that came with weights is measured too.

    Raises:
        LimbeckError: there is no such stage, or nothing that points could be lost against.
    """
    stage = judged_stage(recipe, search)
    original = original_of(recipe, stage)
    if original is None and search.within.points is not None:
        raise RecipeError(
            f"search.within.points: {stage} is made of no other network, so no points can be lost; limit something else, or "
            "judge a stage that compresses or learns from a teacher"
        )
    stages = recipe.stages
    if original is not None and all(part.name != original for part in recipe.plan):
        stages = (*stages, Evaluate(name=_GIVEN, models=(original,), split="validation"))
    return replace(recipe, name=f"{recipe.name} {number:03}", stages=stages), stage, original


def attempt(
    parsed: Parsed, search: Search, trial: Trial, folder: Path, sets: tuple[str, ...], shelf: Shelf, command: str
) -> Trial:
    """Run a trial, or go on with it; what it measured, or why it failed.

    Raises:
        Interrupted: it was stopped; all is saved.
        RunFolderError: files cannot be written.
        DataError: the data cannot be read, by this trial or any other.
    """
    begun = time.perf_counter()
    shared: tuple[str, ...] = ()
    try:
        changed = read_changed(parsed, (*sets, *(as_set(name, value) for name, value in trial.settings.items())))
        recipe, stage, original = prepared(changed.recipe, search, trial.number)
        wrong = config.check(changed)
        if wrong:
            raise RecipeError("\n".join(wrong), tuple(wrong))
        with record.locked(folder):
            open_folder(folder, recipe)
            shared = shelf.fetch(recipe, folder)
        shelf.put(recipe, folder)
        run(recipe, out=folder, machine=changed.machine, quiet=True, command=command)
        figures = measured(record.read_json(folder / "run.json") or {}, stage, original)
    except (Interrupted, RunFolderError, DataError):
        raise
    except LimbeckError as error:
        return replace(trial, status="failed", problem=_plain(str(error)), shared=shared, seconds=_since(begun))
    return replace(trial, status="done", figures=figures, shared=shared, seconds=_since(begun))


def measured(told: Mapping[str, Any], stage: str, original: str | None) -> dict[str, float | None]:
    """What the record of a run says of a stage's network, on validation rows; its test figures are not looked at."""
    lines = {line["name"]: line for line in told.get("stages", ())}
    cost = lines[stage]["cost"]
    accuracy, before = _accuracy(lines, stage), _accuracy(lines, original)
    lost = None if accuracy is None or before is None else 100.0 * (before - accuracy)
    return {
        "accuracy": accuracy,
        "original": before,
        "points": lost,
        "latency": number((cost.get("latency") or {}).get("median_ms")),
        **{name: number(cost.get(name)) for name in ("bytes", "macs", "parameters")},
    }


def _accuracy(lines: Mapping[str, Any], name: str | None) -> float | None:
    """The mean over the seeds."""
    if name is None:
        return None
    if name in lines:
        found = [line["last"]["validation"]["accuracy"] for line in lines[name]["runs"]]
    else:
        found = [line["accuracy"] for line in lines.get(_GIVEN, {}).get("results", {}).get(name, ())]
    return sum(found) / len(found) if found else None


def _since(begun: float) -> float:
    return round(time.perf_counter() - begun, 2)


def _plain(text: str) -> str:
    """Without what only a command line has: a trial's settings are nobody's ``--set``."""
    return "\n".join(line.removeprefix("--set ") for line in text.splitlines())
