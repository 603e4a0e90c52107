"""The JSON Schema agrees with the reader: on shipped recipes, and on wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck import catalog
from limbeck.config import schema
from limbeck.config.nodes import read_nodes
from limbeck.search.spec import SECTION, Search

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
GOOD = """
models: {s: resnet8, t: {name: resnet20, weights: w}}
data: {source: cifar10}
stages:
  - {kind: train, name: a, model: s, training: {clip: null}}
  - {kind: distill, name: b, student: s, teacher: t, method: {kind: nst, pairs: [[x, y]], weight: {start: 1, end: 0}}}
  - {kind: distill, name: c, student: s, teacher: t, method: kd}
machine: {threads: 2}
"""
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def fits(value, rule, root) -> bool:
    """A small reading of JSON Schema: the keywords that limbeck's schema uses, and an error for any other."""
    known = {
        "$schema", "$defs", "$ref", "title", "description", "default", "type", "enum", "const", "oneOf", "anyOf",
        "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems",
    }  # fmt: skip
    assert set(rule) <= known, set(rule) - known
    if "$ref" in rule and not fits(value, root["$defs"][rule["$ref"].rsplit("/", 1)[1]], root):
        return False
    if "type" in rule:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        kind = rule["type"]
        right = (
            number
            if kind == "number"
            else number and value == int(value)
            if kind == "integer"
            else isinstance(value, TYPES[kind])
        )
        if not right:
            return False
    if ("enum" in rule and value not in rule["enum"]) or ("const" in rule and value != rule["const"]):
        return False
    if "oneOf" in rule and sum(fits(value, r, root) for r in rule["oneOf"]) != 1:
        return False
    if "anyOf" in rule and not any(fits(value, r, root) for r in rule["anyOf"]):
        return False
    if isinstance(value, dict):
        inside = rule.get("properties", {})
        other = rule.get("additionalProperties", True)
        for key, item in value.items():
            if key in inside:
                if not fits(item, inside[key], root):
                    return False
            elif other is False or (isinstance(other, dict) and not fits(item, other, root)):
                return False
        return all(key in value for key in rule.get("required", ()))
    if isinstance(value, list):
        first = rule.get("prefixItems", [])
        rest = (
            [fits(v, rule["items"], root) for v in value[len(first) :]] if isinstance(rule.get("items"), dict) else []
        )
        few = len(value) >= rule.get("minItems", 0) and len(value) <= rule.get("maxItems", len(value))
        return few and all(fits(v, r, root) for v, r in zip(value, first)) and all(rest)
    return True


@pytest.fixture(scope="module")
def whole():
    return schema()


def test_shipped_recipes_are_there():
    assert len(RECIPES) >= 10


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_fit(path, whole):
    data, _, found = read_nodes(path.read_text())
    assert not found
    assert fits(data, whole, whole)


def test_the_good_one_fits(whole):
    assert fits(read_nodes(GOOD)[0], whole, whole)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("models:", "modles:"),
        ("kind: train", "kind: trian"),
        ("model: s,", ""),
        ("method: kd", "method: kdd"),
        ("method: kd", "method: 3"),
        ("kind: nst,", ""),
        ("pairs:", "pars:"),
        ("[[x, y]]", "[[x, y, z]]"),
        ("{start: 1, end: 0}", "true"),
        ("{start: 1, end: 0}", "{start: 1}"),
        ("source: cifar10", "source: cifar"),
        ("threads: 2", "threads: two"),
        ("clip: null", "clip: high"),
    ],
)
def test_wrong_ones_do_not(old, new, whole):
    assert old in GOOD
    assert not fits(read_nodes(GOOD.replace(old, new, 1))[0], whole, whole)


def test_every_name_of_the_catalogue_is_in_it(whole):
    kinds = {
        rule["properties"]["kind"].get("const")
        for rule in whole["$defs"].values()
        if "kind" in rule.get("properties", {})
    }
    for kind in ("method", "source", "stage"):
        assert set(catalog.entries(kind)) <= kinds


def test_settings_carry_their_descriptions(whole):
    kd = whole["$defs"]["KD"]["properties"]
    assert kd["temperature"]["description"].startswith("T, more than zero.")
    assert kd["temperature"]["default"] == 4.0
    assert kd["preset"]["enum"] == ["paper", "benchmark"]
    assert "epochs" in whole["$defs"]["Training"]["properties"]


def test_it_is_a_valid_schema_for_jsonschema_too(whole):
    jsonschema = pytest.importorskip("jsonschema", reason="the jsonschema package is not installed")
    jsonschema.Draft202012Validator.check_schema(whole)
    for path in RECIPES:
        jsonschema.Draft202012Validator(whole).validate(read_nodes(path.read_text())[0])


@pytest.mark.parametrize(
    ("section", "good"),
    [
        ("{space: {stages.a.how.energy: {low: 0.4, high: 0.9}}, within: {points: 1.0}, aim: bytes}", True),
        ("{space: {stages.a.how.energy: [0.4, 0.9]}, trials: 3}", True),
        ("{within: {points: 1.0}}", False),
        ("{space: {}, aim: beauty}", False),
        ("{space: {}, withn: {}}", False),
    ],
)
def test_the_section_of_a_search(section, good):
    """The command's schema knows the section; a recipe's alone does not."""
    data = read_nodes(f"{GOOD}\nsearch: {section}\n")[0]
    known = schema({SECTION: Search})
    assert fits(data, known, known) == good
    alone = schema()
    assert not fits(data, alone, alone)
