"""``limbeck quickstart``: the whole way, on real handwritten digits that need no download."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from limbeck.errors import NameUnknown, unknown
from limbeck.recipe import Machine


def shipped(name: str) -> Path:
    """A recipe that comes with limbeck: from the installed package, or from the checkout.

    Raises:
        NameUnknown: there is no such recipe.
    """
    here = Path(__file__).parent
    homes = [here / "recipes", here.parent.parent / "recipes"]
    for home in homes:
        if (home / f"{name}.yaml").is_file():
            return home / f"{name}.yaml"
    known = sorted(path.stem for home in homes for path in home.glob("*.yaml"))
    raise NameUnknown(unknown("shipped recipe", name, known))


def run(*, out: str | Path = "runs/quickstart", seeds: int = 5, quiet: bool = False) -> Path:
    """Run the shipped digits recipe with so many seeds; returns the run folder."""
    from limbeck import config
    from limbeck.runner import run as run_recipe

    recipe = dataclasses.replace(config.read_recipe(shipped("digits-quickstart")), seeds=tuple(range(seeds)))
    # One thread: networks this small are slower on several.
    command = f"limbeck quickstart --out {out} --seeds {seeds}"
    return run_recipe(recipe, out=out, machine=Machine(accelerator="cpu", threads=1), quiet=quiet, command=command)
