"""A recipe: data + models + a list of stages.  Plain data; running it is `limbeck.runner`'s part.

A *shelf* of models goes from stage to stage.  It starts with the recipe's blueprints (a network by
name, fresh, or with weights from a file); each stage puts its result on it under the stage's own
name.  A reference to a model means the newest thing on the shelf under that name.  A blueprint is
initialised from the run's seed and its own name, so that every stage that starts from the same
blueprint starts from the same weights: that is what makes comparisons paired.

What runs is the recipe's *plan*: its stages, with each course replaced by its lessons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from limbeck.data.spec import Data
from limbeck.errors import RecipeError
from limbeck.recipe.plan import course_of, expand, planned
from limbeck.recipe.problems import Path, problems, show_path
from limbeck.recipe.stages import (
    Compress,
    Distill,
    Ensemble,
    Evaluate,
    Fitted,
    Machine,
    Made,
    Model,
    Peer,
    Result,
    Stage,
    Together,
    Train,
    cast_of,
    student_of,
    teachers_of,
)

__all__ = [
    "Compress",
    "Distill",
    "Ensemble",
    "Evaluate",
    "Fitted",
    "Machine",
    "Made",
    "Model",
    "Path",
    "Peer",
    "Recipe",
    "Result",
    "Stage",
    "Together",
    "Train",
    "baseline_of",
    "cast_of",
    "course_of",
    "expand",
    "planned",
    "problems",
    "show_path",
    "student_of",
    "teachers_of",
]


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
        evaluation: the precision in which finished networks are measured, "fp32" (default) or "bf16": some three times
            as fast on GPUs and on CPUs with AMX, twice on those with AVX512-BF16, and an accuracy may differ by a
            hundredth of a percent.  Networks in int8 are measured as they are; the validation during a training has
            that training's precision.
    """

    name: str = "run"
    models: Mapping[str, Model]
    stages: tuple[Stage, ...]
    data: Data = field(default_factory=Data)
    seeds: tuple[int, ...] = (0,)
    baseline: str | None = None
    evaluation: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        found = problems(self)
        if found:
            raise RecipeError("; ".join(text for _, text in found), tuple(text for _, text in found))

    @cached_property
    def plan(self) -> tuple[Stage, ...]:
        """The stages that run, in order."""
        return tuple(part.stage for part in planned(self.stages))


def baseline_of(recipe: Recipe) -> str | None:
    """The stage that the others are compared with, chosen if the recipe names none."""
    if recipe.baseline is not None:
        return recipe.baseline
    students = {student_of(s) for s in recipe.stages if isinstance(s, Distill)}
    students |= {name for s in recipe.plan if isinstance(s, Together) for name in s.students}
    for stage in recipe.plan:
        if isinstance(stage, Train) and stage.model in students:
            return stage.name
    return None
