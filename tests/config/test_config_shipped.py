"""Every shipped recipe reads, survives a round trip, and says what its name promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck import catalog
from limbeck.config import read_recipe, to_yaml
from limbeck.recipe import Distill, baseline_of

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
KINDS = {"kd": "kd", "fitnets": "fitnets", "at": "attention_transfer", "nst": "nst"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_reads_and_survives(path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert read_recipe(to_yaml(recipe)) == recipe


@pytest.mark.parametrize("short", KINDS)
@pytest.mark.parametrize("network", ["resnet8", "resnet20"])
def test_a_distillation_recipe_compares_like_with_like(short, network):
    (path,) = [path for path in RECIPES if path.stem == f"cifar10-{short}-{network}"]
    recipe = read_recipe(path)
    alone, taught, _ = recipe.stages
    assert recipe.models["student"].name == network
    assert recipe.models["teacher"].weights == "runs/cifar10-teacher/stages/teacher/seed-0/last.safetensors"
    assert isinstance(taught, Distill)
    assert catalog.name_of(taught.method) == KINDS[short]
    assert alone.training == taught.training
    assert alone.training.epochs == 15
    assert baseline_of(recipe) == "alone"
    assert len(recipe.seeds) >= 3
