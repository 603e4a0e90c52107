"""A recipe: data + models + a list of stages.  Plain data; running it is `limbeck.engine`'s part.

A *shelf* of models goes from stage to stage.  It starts with the recipe's blueprints (a network by
name, fresh, or with weights from a file); each stage puts its result on it under the stage's own
name.  A reference to a model means the newest thing on the shelf under that name.  A blueprint is
initialised from the run's seed and its own name, so that every stage that starts from the same
blueprint starts from the same weights: that is what makes comparisons paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from limbeck.data.spec import Data
from limbeck.errors import RecipeError, unknown
from limbeck.methods.response import Supervised
from limbeck.settings import Training, require


@dataclass(frozen=True, kw_only=True)
class Model:
    """A blueprint.

    Attributes:
        name: a network of the zoo ("resnet20", "wrn_16_2", see ``limbeck models``), or
            "torchvision:NAME", or "timm:NAME".
        weights: a safetensors file to start from, or None for fresh weights.
        options: further keyword arguments of the network's constructor.
    """

    name: str
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one network from labels.

    Attributes:
        name: of the stage and of its result on the shelf.
        model: what to train: a blueprint, or an earlier result to continue from.
        method: `Supervised`, with its label smoothing.
        training: how.
        rows: use only so many training rows (stratified, the same for a given run seed), or all.
        per_seed: train once for every seed of the recipe; False: once, with the first seed, shared by all.
    """

    name: str
    model: str
    method: Any = field(default_factory=Supervised)
    training: Training = field(default_factory=Training)
    rows: int | None = None
    per_seed: bool = True

    def __post_init__(self) -> None:
        if self.rows is not None:
            require(self.rows >= 1, "rows", self.rows, "at least 1, or nothing at all")


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Train a student from a teacher.

    Attributes:
        name: of the stage and of its result on the shelf.
        student: a blueprint, or an earlier result to continue from.
        teacher: an earlier result, or a blueprint with weights.
        method: any method of the catalogue.
        training, rows, per_seed: as in `Train`.
    """

    name: str
    student: str
    teacher: str
    method: Any
    training: Training = field(default_factory=Training)
    rows: int | None = None
    per_seed: bool = True

    def __post_init__(self) -> None:
        if self.rows is not None:
            require(self.rows >= 1, "rows", self.rows, "at least 1, or nothing at all")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure models on one part of the data.

    Attributes:
        name: of the stage.
        models: what to measure; empty: everything on the shelf that was trained or has weights.
        split: "test" or "validation".
    """

    name: str
    models: tuple[str, ...] = ()
    split: Literal["test", "validation"] = "test"


