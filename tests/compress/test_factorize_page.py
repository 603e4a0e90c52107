"""The page says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from limbeck.compress.factorize import Factorize
from limbeck.compressor import findings
from limbeck.config.build import build_field
from limbeck.recipe import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "compress" / "factorize.md").read_text()


def snippet(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return found


def test_the_python_snippet_runs(capsys):
    values = {}
    exec(snippet("python"), values)
    assert "layers are factorized" in capsys.readouterr().out
    macs = findings(values["small"]).details["macs"]
    assert macs["after"] <= 0.5 * macs["before"]
    assert repr(values["dense"]) == repr(values["model"])


def test_the_recipe_snippet_names_a_stage_and_settings_that_exist():
    found = []
    (stage,) = build_field(Recipe, "stages", yaml.safe_load(snippet("yaml")), ("stages",), found)
    assert found == []
    assert stage.how == Factorize(macs=0.5, kind="tucker", ignore=("fc",))


@pytest.mark.parametrize("field", dataclasses.fields(Factorize), ids=lambda field: field.name)
def test_every_setting_is_on_the_page_with_its_default(field):
    row = re.search(rf"^\| `{field.name}` \|(.*)$", PAGE, re.M)
    assert row
    if isinstance(field.default, (bool, str)):
        assert str(field.default).lower() in row[1].split("|")[1].lower()
    elif isinstance(field.default, float):
        assert f"{field.default:g}" in row[1].split("|")[1]


def test_every_preset_is_on_the_page_and_can_be_made():
    for name, settings in Factorize.presets.items():
        assert f"`{name}`" in PAGE
        Factorize(**settings)
