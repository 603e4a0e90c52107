"""YAML text -> plain data: the core schema of YAML 1.2, line numbers, and what is refused."""

from __future__ import annotations

import math

import pytest

from limbeck.config.nodes import Unreadable, read_nodes


def value_of(text: str):
    data, _, found = read_nodes(f"key: {text}")
    assert not found
    return data["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e+2", -150.0),
        ("+3", 3),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-31", "2026-01-31"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("~", None),
        ("null", None),
        ("", None),
        ('"3"', "3"),
        ("'true'", "true"),
        ("!!str 3", "3"),
        ("!!float 3", 3.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("=", "="),
        ("NULLish", "NULLish"),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    made = value_of(text)
    assert made == value
    assert type(made) is type(value)


def test_nan_is_read_as_a_number():
    assert math.isnan(value_of(".nan"))


def test_lines_are_those_of_the_keys_and_items():
    _, lines, _ = read_nodes("a: 1\nb:\n  c:\n    - x\n    -\n      d: 2\n")
    assert lines[("a",)] == 1
    assert lines[("b",)] == 2
    assert lines[("b", "c")] == 3
    assert lines[("b", "c", 0)] == 4
    assert lines[("b", "c", 1, "d")] == 6


def test_an_alias_gives_its_own_copy():
    data, _, _ = read_nodes("a: &x {k: 1}\nb: *x\n")
    data["b"]["k"] = 2
    assert data["a"] == {"k": 1}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: !!python/object/apply:os.system [ls]", 1, "the tag !!python/object/apply:os.system is not read"),
        ("a: !!python/name:os.system", 1, "!!python/name:os.system is not read"),
        ("b: 1\na: !Custom {x: 1}", 2, "the tag !Custom is not read"),
        ("a: !!set {x, y}", 1, "!!set is not read"),
        ("a: !!binary aGk=", 1, "!!binary is not read"),
        ("a: !!timestamp 2026-01-01", 1, "!!timestamp is not read"),
        ("a: !!int abc", 1, "'abc' cannot be read as int"),
        ("a: 1\nb: 2\na: 3", 3, "this key is given twice, first in line 1"),
        ("a: &x {k: 1}\nb:\n  <<: *x\n", 3, "merge keys are not read"),
        ("1: x", 1, "this key is not text; put it in quotes"),
        ("true: x", 1, "this key is not text; put it in quotes"),
        ("[1, 2]: x", 1, "this key is not text; put it in quotes"),
        ("a: " + "9" * 5000, 1, "cannot be read as int"),
    ],
)
def test_values_that_are_refused(text, line, message):
    _, lines, found = read_nodes(text)
    assert len(found) == 1
    assert message in found[0].text
    assert lines[found[0].path] == line


def test_the_first_of_two_equal_keys_is_kept():
    data, _, _ = read_nodes("a: 1\na: 2")
    assert data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "is empty"),
        ("# only a comment\n", 0, "is empty"),
        ("a: [1, 2", 1, "not YAML"),
        ("a: 1\n\tb: 2", 2, "spaces, never with tabs"),
        ("a: b: c", 1, "not YAML"),
        ("a: 'x", 1, "not YAML"),
        ("a: 1\n---\nb: 2", 2, "not YAML"),
        ("a: *nowhere", 1, "undefined alias"),
        ("a: 1\nb: \x07", 2, "control character"),
        ("%YAML 9.9\n---\na: 1", 1, "not YAML"),
        ("a: &x [*x]", 1, "contains itself"),
        ("[" * 300 + "]" * 300, 1, "nested too deeply"),
        ("[" * 5000, 0, "nested too deeply"),
    ],
)
def test_texts_that_are_not_read(text, line, message):
    with pytest.raises(Unreadable, match=message) as caught:
        read_nodes(text)
    assert line in (caught.value.line, 0) or message == "not YAML"


def test_aliases_of_aliases_are_stopped_early():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(Unreadable, match="unfolds into more than 50,000 values"):
        read_nodes("\n".join(lines))


def test_a_text_that_is_too_long_is_not_parsed():
    with pytest.raises(Unreadable, match="a recipe has at most 200,000"):
        read_nodes("x" * 200_001)
