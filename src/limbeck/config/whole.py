"""The recipe as a whole: its sections, each built on its own, and what must hold between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from limbeck.config.build import build_dataclass, build_field, refuse_unknown_keys
from limbeck.config.fields import default_of, fields_of, has_default
from limbeck.config.leaves import BROKEN, Broken
from limbeck.config.place import Path, Problem
from limbeck.config.words import shown
from limbeck.models import problem as problem_of_name
from limbeck.recipe import Compress, Distill, Ensemble, Evaluate, Machine, Model, Recipe, Together, Train, problems


class Built(NamedTuple):
    """What came out; the recipe is None where there are problems."""

    recipe: Recipe | None
    machine: Machine
    problems: list[Problem]


def build(data: Any, found: list[Problem]) -> Built:
    """The recipe and the machine in this data; ``found`` are the problems known so far."""
    unread = list(found)
    found = list(found)
    machine = Machine()
    if not isinstance(data, dict):
        text = f"a recipe is a mapping with the keys models and stages; this is {shown(data)}"
        return Built(None, machine, [*found, Problem((), text)])
    if "machine" in data:
        made = build_dataclass(Machine, data["machine"], ("machine",), found)
        machine = made if isinstance(made, Machine) else machine
    parts = _sections(data, found)
    found += _between(parts, data, {problem.path for problem in found})
    if found:
        return Built(None, machine, _without_echoes(found, len(unread)))
    return Built(Recipe(**parts), machine, [])


def _without_echoes(found: list[Problem], first: int) -> list[Problem]:
    """Each problem once, and none about a value that could not be read (the ``first`` ones) in the first place."""
    unread = {problem.path for problem in found[:first]}
    return list(dict.fromkeys([*found[:first], *(p for p in found[first:] if not _repeats(p.path, unread))]))


def _sections(data: Mapping[str, Any], found: list[Problem]) -> dict[str, Any]:
    fields = fields_of(Recipe)
    refuse_unknown_keys(data, [*fields, "machine"], "a recipe", (), found)
    parts: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            parts[name] = build_field(Recipe, name, data[name], (name,), found)
        elif has_default(field):
            parts[name] = default_of(field)
        else:
            found.append(Problem((name,), f"a recipe needs the key {name!r}"))
            parts[name] = BROKEN
    return parts


def _between(parts: Mapping[str, Any], data: Mapping[str, Any], told: set[Path]) -> list[Problem]:
    """What `limbeck.recipe.problems` and the zoo's names say, less what only repeats a problem already told."""
    models = _or(parts["models"], {})
    stages = _or(parts["stages"], ())
    given_stages = data["stages"] if stages else []
    draft = SimpleNamespace(
        models={name: _stand_in_model(name, model, told) for name, model in models.items()},
        stages=tuple(_stand_in_stage(stage, given) for stage, given in zip(stages, given_stages)),
        seeds=_or(parts["seeds"], (0,)),
        baseline=_or(parts["baseline"], None),
    )
    found = [Problem(path, text) for path, text in problems(cast(Recipe, draft))]
    if isinstance(parts["models"], Broken):
        found = [problem for problem in found if not problem.text.startswith("no model ")]
    if isinstance(parts["stages"], Broken):
        found = [problem for problem in found if problem.path[0] not in ("stages", "baseline")]
    found = [
        problem
        for problem in found
        if not (_repeats(problem.path, told) or _made_up(problem.path, stages, given_stages))
    ]
    for name, model in models.items():
        wrong = problem_of_name(model.name) if isinstance(model, Model) else None
        if wrong:
            found.append(Problem(("models", name, "name"), wrong))
    return found


def _or(part: Any, instead: Any) -> Any:
    return instead if isinstance(part, Broken) else part


def _repeats(path: Path, told: set[Path]) -> bool:
    return any(path[:end] in told for end in range(1, len(path) + 1))


def _stand_in_model(name: str, model: Any, told: set[Path]) -> Model:
    """The model; or for one with problems of its own, one that may be used for anything."""
    wrong = any(path[:2] == ("models", name) for path in told)
    return model if isinstance(model, Model) and not wrong else Model(name="?", weights="?")


def _stand_in_stage(stage: Any, given: Any) -> Any:
    """The stage, or for a broken one something with the same names in it."""
    if not isinstance(stage, Broken):
        return stage
    given = given if isinstance(given, dict) else {}
    texts = {
        key: given[key] if isinstance(given.get(key), str) else "?" for key in ("name", "model", "student", "teacher")
    }
    name = texts["name"]
    if given.get("kind") == "evaluate":
        return Evaluate(name=name)
    if given.get("kind") == "together":
        return Together(name=name, students=("?", "?"), method=None)
    if given.get("kind") == "compress":
        return Compress(name=name, model=texts["model"], how=_Anything())
    if given.get("kind") == "ensemble":
        return Ensemble(name=name, members=("?",))
    if given.get("kind") == "distill":
        return Distill(name=name, student=texts["student"], teacher=texts["teacher"], method=None)
    return Train(name=name, model=texts["model"])


@dataclass(frozen=True)
class _Anything:
    """Stands for a compressor that could not be read."""

    def __call__(self, model: Any, *, example: Any, calibration: Any = ()) -> Any:
        return model


def _made_up(path: Path, stages: Any, given: Any) -> bool:
    """Whether a problem is about something that only the stand-in for a broken stage has."""
    if path[0] != "stages" or len(path) < 3 or not isinstance(stages[path[1]], Broken):
        return False
    stage = given[path[1]]
    return not (isinstance(stage, dict) and isinstance(stage.get(path[2]), str))
