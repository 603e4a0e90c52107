"""Where a recipe runs, and a recipe in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck import catalog
from limbeck.config import Parsed
from limbeck.config.place import Problem
from limbeck.errors import RecipeError
from limbeck.recipe import Machine

_ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def choose(machine: Machine, **given: Any) -> Machine:
    """The recipe's machine, with what the command line said instead.

    Raises:
        RecipeError: an accelerator that does not exist.
    """
    named = given.get("accelerator")
    if named is not None and named not in _ACCELERATORS:
        raise RecipeError(f"--accelerator {named}: there are: {', '.join(_ACCELERATORS)}")
    return replace(machine, **{name: value for name, value in given.items() if value is not None})


def folder_for(parsed: Parsed) -> Path:
    """The folder of a run that was given none: below ``runs``, called like the recipe, whatever its name holds.

    Raises:
        RecipeError: the name is none for a folder.
    """
    name = parsed.recipe.name
    if Path(name).name != name or name in ("", "..") or not name.isprintable():
        text = f"{name!r} cannot name a folder below runs/; give --out FOLDER, or another name"
        raise RecipeError(parsed.places.tell(Problem(("name",), text)))
    return Path("runs") / name


def in_words(parsed: Parsed) -> str:
    """What a good recipe would do, in one line."""
    recipe = parsed.recipe
    kinds = Counter(catalog.name_of(stage) for stage in recipe.stages)
    stages = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    seeds = f"{len(recipe.seeds)} seed{'s' if len(recipe.seeds) != 1 else ''}"
    return f"{parsed.places.file}: fine ({stages}; {catalog.name_of(recipe.data.source)}; {seeds})"
