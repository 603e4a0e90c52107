"""Where a recipe runs, and a recipe in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from limbeck import catalog
from limbeck.config import Parsed
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


def in_words(parsed: Parsed) -> str:
    """What a good recipe would do, in one line."""
    recipe = parsed.recipe
    kinds = Counter(catalog.name_of(stage) for stage in recipe.stages)
    stages = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    seeds = f"{len(recipe.seeds)} seed{'s' if len(recipe.seeds) != 1 else ''}"
    return f"{parsed.places.file}: fine ({stages}; {catalog.name_of(recipe.data.source)}; {seeds})"
