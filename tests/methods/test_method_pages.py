"""The pages in docs/methods say what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from limbeck import catalog
from limbeck.config.build import build_field
from limbeck.methods import preset
from limbeck.methods.presets import presets_of
from limbeck.recipe import Recipe
from limbeck.settings import Optimizer, Ramp

PAGES = Path(__file__).parents[2] / "docs" / "methods"
NAMES = [entry.name for entry in (*catalog.METHODS, *catalog.COURSES)]


def snippets(name, language):
    return re.findall(rf"```{language}\n(.*?)```", (PAGES / f"{name}.md").read_text(), re.S)


@pytest.mark.parametrize("name", NAMES)
def test_the_python_snippet_runs(name):
    (code,) = snippets(name, "python")
    values = {}
    exec(code, values)
    assert type(values["method"]) is catalog.find("method", name).load()


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_snippet_names_a_stage_and_settings_that_exist(name):
    (text,) = snippets(name, "yaml")
    (stage,) = yaml.safe_load(text)
    assert stage["method"]["kind"] == name
    found = []
    made = build_field(Recipe, "stages", [stage], ("stages",), found)
    assert found == []
    assert type(made[0].method) is catalog.find("method", name).load()


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_and_preset_is_on_the_page(name):
    page = (PAGES / f"{name}.md").read_text()
    cls = catalog.find("method", name).load()
    for field in dataclasses.fields(cls):
        row = re.search(rf"^\| `{field.name}` \|(.*)$", page, re.M)
        assert row, field.name
        default = field.default
        if isinstance(default, (bool, str)):
            assert str(default).lower() in row[1].split("|")[1].lower()
        elif isinstance(default, float):
            assert f"{default:g}" in row[1].split("|")[1]
    for chosen in presets_of(cls):
        assert f"`{chosen}`" in page


def test_the_overview_links_every_page():
    text = (PAGES / "README.md").read_text()
    assert all(f"({name}.md)" in text for name in NAMES)


def test_what_the_pages_say_of_presets():
    assert preset("attention_transfer", "paper").weight == 12.8
    assert preset("logit_matching", "benchmark").soft == 0.02
    assert preset("fitnets", "one_stage").hint_weight == 10.0
    assert preset("fitnets", "paper").soft == Ramp(start=4.0, end=1.0, epochs=500)
    assert preset("fitnets", "paper").hint_optimizer == Optimizer(
        kind="rmsprop", lr=0.005, momentum=0.0, weight_decay=0.0
    )
