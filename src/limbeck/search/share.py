"""Stages that are the same in several trials are run once: later trials get copies of what the first one left.

A stage's result follows from the data, the networks, the seeds, and the stages up to itself, and from nothing else in a
recipe.  Where all of these are equal, so is the result.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from limbeck import config
from limbeck.recipe import Evaluate, Recipe, planned

_WHOLE = ("result.json", "last.safetensors")  # what `limbeck.runner` looks for


class Shelf:
    """Which trial's folder holds which stages."""

    def __init__(self, aside: Path) -> None:
        """``aside`` is where copies are made before they are moved to their place, on the same disk."""
        self.aside = aside
        self.folders: dict[str, list[Path]] = {}

    def put(self, recipe: Recipe, folder: Path) -> None:
        """Remember a run folder, whole or not."""
        for key, _ in keys(recipe):
            self.folders.setdefault(key, []).append(folder)

    def fetch(self, recipe: Recipe, folder: Path) -> tuple[str, ...]:
        """Copy what earlier trials have into a run folder; returns the names of stages that were taken over in whole."""
        found = []
        for key, names in keys(recipe):
            places = [
                Path("stages") / name / f"seed-{seed}"
                for name, per_seed in names
                for seed in (recipe.seeds if per_seed else recipe.seeds[:1])
            ]
            taken = [self._take(key, place, folder) for place in places]
            if taken and all(taken):
                found += [name for name, _ in names]
        return tuple(found)

    def _take(self, key: str, place: Path, folder: Path) -> bool:
        target = folder / place
        for giver in self.folders.get(key, ()):
            source = giver / place
            if giver == folder or not all((source / name).exists() for name in _WHOLE):
                continue
            if not target.exists():
                shutil.rmtree(self.aside, ignore_errors=True)
                _copy(source, self.aside)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.aside.rename(target)
            return True
        return False


def keys(recipe: Recipe) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """For each stage of a recipe: a text that is equal where the result is, and the parts of the plan (and if per seed)."""
    data = config.to_data(recipe, defaults=True)
    parts: dict[int, list[tuple[str, bool]]] = {}
    for position, stage in planned(recipe.stages):
        if not isinstance(stage, Evaluate):
            parts.setdefault(position, []).append((stage.name, stage.per_seed))
    for position, names in parts.items():
        before = [stage for stage in data["stages"][: position + 1] if stage.get("kind") != "evaluate"]
        yield (
            json.dumps([data["data"], data["models"], list(data["seeds"]), before], sort_keys=True, default=str),
            names,
        )


def _copy(source: Path, target: Path) -> None:
    """A folder again.  Weights, which are never changed in place, as links where the disk has them."""
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.name == "checkpoint.safetensors" or file.name.startswith(".") or not file.is_file():
            continue
        try:
            if file.suffix != ".safetensors":
                raise OSError
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)
