"""Recipes that are wrong in different ways: one clear message each, exit code 2, no traceback.

A line of the table: what is wrong, how to make it from the good recipe, what the message says, and whether networks
have to be built to see it (``deep``; those are checked without ``--shape-only``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from limbeck.cli import main

GOOD = """\
models:
  student: digits_cnn_thin
  teacher: digits_cnn
stages:
  - kind: train
    name: teacher
    model: teacher
  - kind: distill
    name: kd
    student: student
    teacher: teacher
    method: {kind: kd, temperature: 4}
"""


def swap(old: str, new: str) -> Callable[[str], str]:
    assert GOOD.count(old) == 1, old
    return lambda text: text.replace(old, new)


class Wrong(NamedTuple):
    name: str
    make: Callable[[str], str]
    message: str
    deep: bool = False


TABLE = [
    Wrong("unknown key", swap("temperature", "temprature"), "recipe.yaml:12: stages[1].method.temprature: no key 'temprature' in method 'kd'; near: temperature"),
    Wrong("wrong type", swap("temperature: 4", "temperature: warm"), "recipe.yaml:12: stages[1].method.temperature: expected a number, got the text 'warm'"),
    Wrong("unknown method", swap("{kind: kd, temperature: 4}", "nts"), "recipe.yaml:12: stages[1].method: no method 'nts'; near: nst"),
    Wrong("missing teacher", swap("    teacher: teacher\n    method", "    method"), "recipe.yaml:8: stages[1].teacher: stage 'distill' needs the key 'teacher'"),
    Wrong("negative temperature", swap("temperature: 4", "temperature: -4"), "recipe.yaml:12: stages[1].method.temperature: temperature = -4.0: a temperature is more than zero"),
    Wrong("duplicate stage names", swap("name: kd", "name: teacher"), "recipe.yaml:9: stages[1].name: stage name 'teacher' is used twice (also by stages[0])"),
    Wrong("not YAML", lambda _: "models: [student, {teacher\nstages: }", "recipe.yaml:2: not YAML:"),
    Wrong("empty", lambda _: "", "recipe.yaml: is empty; a recipe is a mapping"),
    Wrong("a key given twice", swap("    student: student\n", "    student: student\n    student: teacher\n"), "recipe.yaml:11: stages[1].student: this key is given twice, first in line 10"),
    Wrong("code", swap("{kind: kd, temperature: 4}", "!!python/object/apply:os.system [exit]"), "recipe.yaml:12: stages[1].method: the tag !!python/object/apply:os.system is not read"),
    Wrong("a module by name", swap("kind: kd", "kind: os.system"), "recipe.yaml:12: stages[1].method.kind: no method 'os.system'; there are: supervised, slimming"),
    Wrong("teacher with another class count", swap("teacher: digits_cnn", "teacher: {name: digits_cnn, options: {classes: 7}}"), "recipe.yaml:12: stages[1].method: N_t != N_s: the teacher scores 7 classes and the student 10", deep=True),
    Wrong("unreadable weights", swap("teacher: digits_cnn", "teacher: {name: digits_cnn, weights: recipe.yaml}"), "recipe.yaml:3: models.teacher.weights: recipe.yaml cannot be read as a safetensors file", deep=True),
    Wrong("layer that does not exist", swap("{kind: kd, temperature: 4}", "{kind: nst, pairs: [[layr3, layer3]]}"), "recipe.yaml:12: stages[1].method: no layer 'layr3' in digits_cnn_thin; near: layer3", deep=True),
]  # fmt: skip


@pytest.mark.parametrize("wrong", TABLE, ids=lambda wrong: wrong.name)
@pytest.mark.parametrize("command", ["check", "run"])
def test_one_clear_message(wrong, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(wrong.make(GOOD))
    shape = ["--shape-only"] if command == "check" and not wrong.deep else []
    assert main([command, "recipe.yaml", *shape]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.startswith(wrong.message) for line in err.splitlines()] == [True], err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"], "a wrong recipe leaves nothing behind"


def test_the_good_one_passes(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(GOOD)
    assert main(["check", "--shape-only", str(tmp_path / "recipe.yaml")]) == 0
    assert "fine (1 train, 1 distill; digits; 1 seed)" in capsys.readouterr().out


def test_several_problems_are_told_together_and_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        GOOD.replace("temperature: 4", "temperature: -4, sfot: 1").replace("digits_cnn_thin", "x")
    )
    assert main(["check", "recipe.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in lines[:-1]] == ["2", "12", "12"]
    assert lines[-1] == "3 problems"