Stage = Train | Distill | Evaluate


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a recipe runs; no part of what it means.

    Attributes:
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: how many processes, one device each.
        threads: CPU threads per process; None leaves torch's own choice.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        require(self.devices >= 1, "devices", self.devices, "at least 1")
        if self.threads is not None:
            require(self.threads >= 1, "threads", self.threads, "at least 1, or nothing at all")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run does.

    Attributes:
        name: what the report calls it.
        models: blueprints by name.
        stages: in order.
        data: see `Data`.
        seeds: one repetition each; three or more make a result.
        baseline: the stage that the others are compared with, seed by seed; None: the first ``train``
            stage of the network that a ``distill`` stage trains.
    """

    name: str = "run"
    models: Mapping[str, Model]
    stages: tuple[Stage, ...]
    data: Data = field(default_factory=Data)
    seeds: tuple[int, ...] = (0,)
    baseline: str | None = None

    def __post_init__(self) -> None:
        found = problems(self)
        if found:
            raise RecipeError("; ".join(text for _, text in found), tuple(text for _, text in found))


Path = tuple[str | int, ...]


def show_path(path: Path) -> str:
    """A place in a recipe, in words.

    >>> show_path(("stages", 1, "method", "temperature"))
    'stages[1].method.temperature'
    """
    text = ""
    for part in path:
        word = str(part) if str(part).isprintable() else repr(part)  # no control characters on the terminal
        text += f"[{part}]" if isinstance(part, int) else f".{word}" if text else word
    return text


_LONGEST = 100  # characters of a stage's name; folders may have 255 bytes


def problems(recipe: Recipe) -> list[tuple[Path, str]]:
    """What is wrong between the parts of a recipe, each with its place; shapes of networks not looked at."""
    found: list[tuple[Path, str]] = []
    if not recipe.stages:
        found.append((("stages",), "a recipe needs at least one stage (train, distill or evaluate)"))
    if not recipe.seeds:
        found.append((("seeds",), "a recipe needs at least one seed"))
    if len(set(recipe.seeds)) != len(recipe.seeds):
        found.append((("seeds",), f"the same seed twice in {list(recipe.seeds)}: repetitions must differ"))
    ready = {name for name, model in recipe.models.items() if model.weights}
    known = set(recipe.models)
    seen: dict[str, int] = {}
    for i, stage in enumerate(recipe.stages):
        place: Path = ("stages", i)
        if not stage.name or set(stage.name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."):
            found.append(((*place, "name"), f"stage name {stage.name!r}: letters, digits, '_', '-' and '.' only"))
        elif stage.name.startswith(".") or len(stage.name) > _LONGEST:  # it names a folder: never "..", never hidden
            shown = stage.name if len(stage.name) <= _LONGEST else stage.name[:20] + "..."
            rule = f"at most {_LONGEST} characters, and no '.' in front, as it names a folder"
            found.append(((*place, "name"), f"stage name {shown!r}: {rule}"))
        if stage.name in seen:
            found.append(
                ((*place, "name"), f"stage name {stage.name!r} is used twice (also by stage {seen[stage.name] + 1})")
            )
        elif alike := next((name for name in seen if name.lower() == stage.name.lower()), None):
            text = f"stage name {stage.name!r} is {alike!r} but for its case; some systems give both one folder"
            found.append(((*place, "name"), text))
        seen[stage.name] = i
        if isinstance(stage, Evaluate):
            found += _unmeasurable(stage, place, bool(ready))
        references = {
            Train: lambda s: {"model": s.model},
            Distill: lambda s: {"student": s.student, "teacher": s.teacher},
            Evaluate: lambda s: {("models", k): m for k, m in enumerate(s.models)},
        }[type(stage)](stage)
        for key, name in references.items():
            where = (*place, *(key if isinstance(key, tuple) else (key,)))
            if name not in known:
                found.append((where, unknown("model", name, sorted(known), "this recipe before that stage")))
            elif name not in ready and (key == "teacher" or isinstance(key, tuple)):
                found.append(
                    (
                        where,
                        f"{name!r} is untrained here: give models.{name} a 'weights' file, "
                        f"or put a train stage named {name!r} before this one",
                    )
                )
        if isinstance(stage, Distill) and stage.student == stage.teacher:
            found.append(((*place, "student"), f"{stage.student!r} is both student and teacher of this stage"))
        if not isinstance(stage, Evaluate):
            known.add(stage.name)
            ready.add(stage.name)
    trained = [s.name for s in recipe.stages if not isinstance(s, Evaluate)]
    if recipe.baseline is not None and recipe.baseline not in trained:
        found.append((("baseline",), unknown("stage", recipe.baseline, trained, "this recipe")))
    return found


def _unmeasurable(stage: Evaluate, place: Path, anything: bool) -> list[tuple[Path, str]]:
    """What keeps an evaluation from measuring each network once."""
    if not stage.models and not anything:
        text = "there is nothing to evaluate: no train or distill stage before this one, and no model with 'weights'"
        return [((*place, "models"), text)]
    twice = [k for k, name in enumerate(stage.models) if name in stage.models[:k]]
    return [((*place, "models", k), f"{stage.models[k]!r} is there twice; once is enough") for k in twice]


def baseline_of(recipe: Recipe) -> str | None:
    """The stage that the others are compared with, chosen if the recipe names none."""
    if recipe.baseline is not None:
        return recipe.baseline
    students = {s.student for s in recipe.stages if isinstance(s, Distill)}
    for stage in recipe.stages:
        if isinstance(stage, Train) and stage.model in students:
            return stage.name
    return None
